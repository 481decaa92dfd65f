"""Which files of a folder are pictures, and all of them as one array or as a stream of batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from clad_lib.data.pictures import DataError, decode, highest_values, shown

PROGRAMS = {"__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"}
LARGEST = 256  # pixels a side, unless a size is given


class Skipped(NamedTuple):
    """A file that is left out, or with `used` one that is read in part, and why."""

    path: Path
    reason: str  # what differs from file to file stands in brackets at its end
    used: bool = False


def in_words(skipped: Sequence[Skipped]) -> str:
    """One line that counts the reasons, with a file for each; empty where there are none."""
    groups: dict[str, list[str]] = {}
    for each in skipped:
        groups.setdefault(each.reason.split(" (")[0], []).append(shown(each.path))
    return ", ".join(
        f"{len(names)} {reason} (such as {names[0]})" for reason, names in groups.items()
    )


def image_files(folder: str | Path, *, strict: bool = False) -> tuple[list[Path], list[Skipped]]:
    """The pictures in a folder and below it, sorted, and what was left out.

    Left out are files and folders whose name starts with a dot or belongs to another program, names
    that end in no suffix of Pillow's, files without a byte and links to nowhere. Other links are
    followed; each folder is read once, so that loops end.
    Raises DataError where no picture is found, and with `strict` where anything is left out.
    """
    waiting, places = [Path(folder)], dict[str, Path]()
    files: list[Path] = []
    skipped: list[Skipped] = []
    while waiting:
        path = waiting.pop()
        if reason := _why_not(path, places):
            skipped.append(Skipped(path, reason))
        elif os.path.isdir(path):
            try:
                entries = sorted(path.iterdir(), reverse=True)
            except OSError as error:
                skipped.append(Skipped(path, f"a folder that cannot be read ({error.strerror})"))
                continue
            places[os.path.realpath(path)] = path
            # The last is the next: links wait until all that they may lead to was read.
            waiting[:0] = [entry for entry in entries if os.path.islink(entry)]
            waiting += [entry for entry in entries if not os.path.islink(entry)]
        else:
            files.append(path)
    empty = set(places.values()).difference(*(file.parents for file in files))
    skipped += [Skipped(place, "a folder without pictures") for place in empty]
    if not files or (strict and skipped):
        wanted = "nothing but pictures" if files else "pictures"
        raise DataError(f"{shown(folder)}: expected {wanted}, got {in_words(skipped)}")
    return sorted(files), sorted(skipped)


def _why_not(path: Path, places: Mapping[str, Path]) -> str:
    """Why a file or folder is left out for its name or kind; empty if it is not."""
    suffixes = Image.registered_extensions()
    name, is_file, is_folder = path.name.lower(), os.path.isfile(path), os.path.isdir(path)
    reasons = {
        "hidden or of another program": places and (name[0] == "." or name in PROGRAMS),
        "a link to nowhere or no regular file": not (is_file or is_folder),
        "no picture by its name": is_file and path.suffix.lower() not in suffixes,
        "zero bytes": is_file and not os.path.getsize(path),
        "a link to a folder that was read already": is_folder and os.path.realpath(path) in places,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def read_folder(
    folder: str | Path | list[Path],
    *,
    size: int | None = None,
    channels: int | None = None,
    strict: bool = False,
    highest: Mapping[str, float] | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, list[Path], list[Skipped]]:
    """All pictures of a folder, or of a list of files, as one array.

    Returns images (N, C, S, S) uint8, the file of each, and what is left out or read in part.
    Without a `size` all must be square and of one side, a multiple of 4 of at most 256 pixels.
    Without `channels` there are three as soon as one picture is in colour. `highest` is the result
    of `highest_values` for the set that the pictures belong to, by default they themselves.
    Raises DataError for other sides, where nothing can be read, and with `strict` where anything
    is left out.
    """
    files, skipped = (
        (folder, []) if isinstance(folder, list) else image_files(folder, strict=strict)
    )
    options: Any = dict(size=size, channels=channels, strict=strict, highest=highest)
    kept, images = zip(*_pictures(files, skipped, progress=progress, **options), strict=True)
    most = max(len(pixels) for pixels in images)
    whole = [np.broadcast_to(pixels, (most, *pixels.shape[1:])) for pixels in images]
    return np.stack(whole), list(kept), skipped


def stream_folder(
    folder: str | Path, *, batch: int = 256, strict: bool = False, **options: Any
) -> Iterator[tuple[list[Path], np.ndarray, list[Skipped]]]:
    """A folder of any length in batches: files, images (B, C, S, S) uint8, what is left out so far.

    The last is one list that grows, and is complete when the iterator ends. `options` are the size,
    the channels, highest and progress of `read_folder`, the first two needed. Raises DataError as
    `read_folder` does.
    """
    files, skipped = image_files(folder, strict=strict)
    pictures = _pictures(files, skipped, strict=strict, **options)
    while chunk := list(islice(pictures, batch)):
        paths, images = zip(*chunk, strict=True)
        yield list(paths), np.stack(images), skipped


def _pictures(
    files: Sequence[Path],
    skipped: list[Skipped],
    *,
    size: int | None,
    channels: int | None,
    strict: bool = False,
    highest: Mapping[str, float] | None = None,
    progress: bool = True,
) -> Iterator[tuple[Path, np.ndarray]]:
    """Each file that can be read, with its pixels; the others and remarks go to `skipped`."""
    if size is not None and (size < 4 or size % 4):
        raise DataError(f"size is {size}: expected a multiple of 4 pixels, such as --size 64")
    bar = partial(tqdm, leave=False, unit="image", disable=not progress)
    if highest is None:
        highest = highest_values(bar(files, "looking for deep pixels"))
    first: tuple[Path, np.ndarray] | None = None
    for file in bar(files, "decoding"):
        try:
            pixels, remarks = decode(
                file,
                channels=channels,
                size=size,
                highest=highest,
                where=shown(file) if strict else "",
            )
        except DataError as error:
            if strict:
                raise
            skipped.append(Skipped(file, str(error)))
            continue
        skipped += [Skipped(file, remark, used=True) for remark in remarks]
        first = first or (file, pixels)
        if size is None:
            _check_sides(*first, file, pixels)
        yield file, pixels
    if first is None:
        raise DataError(f"no picture could be read: {in_words(skipped)}")


def _check_sides(first: Path, expected: np.ndarray, file: Path, pixels: np.ndarray) -> None:
    (_, height, width), (_, rows, columns) = expected.shape, pixels.shape
    if (rows, columns) != (height, height) or height != width or height % 4 or height > LARGEST:
        sides = f"{shown(first)} is {width}x{height}", f"{shown(file)} is {columns}x{rows}"
        raise DataError(
            f"{' and '.join(dict.fromkeys(sides))}: expected squares of one side, a multiple of 4 "
            f"of at most {LARGEST} pixels; give the side to which all are brought, such as "
            "--size 64"
        )
