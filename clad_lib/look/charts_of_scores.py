"""Anomaly scores in pictures: both kinds of images, thresholds, and what is promised of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
from plotly.graph_objects import Figure
from sklearn.metrics import roc_curve

from clad_lib.judge.metrics import auroc, finite
from clad_lib.look import theme

ALARMS, FOUND = "false alarms (share of normal images)", "anomalies found (share)"


def score_histogram(
    scores: np.ndarray,
    anomaly: np.ndarray,
    *,
    score: str = "anomaly score",
    threshold: float | None = None,
    title: str = "Scores of normal images and anomalies",
    note: str = "Each colour adds up to 100 %. The less they overlap, the better the score is.",
) -> Figure:
    """Scores (N,), higher = more anomalous, of normal images and anomalies (N,) bool, as shares.

    A score above the threshold is an alarm; the shares that it gives are in the note. The outer
    0.1 % at each end are counted in the end bins. Either kind may be absent.
    """
    ends = np.quantile(finite(scores, "scores"), [0.001, 0.999])
    frame = pd.DataFrame(
        {"score": np.clip(scores, *ends), "kind": np.where(anomaly, *reversed(theme.KINDS))}
    )
    figure = px.histogram(
        frame,
        x="score",
        color="kind",
        pattern_shape="kind",
        nbins=60,
        histnorm="probability",
        barmode="overlay",
        opacity=1,
        category_orders={"kind": [*theme.KINDS]},
        color_discrete_map=theme.KINDS,
        pattern_shape_map={"normal": "", "anomalous": "/"},
        template=theme.TEMPLATE,
    ).update_traces(marker_pattern_fillmode="replace")  # hatching, through which one sees the other
    if threshold is not None:
        figure.add_vline(threshold, line=theme.DASHED)
        note = f"{note} {at_threshold(scores, anomaly, threshold)}"
    return theme.finish(
        figure,
        title=title,
        note=note,
        alt=f"{score}: {theme.listed(frame.kind.value_counts())} images.",
        xaxis={"title": f"{theme.plain(score)} (higher = more anomalous)"},
        xaxis_exponentformat="power",
        yaxis={"title": "share of the images of a kind", "tickformat": ".0%"},
        bargap=0,
    )


def above(scores: np.ndarray, lines: Any) -> np.ndarray:
    """Share of scores (n,) above each of the lines (L,); 0 where there are no scores."""
    counts = len(scores) - np.searchsorted(np.sort(scores), lines, side="right")
    return counts / max(len(scores), 1)


def at_threshold(scores: np.ndarray, anomaly: np.ndarray, threshold: float) -> str:
    """Say what was counted at a threshold: the shares of both kinds that lie above it."""
    shares = (
        pd.Series(scores > threshold)
        .groupby(np.where(anomaly, *reversed(theme.KINDS)), sort=False)
        .mean()
    )
    told = " and ".join(f"{share:.1%} of the {kind} images" for kind, share in shares.items())
    return f"Above the threshold {threshold:.4g} (dashed) lie {told}."


def roc_curves(scored: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Name -> (scores (N,), anomaly (N,) bool), higher = more anomalous; AUROC in the legend."""
    curves = {
        f"{theme.plain(name)} · AUROC {auroc(*pair):.3f}": roc_curve(pair[1], pair[0])[:2]
        for name, pair in scored.items()
    }
    parts = {name: pd.DataFrame(both, index=[ALARMS, FOUND]).T for name, both in curves.items()}
    frame = pd.concat(parts, names=["curve"]).reset_index("curve")
    figure = px.line(
        frame, x=ALARMS, y=FOUND, color="curve", line_dash="curve", template=theme.TEMPLATE
    )
    figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line=theme.DOTTED, layer="below")
    square = {"range": [-0.01, 1.01], "constrain": "domain"}
    return theme.finish(
        figure,
        title="ROC: anomalies found against false alarms",
        note="Up and to the left is better; the diagonal is guessing. AUROC is never flipped.",
        alt=f"{', '.join(curves)}.",
        height=600,
        xaxis=square | {"constraintoward": "left"},
        yaxis=square | {"constraintoward": "top", "scaleanchor": "x"},
    )


def threshold_view(
    scores: np.ndarray,
    anomaly: np.ndarray,
    threshold: float,
    *,
    score: str = "anomaly score",
) -> Figure:
    """One threshold on the histogram of scores (N,), and as a circle on their ROC curve."""
    figure = score_histogram(scores, anomaly, score=score)
    lines = np.append(np.quantile(scores, np.linspace(1, 0, 401)), -np.inf)
    figure.add_scatter(
        x=above(scores[~anomaly], lines),
        y=above(scores[anomaly], lines),
        name="ROC curve",
        mode="lines",
        line_color=theme.NORMAL,
        xaxis="x2",
        yaxis="y2",
    )
    share = {"range": [-0.02, 1.02], "tickformat": ".0%"}
    return theme.finish(
        figure,
        title="What the threshold costs",
        note=f"{at_threshold(scores, anomaly, threshold)} The circle is the dashed line on the ROC "
        "curve; a lower line moves it up right.",
        alt=f"Left the histogram of {score}, right the ROC curve.",
        shapes=threshold_marks(scores, anomaly, threshold),
        xaxis_domain=[0, 0.58],
        xaxis2={"domain": [0.68, 1], "title": "normal images that alarm", **share},
        yaxis2={"anchor": "x2", "title": "anomalies found", **share},
    )


def threshold_marks(
    scores: np.ndarray, anomaly: np.ndarray, threshold: float
) -> list[dict[str, Any]]:
    """The dashed line and the circle of `threshold_view`, as shapes of plotly."""
    line = {"type": "line", "x0": threshold, "x1": threshold, "y0": 0, "y1": 1, "yref": "y domain"}
    circle = {
        "type": "circle",
        "xref": "x2",
        "yref": "y2",
        "xanchor": above(scores[~anomaly], threshold),
        "yanchor": above(scores[anomaly], threshold),
        "xsizemode": "pixel",
        "ysizemode": "pixel",
        "x0": -8,
        "x1": 8,
        "y0": -8,
        "y1": 8,
    }
    return [line | {"line": theme.DASHED}, circle | {"line": {"color": theme.INK, "width": 2}}]


def false_alarm_curve(
    thresholds: np.ndarray,
    upper: np.ndarray,
    calibration: np.ndarray,
    *,
    normals: np.ndarray | None = None,
    delta: float = 0.1,
    score: str = "anomaly score",
) -> Figure:
    """The bound on the false-alarm rate that holds at all thresholds at once, beside the counts.

    thresholds, upper (G,): those of a Band; calibration (n,) scores; normals (m,): scores of other
    normal images. In false alarms per 1,000 normal images, on a logarithmic axis.
    """
    known = {"calibration images": calibration, "test normals (analysis)": normals}
    rates = {"guaranteed bound": upper} | {
        f"counted, {name}": above(part, thresholds)
        for name, part in known.items()
        if part is not None
    }
    wide = 1000 * pd.DataFrame(rates, index=thresholds)
    figure = px.line(
        wide.where(wide > 0),
        line_dash="variable",
        line_shape="hv",
        color_discrete_sequence=[theme.INK, theme.NORMAL, theme.ANOMALOUS],
        template=theme.TEMPLATE,
    )
    return theme.finish(
        figure,
        title="False alarms at every threshold",
        note="The solid line bounds the long-run rate at all thresholds at once, with probability "
        f"{1 - delta:g} over the draw of the {len(calibration):,} calibration images.",
        alt=f"The bound falls from {1000 * upper[0]:.0f} to {1000 * upper[-1]:.1f} per 1,000.",
        xaxis_title=f"threshold on the {theme.plain(score)}",
        yaxis=theme.log_axis(wide) | {"title": "false alarms per 1,000 normal images"},
    )


def guarantee_check(rates: np.ndarray, *, alpha: float, delta: float, n: int) -> Figure:
    """False-alarm rates (R,) of thresholds from repeated draws of n images, beside alpha.

    The promise holds where the share of draws beyond alpha is at most delta, up to chance.
    """
    beyond = (finite(rates, "rates") > alpha).mean()
    figure = px.histogram(x=100 * rates, nbins=40, template=theme.TEMPLATE)
    figure.add_vline(100 * alpha, line=theme.DASHED)
    return theme.finish(
        figure,
        title="The guarantee put to the test",
        note=f"{beyond:.1%} of {len(rates):,} draws lie beyond alpha = {alpha:g} (dashed); at most "
        f"{delta:.0%} were promised. Each draw of {n:,} images has its own threshold.",
        xaxis_title="long-run false-alarm rate of the threshold (%)",
        yaxis_title="calibration draws",
    )
