"""Charts of training, of boundaries and of results: arrays and tables in, a plotly figure out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
from plotly.graph_objects import Figure, Waterfall

from clad_lib.judge.metrics import finite
from clad_lib.look import theme

AXES = ["latent 1 (no unit)", "latent 2 (no unit)"]


def loss_curves(
    curves: Mapping[str, np.ndarray],
    *,
    loss: str = "mean loss",
    title: str = "Training",
    note: str = "Mean loss of each epoch. A curve that no longer falls has learnt what it can.",
) -> Figure:
    """Named losses (epochs,); `loss` is the title of their axis, with the unit."""
    known = {theme.plain(name): pd.Series(finite(v, "losses")) for name, v in curves.items()}
    wide = pd.DataFrame(known).rename(lambda epoch: epoch + 1)
    figure = px.line(wide, symbol="variable", line_dash="variable", template=theme.TEMPLATE)
    ends = [f"{name} from {v[0]:.4g} to {v[-1]:.4g}" for name, v in curves.items() if len(v)]
    return theme.finish(
        figure,
        title=title,
        note=note,
        alt=f"{loss}, {len(wide)} epochs: {'; '.join(ends)}.",
        xaxis={"title": "epoch", "dtick": 1 if len(wide) <= 20 else None},
        yaxis=theme.log_axis(wide) | {"title": loss},
        showlegend=True,
    )


def boundary_panels(
    normals: np.ndarray,
    anomalies: np.ndarray,
    sides: Mapping[str, Any],
    *,
    x: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    drawn: int = 400,
    title: str = "One boundary, or one a latent class",
    note: str = "Shaded: called normal, by thresholds for the same false-alarm rate. Look at the "
    "gaps between the latent classes. Crosses are anomalies, other marks normal images.",
) -> Figure:
    """What each way of drawing a boundary calls normal, in a plane of two latents, a panel a way.

    normals (N, 2) with latent classes `labels` (N,), anomalies (M, 2): a random choice of `drawn`
    of each is drawn. sides: name -> a Side of study.experiments, scores (K, Gy, Gx) on the grid
    x (Gx,), y (Gy,), of which the least counts, with a threshold and the two shares of a heading.
    """
    kinds = theme.named(np.unique(labels), word="latent class")
    colours = dict(zip(kinds, cycle(theme.PALETTE), strict=False)) | {"anomaly": theme.ANOMALOUS}
    symbols = dict(zip(kinds, cycle(theme.SYMBOLS), strict=False)) | {"anomaly": "x"}
    few, odd = (np.random.default_rng(0).permutation(len(p))[:drawn] for p in (normals, anomalies))
    points = pd.DataFrame(np.concatenate([normals[few], anomalies[odd]]), columns=AXES)
    points["kind"] = [*theme.named(labels[few], word="latent class"), *["anomaly"] * len(odd)]
    heads = [
        f"{theme.plain(name)}<br>anomalies inside: {side.inside:.0%}<br>"
        f"normal test images outside: {side.false_alarms:.0%}".replace("nan%", "–")
        for name, side in sides.items()
    ]
    figure = px.scatter(
        pd.concat(dict.fromkeys(heads, points), names=["side"]).reset_index("side"),
        x=AXES[0],
        y=AXES[1],
        facet_col="side",
        facet_col_spacing=0.05,
        color="kind",
        symbol="kind",
        category_orders={"kind": [*colours]},
        color_discrete_map=colours,
        symbol_map=symbols,
        range_x=[x[0], x[-1]],
        range_y=[y[0], y[-1]],
        render_mode="svg",  # WebGL would lie above the lines
        template=theme.TEMPLATE,
    )
    shade = {"fillcolor": "rgba(31,58,110,0.13)", "line_color": theme.NORMAL, "showlegend": False}
    for column, side in enumerate(sides.values(), start=1):
        figure.add_contour(
            x=x,
            y=y,
            z=side.scores.min(0).astype(np.float32),
            contours={"type": "constraint", "operation": ">", "value": side.threshold.value},
            row=1,
            col=column,
            **shade,
        )
    told = "; ".join(heads).replace("<br>", ", ")
    return theme.finish(figure, title=title, note=note, alt=told, height=560, above=50)


def ablation_lines(
    frame: pd.DataFrame,
    *,
    x: str,
    setting: str,
    line: str,
    reference: tuple[str, float] | None = None,
    title: str = "What one setting is worth",
) -> Figure:
    """AUROC in [0, 1] against a setting: columns `x`, auroc, low, high and `line`, its name.

    `setting` is the title of the axis, with the unit; `reference`, a name and a level, is dashed.
    """
    figure = px.line(
        frame.assign(above=frame.high - frame.auroc, below=frame.auroc - frame.low),
        x=x,
        y="auroc",
        color=line,
        symbol=line,
        line_dash=line,
        error_y="above",
        error_y_minus="below",
        markers=True,
        template=theme.TEMPLATE,
    )
    note = "Bars are 95 % intervals."
    if reference:
        figure.add_hline(reference[1], line=theme.DASHED)
        note += f" Dashed: {reference[0]}, {reference[1]:.3f}."
    known = frame.dropna(subset="auroc").set_index([line, x]).auroc
    return theme.finish(
        figure,
        title=title,
        note=note,
        alt=f"AUROC against {setting}: {theme.listed(known, '.3f')}.",
        xaxis={"title": setting, "tickvals": frame[x].unique()},
        yaxis_title="AUROC",
    )


def auroc_bars(
    frame: pd.DataFrame,
    *,
    title: str = "AUROC beside the paper's",
) -> Figure:
    """One panel a scenario, one bar a method: columns dataset, scenario, method, auroc, low, high.

    paper: the published value, or missing. All in [0, 1]; the order is the table's.
    """
    table = frame.assign(above=frame.high - frame.auroc, below=frame.auroc - frame.low)
    table["normal"] = frame.dataset + " " + frame.scenario
    orders = {name: [*table[name].unique()] for name in ("normal", "method")}
    rows = -(-len(orders["normal"]) // 4)
    panels = {
        "y": "method",
        "facet_col": "normal",
        "facet_col_wrap": 4,
        "facet_col_spacing": 0.03,
        "facet_row_spacing": 0.3 / rows,
        "category_orders": orders,
        "template": theme.TEMPLATE,
    }
    figure = px.bar(table, x="auroc", error_x="above", error_x_minus="below", **panels)
    figure.update_traces(marker_color=theme.PALETTE[-1], error_x_color=theme.INK)
    paper = px.scatter(table, x="paper", **panels).update_traces(
        marker={"symbol": "diamond", "size": 9, "color": "white"},
        marker_line={"color": theme.INK, "width": 1.8},
    )
    figure.add_traces(paper.data).add_vline(0.5, line=theme.DOTTED)
    diamonds = "diamonds are the paper's values; " if frame.paper.notna().any() else ""
    # plotly loses the other range of matched axes
    figure.update_xaxes(range=[0, 1.02], tickvals=[0, 0.5, 1], matches=None, showticklabels=True)
    figure.update_xaxes(title="AUROC", row=1).update_yaxes(title="")
    return theme.finish(
        figure,
        title=title,
        note=f"Bars are measured, lines are 95 % intervals; {diamonds}the dotted line is guessing.",
        alt=theme.listed(table.set_index(["normal", "method"]).auroc, ".3f"),
        height=150 + rows * (70 + 22 * len(orders["method"])),
        above=20,
    )


def auroc_matrix(frame: pd.DataFrame) -> Figure:
    """A table of AUROC in [0, 1], one row an anomaly class, one column a method."""
    means = frame.mean(axis=1).sort_values()
    figure = px.imshow(
        frame.loc[means.index].rename(columns=theme.plain, index=theme.plain),
        labels={"x": "method", "y": "anomaly class", "color": "AUROC"},
        color_continuous_scale=theme.AROUND_CHANCE,
        zmin=0,
        zmax=1,
        text_auto=".2f",
        aspect="auto",
    )
    figure.update_traces(xgap=2, ygap=2, textfont_color=theme.INK)
    return theme.finish(
        figure,
        title="AUROC by anomaly class and method",
        note="Each cell: the images of one anomaly class against all normal test images. White "
        "is guessing, orange is worse. The hardest class is on top.",
        alt=f"Mean over methods: {theme.listed(means, '.3f')}.",
        height=190 + 30 * len(frame),
        yaxis_type="category",
    )


def waterfall(start: tuple[str, float], steps: Mapping[str, float]) -> Figure:
    """A starting AUROC in [0, 1], the change that each step makes, and their sum."""
    levels = start[1] + np.cumsum([0.0, *steps.values()])
    texts = [f"{start[1]:.3f}", *(f"{step:+.3f}" for step in steps.values()), f"{levels[-1]:.3f}"]
    bars = Waterfall(
        x=[theme.plain(name) for name in (start[0], *steps, "all of them")],
        y=[start[1], *steps.values(), levels[-1]],
        measure=["absolute", *["relative"] * len(steps), "total"],
        text=texts,
        textposition="outside",
        totals_marker_color=theme.NORMAL,
        increasing_marker_color=theme.ANOMALOUS,
        decreasing_marker_color=theme.PALETTE[-1],
    )
    room = 0.3 * max(np.ptp(levels), 0.02)
    return theme.finish(
        Figure(bars),
        title="What each published defect is worth",
        note="From the clean protocol on the left, one defect after another is switched on; a bar "
        "is what it changes, orange up, blue down. The axis does not start at 0.",
        alt=theme.listed(dict(zip(bars.x, texts, strict=True))),
        xaxis_title="step",
        yaxis={"title": "AUROC", "range": [levels.min() - 2 * room, levels.max() + room]},
    )
