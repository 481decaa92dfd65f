"""The page of a scored folder: histogram with the line, and the most anomalous images with maps."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.express as px

from clad_lib.look import report, theme
from clad_lib.look.images import image_rows
from clad_lib.study.store import write_atomically


def write_page(
    path: Path,
    detector: Any,
    said: Mapping[str, Any],
    scores: np.ndarray,
    top: Sequence[Any],
    drift: Any = None,
) -> None:
    """Write one page that needs no network, whole or not at all.

    `said` is what was found, name -> value; scores (N,) of all images; `top` are the most anomalous
    ones: score, path, image (C, S, S) uint8; `drift` what the stream of scores says.
    """
    line, pictures = detector.threshold.value, np.stack([image for *_, image in top])
    figure = px.histogram(x=scores, nbins=60).add_vline(line, line=theme.DASHED)
    note = f"Right of the dashed line, {line:.4g}, an image alarms."
    axes: Any = {"xaxis_title": "anomaly score (higher = more anomalous)", "yaxis_title": "images"}
    theme.finish(figure, title="Scores of the images", note=note, **axes)
    rows = {"image": pictures} | maps_of(detector, pictures)
    note = (
        "In the order of the list below; maps are bright where an image differs from those nearest."
    )
    gallery = image_rows(rows, title="The most anomalous images", note=note)
    lines = "".join(f"<li>{score:.4g} {html.escape(name)}</li>" for score, name, _ in top)
    parts = {
        "What was found": "".join(f"<p>{k}: {html.escape(str(v))}</p>" for k, v in said.items()),
        "Scores": report.drawn(figure.to_json() or ""),
        "The most anomalous images": f"{report.drawn(gallery.to_json() or '')}<ol>{lines}</ol>",
    }
    if drift is not None:
        figure = px.line(y=drift.capital).add_hline(-np.log10(drift.level), line=theme.DASHED)
        theme.finish(
            figure,
            title="Capital of a bet that something changed",
            note="Above the dashed line the images are not like those of calibration any more.",
            xaxis_title="image, in the order of paths",
            yaxis_title="powers of ten",
        )
        parts["Drift"] = f"<p>{drift.text}</p>{report.drawn(figure.to_json() or '')}"
    write_atomically(path, report.page("Scores of a folder of images", parts, ()))


def maps_of(detector: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """The maps of images (N, C, S, S) as grey images of their size, white the strongest cell."""
    maps = [detector.explain(image).map for image in images]
    if maps[0] is None:
        return {}
    size = images.shape[2]
    cells = np.arange(size) * maps[0].shape[0] // size  # (S,)
    shares = np.stack(maps)[:, None, cells][..., cells] / (np.max(maps) or 1)  # (N, 1, S, S)
    return {"its map": shares.repeat(images.shape[1], 1)}
