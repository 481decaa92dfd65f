"""Figures made of images: grids of classes, reconstructions, and the images a score gets most wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from clad_lib.plots.theme import ANOMALOUS, NORMAL, WIDTH, Look, finish, finite, names_for, plain, same_length

CELL = 56  # px an image at most takes in a figure


def image_rows(
    rows: Mapping[str, np.ndarray],
    *,
    title: str,
    note: str,
    captions: Sequence[Sequence[str]] | None = None,
    looks: Sequence[Look] | None = None,
    alt: str | None = None,
) -> go.Figure:
    """Rows of images under their names, as one picture whose pixels stay square.

    rows: name -> images (n, C, H, W), uint8 or float in [0, 1], C 1 or 3, of one size. captions: a text for each image;
    looks: a bar for each row, at its left. Raises ValueError for no rows, mixed sizes, and other shapes.
    """
    if not rows:
        raise ValueError("got no rows of images: expected at least one")
    parts = [as_bytes(images) for images in rows.values()]
    picture, pitch = montage(parts, below=0.4 if captions else 0.0)
    columns = max(len(part) for part in parts)
    cell = min(CELL, (WIDTH - 70 - 7 * max(map(len, rows))) / (columns + 0.6)) * (0.65 if len(parts) > 20 else 1)
    height = round(len(parts) * cell * pitch[0] / pitch[1]) + 106
    size = parts[0].shape[2]
    few = picture[..., 0].size < 120_000  # plotly draws these in squares itself; 500 photos would take it 20 s
    source, step = as_uri(picture, scale=1.0 if few else cell / parts[0].shape[3])
    origin = (step - 1) / 2  # pixels are drawn round their centres
    sheet = go.Image(source=source, zsmooth=not few and "fast", hoverinfo="skip", x0=origin, y0=origin, dx=step, dy=step)
    figure = go.Figure(sheet)
    centres = np.arange(len(parts)) * pitch[0] + size / 2 - 0.5
    figure.update_xaxes(visible=False, range=[-0.6 * size - 0.5, columns * pitch[1]], constrain="domain")
    figure.update_xaxes(constraintoward="left")
    figure.update_yaxes(
        tickvals=centres, ticktext=[plain(name) for name in rows], showgrid=False, ticks="", scaleanchor="x",
        range=[len(parts) * pitch[0] - 0.5, -1.5], constrain="domain", constraintoward="top",
    )  # fmt: skip
    for row, texts in enumerate(captions or ()):
        _caption(figure, texts, y=centres[row] + size * 0.53, step=pitch[1], start=parts[0].shape[3] / 2 - 0.5)
    for row, one in enumerate(looks or ()):
        figure.add_shape(
            type="line", x0=-0.3 * size, x1=-0.3 * size, y0=row * pitch[0] - 0.5, y1=row * pitch[0] + size - 0.5,
            line=dict(color=one.colour, dash="solid" if one.dash == "solid" else "2px,2px", width=5),
        )  # fmt: skip
    text = alt or f"{title}. Rows of images: {'; '.join(f'{name}, {len(images)}' for name, images in rows.items())}."
    return finish(figure, title=title, note=note, alt=text, height=height, bottom=20)


def _caption(figure: go.Figure, texts: Sequence[str], *, y: float, step: float, start: float) -> None:
    for column, text in enumerate(texts):
        figure.add_annotation(x=start + column * step, y=y, text=plain(text), showarrow=False, yanchor="top", font_size=12)


def class_grid(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str],
    normal: Collection[int],
    columns: int = 12,
    title: str = "What is normal, and what is not",
    note: str = "One class a row, the normal ones first (solid bar); a detector sees only those, without their names.",
) -> go.Figure:
    """The first images of each class, normal classes above anomalous ones; images (N, C, H, W), labels (N,)."""
    same_length(images=images, labels=labels)
    labels = np.asarray(labels)
    titles = names_for(labels, names)
    order = sorted(titles, key=lambda label: (label not in normal, label))
    words = {label: "normal" if label in normal else "anomalous" for label in order}
    rows = {f"{names[k]} · {words[k]}": np.asarray(images)[np.flatnonzero(labels == k)[:columns]] for k in order}
    looks = [NORMAL if label in normal else ANOMALOUS for label in order]
    listed = {word: ", ".join(str(names[k]) for k in order if words[k] == word) for word in ("normal", "anomalous")}
    told = [f"{word}: {found or 'none'}" for word, found in listed.items()]
    alt = f"Image grid, one class a row; {'; '.join(told)}."
    return image_rows(rows, title=title, note=note, looks=looks, alt=alt)


def reconstructions(
    originals: np.ndarray,
    rebuilt: np.ndarray,
    *,
    columns: int = 12,
    title: str = "What the autoencoder keeps",
    note: str = "Each image above what comes back through the latent, and the absolute difference below (white = 255).",
) -> go.Figure:
    """The first images, their reconstructions and the difference; both (N, C, H, W), uint8 or float in [0, 1]."""
    same_length(images=originals, reconstructions=rebuilt)
    before, after = as_bytes(originals[:columns]), as_bytes(rebuilt[:columns])
    if before.shape != after.shape:
        raise ValueError(f"got images {before.shape} and reconstructions {after.shape}: expected one shape")
    gap = np.abs(before.astype(np.int16) - after).astype(np.uint8)
    error = float(np.square(gap / 255.0).mean())
    alt = f"{len(before)} images, their reconstructions and the differences; mean squared error {error:.4f}."
    return image_rows(
        {"original": before, "reconstruction": after, "difference": gap}, title=title, alt=alt,
        note=f"{note} Mean squared error of these: {error:.4f}.",
    )  # fmt: skip


def extreme_images(
    images: np.ndarray,
    scores: np.ndarray,
    anomaly: np.ndarray,
    *,
    columns: int = 12,
    title: str = "Where the score is most wrong",
    note: str = "The anomalies with the lowest scores and the normal images with the highest; below each, its score.",
) -> go.Figure:
    """The most normal-looking anomalies and the most anomalous-looking normals.

    images (N, C, H, W); scores (N,), higher = more anomalous; anomaly (N,) bool. A row with no image is left out.
    """
    same_length(images=images, scores=scores, anomaly=anomaly)
    scores, anomaly = finite("scores", scores), np.asarray(anomaly, dtype=bool)
    order = np.argsort(scores, kind="stable")
    picks = {
        "anomalies that look normal": order[anomaly[order]][:columns],
        "normals that look anomalous": order[~anomaly[order]][::-1][:columns],
    }
    picks = {name: rows for name, rows in picks.items() if len(rows)}
    return image_rows(
        {name: np.asarray(images)[rows] for name, rows in picks.items()}, title=title, note=note,
        captions=[short_scores(scores[rows], scores.std()) for rows in picks.values()],
        looks=[ANOMALOUS if name.startswith("anomalies") else NORMAL for name in picks],
        alt="; ".join(f"{name}: scores {', '.join(short_scores(scores[rows], scores.std()))}" for name, rows in picks.items()),
    )  # fmt: skip


def short_scores(scores: np.ndarray, spread: float) -> list[str]:
    """Scores with as many decimals as tell a tenth of their spread."""
    decimals = int(np.clip(1 - np.floor(np.log10(spread)), 0, 6)) if spread > 0 else 3
    return [f"{score:.{decimals}f}".replace("-", "\N{MINUS SIGN}") for score in scores]


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Images as uint8 (N, C, H, W), from uint8 or from float in [0, 1]; ValueError for any other shape."""
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not array.size:
        raise ValueError(f"got images of shape {array.shape}: expected (N, C, H, W) with C 1 or 3, N at least 1")
    if array.dtype == np.uint8:
        return array
    return (np.clip(finite("pixels", array), 0, 1) * 255).round().astype(np.uint8)


def montage(rows: Sequence[np.ndarray], *, below: float = 0.0) -> tuple[np.ndarray, tuple[float, float]]:
    """Rows of uint8 images (n, C, H, W) on one white sheet (height, width, C), and the pitch of its rows and columns.

    `below` leaves room under each row, as a share of H. Raises ValueError for images of different sizes.
    """
    shapes = {row.shape[1:] for row in rows}
    if len(shapes) > 1:
        raise ValueError(f"got images of sizes {sorted(shapes)}: expected one size (C, H, W)")
    channels, height, width = rows[0].shape[1:]
    gap = max(1, round(height / 14))
    down, across = height + gap + round(below * height), width + gap
    sheet = np.full((len(rows) * down, max(map(len, rows)) * across, channels), 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            sheet[i * down : i * down + height, j * across : j * across + width] = image.transpose(1, 2, 0)
    return sheet, (down, across)


def as_uri(picture: np.ndarray, *, scale: float = 1.0) -> tuple[str, float]:
    """A sheet (height, width, 1 or 3) uint8 as a data URI, grey as PNG and colour as JPEG, and its pixels' new size.

    scale: pixels of the screen a pixel of the sheet will take. Small images are enlarged in squares, so that smoothing
    does not blur them; large ones are reduced to what can be seen.
    """
    times, shrink = max(1, round(scale)), min(1.0, 1.5 * scale)
    stream, grey = io.BytesIO(), picture.shape[2] == 1
    sheet = Image.fromarray((picture[..., 0] if grey else picture).repeat(times, 0).repeat(times, 1))
    if shrink < 1:
        sheet = sheet.resize((round(sheet.width * shrink), round(sheet.height * shrink)), Image.Resampling.BOX)
    if grey:
        sheet.save(stream, "png", optimize=True)
    else:
        sheet.save(stream, "jpeg", quality=85, subsampling=0)
    uri = f"data:image/{'png' if grey else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode()}"
    return uri, picture.shape[1] / sheet.width
