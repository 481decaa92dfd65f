"""The latent space as a map, and what one boundary around it encloses that several do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.interpolate import RegularGridInterpolator

from clad_lib.plots.theme import (
    ANOMALOUS,
    INK,
    NORMAL,
    PALETTE,
    SCALE,
    colour_bar,
    finish,
    finite,
    look,
    names_for,
    plain,
    same_length,
)  # fmt: skip

AXES = ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)")


def latent_scatter(
    points: np.ndarray,
    values: np.ndarray,
    *,
    kind: Literal["categorical", "continuous"] = "categorical",
    meaning: str = "cluster",
    names: Sequence[str] | None = None,
    hover: Mapping[str, np.ndarray] | None = None,
    axes: tuple[str, str] = AXES,
    title: str = "Map of the latent space",
    note: str = "Each mark is an image; images that lie close have similar latents. Distances between groups mean little.",
) -> go.Figure:
    """A map of points (N, 2), coloured by values (N,): integer categories, or numbers on a scale.

    meaning: what the values are, with the unit; names: of the categories, by value; hover: name -> (N,) numbers or texts
    to show under the pointer beside the row number. Drawn by WebGL: 10,000 points and more stay fluid.
    """
    points, values = finite("points", points), finite("values", values)
    same_length(points=points, values=values, **dict(hover or {}))
    size = float(np.clip(260 / np.sqrt(len(points)), 4, 9))
    extra = {"image": np.arange(len(points))} | {plain(key): np.asarray(data) for key, data in (hover or {}).items()}
    if kind == "categorical":
        found, figure = names_for(values, names, word=meaning), go.Figure()
        for value, name in found.items():
            style = dict(color=look(value).colour, symbol=look(value).symbol, size=size)
            figure.add_trace(_marks(points, extra, values == value, name, style))
        figure.update_layout(showlegend=True, legend_title_text=plain(meaning))
        told = f"{len(found)} groups by {meaning}: {', '.join(f'{n} {(values == v).sum()}' for v, n in found.items())}"
    else:
        style = dict(color=values, colorscale=SCALE, colorbar=colour_bar(plain(meaning)), showscale=True, size=size)
        everywhere = np.ones(len(points), dtype=bool)
        figure = go.Figure(_marks(points, extra | {plain(meaning): values}, everywhere, plain(meaning), style))
        told = f"coloured by {meaning}, from {values.min():.3g} to {values.max():.3g}"
    bare = dict(showticklabels=False, ticks="", showgrid=False, constrain="domain")
    figure.update_xaxes(title=axes[0], **bare)
    figure.update_yaxes(title=axes[1], scaleanchor="x", **bare)
    return finish(figure, title=title, note=note, alt=f"Scatter of {len(points)} images, {told}.", height=600)


def _marks(
    points: np.ndarray, hover: Mapping[str, np.ndarray], rows: np.ndarray, name: str, marker: dict[str, Any]
) -> go.Scattergl:
    columns = [column[rows] for column in hover.values()]
    numeric = all(column.dtype.kind in "biuf" for column in columns)  # goes out as bytes: a tenth of the size of texts
    data = np.stack([c.astype(np.float32) if numeric else _texts(c) for c in columns], axis=1)
    lines = [
        f"{key}: %{{customdata[{i}]{':.4~g' if numeric and column.dtype.kind == 'f' else ''}}}"
        for i, (key, column) in enumerate(zip(hover, columns, strict=True))
    ]
    return go.Scattergl(
        x=points[rows, 0].astype(np.float32), y=points[rows, 1].astype(np.float32), name=name, mode="markers",
        marker=dict(opacity=0.85) | marker, customdata=data,
        hovertemplate="<br>".join(lines) + "<extra>%{fullData.name}</extra>",
    )  # fmt: skip


def _texts(column: np.ndarray) -> np.ndarray:
    form = "{:.4g}".format if column.dtype.kind == "f" else plain
    return np.array([form(value) for value in column], dtype=object)


def two_boundaries(
    normals: np.ndarray,
    anomalies: np.ndarray,
    *,
    x: np.ndarray,
    y: np.ndarray,
    single: tuple[np.ndarray, float],
    conditional: tuple[np.ndarray, float],
    inside: tuple[float, float] | None = None,
    alarms: tuple[float, float] | None = None,
    labels: np.ndarray | None = None,
    drawn: int = 400,
    axes: tuple[str, str] = ("latent 1 (no unit)", "latent 2 (no unit)"),
    title: str = "One boundary, or one a latent class",
    note: str = "Shaded: called normal, by thresholds for the same false-alarm rate. Look at the gaps between latent classes.",
) -> go.Figure:
    """Normals (N, 2) and anomalies (M, 2) under one boundary, and under one boundary a latent class.

    x (Gx,), y (Gy,): the grid. single, conditional: anomaly scores (Gy, Gx) on it and the threshold; an image is called
    normal where the score is at most the threshold. Scores may be (K, Gy, Gx), one sheet a class: the least counts.
    inside: the shares of all anomalies inside, one a panel, by default read off the grid; alarms: the shares of normal
    test images outside. labels (N,): the latent classes, marked in the right panel. At most `drawn` marks of a kind are
    drawn, a random choice; the shares are over all. Without anomalies no share is told.
    """
    panels = [("one boundary", *single, None), ("one boundary a latent class", *conditional, labels)]
    figure, told = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04), []
    few, odd = _some(normals, drawn), _some(anomalies, drawn)
    for column, (name, scores, level, classes) in enumerate(panels):
        grid = np.asarray(scores).min(0) if np.ndim(scores) == 3 else np.asarray(scores)
        if grid.shape != (len(y), len(x)):
            raise ValueError(f"got a grid of {grid.shape} for {len(y)} rows and {len(x)} columns: expected (Gy, Gx)")
        read = (_scores_at(x, y, grid, anomalies) <= level).mean() if len(anomalies) else np.nan
        parts = [(inside[column] if inside else read, "of the anomalies inside")]
        parts += [(alarms[column], "of normal test images outside")] if alarms else []
        words = ", ".join(f"{share:.0%} {what}" for share, what in parts if np.isfinite(share)) or "no anomalies to count"
        told.append(f"{name}: {words}")
        figure.add_trace(_region(x, y, grid, level), 1, column + 1)
        _dots(figure, few, odd, None if classes is None else _some(classes, drawn), column + 1)
        figure.add_annotation(
            text=f"<b>{name}</b><br>{words}", xref=f"x{column + 1 if column else ''} domain",
            yref="paper", x=0, y=1, xanchor="left", yanchor="bottom", showarrow=False, align="left",
        )  # fmt: skip
    figure.update_xaxes(title=axes[0], range=[x[0], x[-1]])
    figure.update_yaxes(range=[y[0], y[-1]])
    figure.update_yaxes(title=axes[1], col=1)
    finish(figure, title=title, note=note, alt=f"Two panels. {'; '.join(told)}.", height=560, bottom=100)
    return figure.update_layout(
        margin_t=figure.layout.margin.t + 40, legend=dict(orientation="h", y=-0.16, x=0)
    )  # fmt: skip


def _some(rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` rows, the same random ones for arrays of one length."""
    kept = np.random.default_rng(0).permutation(len(rows))[:limit]
    return np.asarray(rows)[np.sort(kept)]


def _scores_at(x: np.ndarray, y: np.ndarray, grid: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Scores of points (M, 2) between the knots of a grid (Gy, Gx); infinite outside it."""
    inside = RegularGridInterpolator((y, x), grid, bounds_error=False, fill_value=np.inf)
    return inside(np.asarray(points)[:, ::-1])


def _region(x: np.ndarray, y: np.ndarray, grid: np.ndarray, level: float) -> go.Contour:
    """The region at or below the level, shaded; plotly shades what breaks its constraint."""
    return go.Contour(
        x=x, y=y, z=finite("grid scores", grid), contours=dict(type="constraint", operation=">", value=level),
        fillcolor="rgba(31,58,110,0.13)", line=dict(color=NORMAL.colour, width=2.5), showscale=False,
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def _dots(figure: go.Figure, normals: np.ndarray, anomalies: np.ndarray, labels: np.ndarray | None, column: int) -> None:
    groups = [("normal", np.ones(len(normals), dtype=bool), dict(color=NORMAL.colour))]
    if labels is not None:
        groups = [
            (f"latent class {k}", labels == k, dict(color=PALETTE[k % 10], symbol=_symbol(look(k).symbol)))
            for k in np.unique(labels)
        ]
    for name, rows, marker in groups:
        figure.add_scatter(
            x=normals[rows, 0], y=normals[rows, 1], mode="markers", name=name,
            marker=dict(size=6, opacity=0.8, line=dict(width=0)) | marker, hoverinfo="skip", row=1, col=column,
        )  # fmt: skip
    mark = dict(symbol=ANOMALOUS.symbol, color=ANOMALOUS.colour, size=6.5, line=dict(width=0.9, color=INK))
    figure.add_scatter(
        x=anomalies[:, 0], y=anomalies[:, 1], mode="markers", name="anomaly", marker=mark, hoverinfo="skip",
        showlegend=column == 1 and len(anomalies) > 0, row=1, col=column,
    )  # fmt: skip


def _symbol(symbol: str) -> str:
    """A class's symbol; the anomalies' own goes to no class."""
    return "triangle-left" if symbol == ANOMALOUS.symbol else symbol
