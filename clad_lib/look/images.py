"""Pictures made of images: classes, reconstructions, extreme scores, centroids, maps of a score."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import plotly.express as px
from PIL import Image
from plotly.graph_objects import Figure

from clad_lib.judge.metrics import finite
from clad_lib.look.theme import TEMPLATE, finish, plain


def image_rows(
    rows: Mapping[str, np.ndarray], *, title: str, note: str = "", alt: str = ""
) -> Figure:
    """Rows of images under their names, as one picture whose pixels stay square.

    rows: name -> images (n, C, H, W), uint8 or float in [0, 1], C 1 or 3, of one size; a line feed
    in a name begins a second line.
    """
    sheet = montage([*rows.values()])
    form = "png" if sheet.ndim == 2 else "jpg"  # photographs would be five times as large as PNG
    figure = px.imshow(sheet, binary_string=True, binary_format=form)
    figure.update_traces(hoverinfo="skip", hovertemplate=None)
    middles = (np.arange(len(rows)) + 0.45) * len(sheet) / len(rows)
    texts = [plain(name).replace("\n", "<br>") for name in rows]
    cell = min(54, 800 / max(map(len, rows.values())), max(20, 900 / len(rows)))  # px
    return finish(
        figure,
        title=title,
        note=note,
        alt=alt or f"{'; '.join(' '.join(name.split()) for name in rows)}.",
        height=round(len(rows) * cell) + 110,
        xaxis={"visible": False, "constraintoward": "left"},
        yaxis={"tickvals": middles, "ticktext": texts, "showgrid": False, "ticks": ""},
        yaxis_ticklabelstandoff=6,
        yaxis_constraintoward="top",
        margin_b=20,
    )


def class_grid(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str],
    normal: Collection[int],
) -> Figure:
    """The first 12 of images (N, C, H, W) of each class, labels (N,), normal classes on top."""
    classes = sorted(np.unique(labels), key=lambda label: (label not in normal, label))
    rows = {
        f"{names[label]} · {'normal' if label in normal else 'anomalous'}": images[
            np.asarray(labels) == label
        ][:12]
        for label in classes
    }
    return image_rows(
        rows,
        title="What is normal, and what is not",
        note="One class a row, normal ones on top. A detector learns from such, without names.",
    )


def reconstructions(originals: np.ndarray, rebuilt: np.ndarray) -> Figure:
    """Images (N, C, H, W), their reconstructions, and the absolute difference, white where 1."""
    rows = {"original": as_bytes(originals), "reconstruction": as_bytes(rebuilt)}
    gap = np.abs(np.subtract(*rows.values(), dtype=np.int16)).astype(np.uint8)
    return image_rows(
        rows | {"difference": gap},
        title="What the autoencoder keeps",
        note="Each image, what comes back through the latent, and how far the two differ. "
        f"Mean squared error of these: {np.square(gap / 255).mean():.4f}, pixels in [0, 1].",
        alt=f"{len(gap)} images.",
    )


def extreme_images(
    images: np.ndarray,
    scores: np.ndarray,
    anomaly: np.ndarray,
    *,
    title: str = "Where the score is most wrong",
) -> Figure:
    """The 12 anomalies that look most normal, and normal images that look most anomalous.

    images (N, C, H, W); scores (N,), higher = more anomalous; anomaly (N,) bool. A kind without
    images has no row.
    """
    order = np.argsort(finite(scores, "scores"), kind="stable")
    found = np.asarray(anomaly, bool)[order]
    picks = {
        "anomalies that look normal": order[found][:12],
        "normals that look odd": order[~found][::-1][:12],
    }
    rows = {
        f"{name}\n({scores[pick[0]]:.4g} to {scores[pick[-1]]:.4g})": images[pick]
        for name, pick in picks.items()
        if len(pick)
    }
    return image_rows(
        rows,
        title=title,
        note="The first of a row is the worst; in brackets its score and that of the last.",
    )


def patch_dictionary(
    filters: np.ndarray,
    *,
    title: str = "The patch dictionary",
) -> Figure:
    """Centroids (K, C, h, w) of any range as small pictures, 25 a row, numbered along the rows."""
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    cells = 0.5 + 0.5 * filters / np.where(largest > 0, largest, 1)
    rows = {str(at): cells[at : at + 25] for at in range(0, len(cells), 25)}
    return image_rows(
        rows,
        title=title,
        note="One centroid a cell, a patch less its mean, each on its own scale: grey is 0.",
        alt=f"{len(cells)} centroids.",
    )


def score_map(image: np.ndarray, scores: np.ndarray) -> Figure:
    """An image (C, H, W) beside the map (h, w) of its score, whose cells cover it."""
    (height, width), left = scores.shape, -1.06 * scores.shape[1] - 0.5
    large = as_bytes(image[None])[0].repeat(8, 1).repeat(8, 2)  # browsers would blur it
    figure = px.imshow(scores, labels={"color": "squared distance in the cell"}, template=TEMPLATE)
    figure.add_layout_image(
        source=as_uri(large.transpose(1, 2, 0)),
        x=left,
        y=-0.5,
        sizex=width,
        sizey=height,
        sizing="stretch",
        xref="x",
        yref="y",
    )
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    return finish(
        figure,
        title="Where the score comes from",
        note="Left the image, right its map: bright cells differ most from the nearest images.",
        alt=f"The brightest of {height} by {width} cells: row {row + 1}, column {column + 1}.",
        height=420,
        xaxis={"visible": False, "range": [left, width - 0.5]},
        yaxis_visible=False,
    )


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Images as uint8 (N, C, H, W), from uint8 or from floats in [0, 1].

    Raises ValueError for other shapes, and for pixels that are not finite.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise ValueError(
            f"got images {images.shape}: expected (N, C, H, W), C 1 or 3, N at least 1"
        )
    if images.dtype == np.uint8:
        return images
    pixels = finite(images.ravel(), "pixels").reshape(images.shape)
    return (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)


def montage(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of images (n, C, H, W) of one size on a white sheet (height, width[, 3]) uint8."""
    most, gap = max(map(len, rows)), max(1, round(rows[0].shape[2] / 14))
    edges = [((0, most - len(row)), (0, 0), (0, gap), (0, gap)) for row in rows]
    parts = [np.pad(as_bytes(r), e, constant_values=255) for r, e in zip(rows, edges, strict=True)]
    cells = np.stack(parts).transpose(0, 3, 1, 4, 2)  # (R, H, n, W, C)
    sheet = cells.reshape(-1, most * cells.shape[3], cells.shape[4])
    return sheet[..., 0] if sheet.shape[2] == 1 else sheet


def as_uri(image: np.ndarray) -> str:
    """An image or a sheet, uint8 (H, W) or (H, W, 1 or 3), as the data URI of a PNG."""
    stream, grey = io.BytesIO(), image.shape[2:] == (1,)
    Image.fromarray(image[..., 0] if grey else image).save(stream, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
