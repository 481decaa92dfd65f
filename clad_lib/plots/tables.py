"""Results: tables, bars with intervals beside the paper's values, and what each published defect adds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clad_lib.plots.theme import ANOMALOUS, GRID, INK, NORMAL, QUIET, finish, look, plain

ROW = 28  # px
BEST = "#BFD3EE"
FITTING = 100  # characters side by side at the usual size; a wider table gets smaller letters


def results_table(
    frame: pd.DataFrame,
    *,
    best: Collection[str] = (),
    decimals: int = 3,
    title: str = "Results",
    note: str = "",
) -> go.Figure:
    """A DataFrame as a table; floats get `decimals`, missing values a dash.

    The largest value of each `best` column is shaded. Raises ValueError for an empty table and unknown columns.
    """
    if frame.empty:
        raise ValueError("got a table without rows or columns: expected at least one run")
    unknown = [name for name in best if name not in frame.columns]
    if unknown:
        raise ValueError(f"got best={unknown}: expected columns of the table, {', '.join(map(str, frame.columns))}")
    cells = [_cells(frame[name], decimals) for name in frame.columns]
    fills = [_fills(frame[name], shade=name in best) for name in frame.columns]
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    widths = [max(8, *map(len, [str(name), *texts])) for name, texts in zip(frame.columns, cells, strict=True)]
    align = ["right" if number else "left" for number in numeric]
    size = 13 if sum(widths) <= FITTING else 11
    figure = go.Figure(
        go.Table(
            columnwidth=widths,
            header=dict(values=[f"<b>{plain(name)}</b>" for name in frame.columns], align=align, height=ROW + 4,
                        fill_color=NORMAL.colour, font=dict(color="white", size=size), line_color=GRID),
            cells=dict(values=cells, align=align, height=ROW, fill_color=fills, line_color=GRID,
                       font=dict(size=size, color=INK)),
        )
    )  # fmt: skip
    alt = f"{title}: table of {len(frame)} rows, columns {', '.join(map(str, frame.columns))}."
    height = 110 + 18 * (len(note) // 146) + ROW * (len(frame) + 1)
    return finish(figure, title=title, note=note, alt=alt, height=height, bottom=16).update_layout(margin=dict(l=12, r=12))


def _cells(column: pd.Series, decimals: int) -> list[str]:
    texts = [f"{value:.{decimals}f}" if isinstance(value, float) else plain(value) for value in column]
    return ["–" if missing else text for text, missing in zip(texts, column.isna(), strict=True)]


def _fills(column: pd.Series, *, shade: bool) -> list[str]:
    top = column == column.max() if shade else pd.Series(False, index=column.index)
    return [BEST if best else "#FFFFFF" if row % 2 else "#F6F7F9" for row, best in enumerate(top)]


def auroc_bars(
    frame: pd.DataFrame,
    *,
    title: str = "AUROC beside the paper's",
    note: str = "Bars are measured, with their interval; hollow diamonds are the paper's values; the dashed line is guessing.",
) -> go.Figure:
    """Methods by scenarios: one row a bar, columns scenario, method, auroc; low, high and paper where there are any.

    All values in [0, 1]. Scenarios and methods keep the order of the table. Raises ValueError for a missing column.
    """
    missing = {"scenario", "method", "auroc"} - set(frame.columns)
    if missing:
        raise ValueError(f"got columns {', '.join(frame.columns)}: expected also {', '.join(sorted(missing))}")
    scenarios, methods = list(dict.fromkeys(frame["scenario"])), list(dict.fromkeys(frame["method"]))
    width = 0.84 / len(methods)
    figure = go.Figure()
    for index, method in enumerate(methods):
        rows = frame[frame["method"] == method]
        x = _places(rows["scenario"], scenarios) + (index - (len(methods) - 1) / 2) * width
        figure.add_bar(**_bars(rows, x, width, plain(method), index))
    if "paper" in frame:
        rows = frame[frame["paper"].notna()]
        offset = (_places(rows["method"], methods) - (len(methods) - 1) / 2) * width
        figure.add_scatter(
            x=_places(rows["scenario"], scenarios) + offset, y=rows["paper"], mode="markers", name="paper",
            marker=dict(symbol="diamond-open", size=9, color=INK, line=dict(width=1.8)),
            hovertemplate="paper %{y:.3f}<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=0.5, line=dict(color=QUIET, dash="dash", width=1.2))
    figure.update_xaxes(tickvals=np.arange(len(scenarios)), ticktext=[plain(s) for s in scenarios], title="normal classes",
                        showgrid=False, range=[-0.5, len(scenarios) - 0.5])  # fmt: skip
    figure.update_yaxes(title="AUROC", range=[0, 1.02])
    figure.update_layout(showlegend=True, legend=dict(orientation="h", x=0, y=-0.2, yanchor="top"))
    told = [f"{row.scenario} {row.method} {row.auroc:.3f}" for row in frame.itertuples()]
    return finish(figure, title=title, note=note, alt=f"AUROC bars: {', '.join(told)}.", height=540, bottom=120)


def _places(column: pd.Series, order: list) -> np.ndarray:
    return np.array([order.index(value) for value in column], dtype=float)


def _bars(rows: pd.DataFrame, x: np.ndarray, width: float, name: str, index: int) -> dict[str, Any]:
    style, error = look(index), None
    if {"low", "high"} <= set(rows.columns):
        above, below = rows["high"] - rows["auroc"], rows["auroc"] - rows["low"]
        error = dict(array=above, arrayminus=below, symmetric=False, thickness=1.2, width=3, color=INK)
    return dict(
        x=x, y=rows["auroc"], width=width * 0.94, name=name, error_y=error, customdata=rows["scenario"].map(plain),
        marker=style.fill,
        hovertemplate="%{customdata}: %{y:.3f}<extra>%{fullData.name}</extra>",
    )  # fmt: skip


def waterfall(
    start: tuple[str, float],
    steps: Mapping[str, float],
    *,
    end: str = "all of them",
    title: str = "What each published defect is worth",
    note: str = "From the clean protocol on the left, one defect after another is switched on; a bar is the AUROC it adds. "
    "The axis does not start at 0.",
) -> go.Figure:
    """A starting AUROC in [0, 1], the change that each step adds, and their sum under the name `end`."""
    names = [start[0], *steps, end]
    values = [start[1], *steps.values(), start[1] + sum(steps.values())]
    inner = [f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") for value in steps.values()]
    figure = go.Figure(
        go.Waterfall(
            x=[plain(name) for name in names], y=values, measure=["absolute", *["relative"] * len(steps), "total"],
            text=[f"{values[0]:.3f}", *inner, f"{values[-1]:.3f}"], textposition="outside",
            totals=dict(marker=dict(color=NORMAL.colour)), increasing=dict(marker=dict(color=ANOMALOUS.colour)),
            decreasing=dict(marker=dict(color="#88CCEE")), connector=dict(line=dict(color=QUIET, dash="dot", width=1)),
            hovertemplate="%{x}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    levels = np.cumsum(values[:-1])
    reach = max(levels.max() - levels.min(), 0.02)
    low, high = max(0.0, levels.min() - 0.6 * reach), min(1.05, levels.max() + 0.3 * reach)
    figure.update_yaxes(title="AUROC", range=[low, high])
    figure.update_xaxes(tickangle=0 if len(names) <= 7 else -25, showgrid=False)
    told = ", ".join(f"{name} {text}" for name, text in zip(steps, inner, strict=True))
    alt = f"Waterfall from {start[0]} {values[0]:.3f} to {end} {values[-1]:.3f}: {told}."
    return finish(figure, title=title, note=note, alt=alt)
