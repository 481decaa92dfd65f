"""How one file becomes pixels; each rule is stated here once.

Depth: 8-bit pixels stay as they are. Deeper grey pixels (16 bits, 12 bits in 16, 32-bit integers,
floats) are scaled: full white is the least of `WHITE` that holds the largest value of the whole
set, found for each kind of number by itself. Deeper colour keeps its high byte.
Colour: alpha is laid on white; palettes and CMYK become RGB; colour profiles are not applied; a
picture whose pixels are all grey is grey. Tags of orientation are applied. Of several frames the
first is read. Size: the longer side is brought to the size asked for, the shorter one is filled up
with the colours of the border.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

WHITE = (1.0, *(2.0**bits - 1 for bits in (8, 10, 12, 14, 16, 24, 31, 32)))  # 1: floats alone
DEEP = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}  # Pillow's grey modes beyond 8 bits
INTERPRETATION, WHITE_IS_ZERO = 262, 0  # a tag of TIFF, which Pillow applies to 8 bits alone
SHRINK = 4  # a picture that shrinks more than this loses its details
FOREIGN = {"EPS", "WMF", "EMF", "FPX", "MIC"}  # Pillow hands them to other programs


class DataError(ValueError):
    """Data that are missing, damaged or inconsistent: what was got, what was expected, the cure."""


def shown(path: str | Path) -> str:
    """A path for messages: bytes of its name that are no text are written as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def decode(
    source: str | Path | bytes,
    *,
    channels: int | None = None,
    size: int | None = None,
    highest: Mapping[str, float] | None = None,
    stretch: bool = False,
    where: str = "",
) -> tuple[np.ndarray, list[str]]:
    """One picture, a file or its bytes, as uint8 pixels, and remarks on what was lost.

    The pixels are (C, S, S), or (C, H, W) without a size; `stretch` gives up the ratio of the
    sides. `channels` is 1, 3, or None for those the picture has; `highest` the result of
    `highest_values` for the set that the picture belongs to. Raises DataError with the reason
    alone, or with `where` the picture lies and the cure.
    """
    try:
        with _open(source) as image:
            remarks = ["first of several frames"] if getattr(image, "is_animated", False) else []
            ImageOps.exif_transpose(image, in_place=True)
            picture = _eight_bits(image, highest or {})
    except Exception as error:  # Pillow raises anything on damaged bytes
        unknown = isinstance(error, UnidentifiedImageError)
        what = "of no known format" if unknown else " ".join(str(error).split())
        reason = what if isinstance(error, DataError) else f"not a readable image ({what})"
        raise DataError(f"{where}: {reason}; replace or remove it" if where else reason) from error
    if channels is not None:
        picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None:
        remarks += [f"shrunk more than {SHRINK} times"] * (max(picture.size) > SHRINK * size)
        picture = _squared(picture, size, stretch)
    pixels = np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)
    grey = channels is None and (pixels == pixels[:1]).all()
    return np.ascontiguousarray(pixels[:1] if grey else pixels), remarks


def _open(source: str | Path | bytes) -> Image.Image:
    Image.init()
    formats = [kind for kind in Image.ID if kind not in FOREIGN]
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)


def _eight_bits(image: Image.Image, highest: Mapping[str, float]) -> Image.Image:
    """The picture as L or RGB: deep pixels scaled, what is transparent laid on white."""
    if image.mode in DEEP:
        pixels = np.asarray(image)
        scaled = to_bytes(pixels, highest=highest.get(pixels.dtype.kind))
        dark = getattr(image, "tag_v2", {}).get(INTERPRETATION) == WHITE_IS_ZERO
        return Image.fromarray(255 - scaled if dark else scaled)
    if image.has_transparency_data:
        sheet = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(sheet, image.convert("RGBA")).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _squared(picture: Image.Image, size: int, stretch: bool) -> Image.Image:
    scale = size / max(picture.size)
    width, height = (size if stretch else max(1, round(side * scale)) for side in picture.size)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    gaps = [((size - side) // 2, (size - side + 1) // 2) for side in (height, width)]
    return Image.fromarray(np.pad(pixels, gaps + [(0, 0)] * (pixels.ndim - 2), "edge"))


def to_bytes(pixels: np.ndarray, *, highest: float | None = None) -> np.ndarray:
    """Pixels deeper than 8 bits as uint8: 255 x / white, rounded.

    White is the least of `WHITE` that holds `highest`, which is the largest of `pixels` by default.
    Raises DataError for values that are negative, not finite or above white.
    """
    low, high = float(pixels.min()), float(pixels.max())
    levels = WHITE if pixels.dtype.kind == "f" else WHITE[1:]
    most = high if highest is None else highest
    white = next((level for level in levels if most <= 1.01 * level), np.nan)
    if not 0 <= low <= high <= 1.01 * white:  # 1 %: floats that were resampled overshoot a little
        raise DataError(f"values out of range ({low:g} to {high:g}, expected 0 to {white:g})")
    return np.rint(np.minimum(pixels * (255 / white), 255)).astype(np.uint8)


def highest_values(sources: Iterable[str | Path | bytes]) -> dict[str, float]:
    """The largest value of each kind of deep number in a set: u unsigned, i signed, f float."""
    highest: dict[str, float] = {}
    for source in sources:
        with suppress(Exception), _open(source) as image:  # what cannot be read is refused later
            if image.mode in DEEP:
                pixels = np.asarray(image)
                most = float(pixels.max(where=np.isfinite(pixels), initial=0))
                highest[pixels.dtype.kind] = max(most, highest.get(pixels.dtype.kind, 0.0))
    return highest
