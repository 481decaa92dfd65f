"""Anomaly scores in pictures: both kinds of images, thresholds, and what is promised of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.express as px
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots
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
    bins: int = 60,
    title: str = "Scores of normal images and anomalies",
    note: str = "Each colour adds up to 100 %. The less they overlap, the better the score is.",
) -> Figure:
    """Scores (N,), higher = more anomalous, of normal images and anomalies (N,) bool, as shares.

    A score above the threshold is an alarm; the shares that it gives are in the note. The outer
    0.1 % at each end are counted in the end bins. Either kind may be absent.
    """
    ends = np.quantile(finite(scores, "scores"), [0.001, 0.999])
    frame = pd.DataFrame({"score": np.clip(scores, *ends), "kind": theme.kinds(anomaly)})
    figure = px.histogram(
        frame,
        x="score",
        color="kind",
        pattern_shape="kind",
        nbins=bins,
        histnorm="probability",
        barmode="overlay",
        opacity=0.7,
        category_orders={"kind": [*theme.KINDS]},
        color_discrete_map={kind: look.colour for kind, look in theme.KINDS.items()},
        pattern_shape_map={kind: look.pattern for kind, look in theme.KINDS.items()},
        template=theme.TEMPLATE,
    )
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


def at_threshold(scores: np.ndarray, anomaly: np.ndarray, threshold: float) -> str:
    """Say what was counted at a threshold: the shares of both kinds that lie above it."""
    shares = pd.Series(scores > threshold).groupby(theme.kinds(anomaly), sort=False).mean()
    told = " and ".join(f"{share:.1%} of the {kind} images" for kind, share in shares.items())
    return f"Above the threshold {threshold:.4g} (dashed) lie {told}."


def roc_curves(
    scored: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    title: str = "ROC: anomalies found against false alarms",
    note: str = "Up and to the left is better; the diagonal is guessing. AUROC is never flipped.",
) -> Figure:
    """Name -> (scores (N,), anomaly (N,) bool), higher = more anomalous; AUROC in the legend."""
    curves = {
        f"{theme.plain(name)} · AUROC {auroc(*pair):.3f}": roc_curve(pair[1], pair[0])[:2]
        for name, pair in scored.items()
    }
    parts = {name: pd.DataFrame(both, index=[ALARMS, FOUND]).T for name, both in curves.items()}
    frame = pd.concat(parts, names=["curve"]).reset_index("curve")
    shown = {"color": "curve", "line_dash": "curve", "template": theme.TEMPLATE}
    figure = px.line(frame, x=ALARMS, y=FOUND, **shown)
    figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line=theme.DOTTED, layer="below")
    square = {"range": [-0.01, 1.01], "constrain": "domain"}
    return theme.finish(
        figure,
        title=title,
        note=note,
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
    title: str = "What the threshold costs",
    note: str = "The circle is the dashed line on the ROC curve; a lower line moves it up right.",
) -> Figure:
    """One threshold on the histogram of scores (N,), and as a point of their ROC curve."""
    left = score_histogram(scores, anomaly, score=score)
    figure = make_subplots(1, 2, column_widths=[0.62, 0.38], horizontal_spacing=0.1)
    figure.add_traces([*left.data, *roc_curves({"ROC": (scores, anomaly)}).data])
    figure.update_traces(xaxis="x2", yaxis="y2", selector={"type": "scatter"})
    figure.add_scatter(
        x=[np.mean(scores[~anomaly] > threshold)],
        y=[np.mean(scores[anomaly] > threshold)],
        name="this threshold",
        mode="markers",
        marker={"symbol": "circle-open", "size": 14, "color": theme.INK, "line_width": 3},
        row=1,
        col=2,
    )
    figure.add_vline(threshold, line=theme.DASHED, col=1)
    return theme.finish(
        figure,
        title=title,
        note=f"{at_threshold(scores, anomaly, threshold)} {note}",
        alt=f"Left the histogram of {score}, right the ROC curve.",
        xaxis=left.layout.xaxis.to_plotly_json() | {"domain": figure.layout.xaxis.domain},
        yaxis={"title": left.layout.yaxis.title, "tickformat": ".0%"},
        xaxis2={"title": ALARMS, "range": [-0.02, 1.02]},
        yaxis2={"title": FOUND, "range": [-0.02, 1.02]},
        barmode="overlay",
        bargap=0,
    )


def false_alarm_curve(
    thresholds: np.ndarray,
    upper: np.ndarray,
    calibration: np.ndarray,
    *,
    normals: np.ndarray | None = None,
    delta: float = 0.1,
    score: str = "anomaly score",
    title: str = "False alarms at every threshold",
    note: str = "The solid line bounds the long-run rate at all thresholds at once, with "
    "probability {:g} over the draw of the {:,} calibration images.",
) -> Figure:
    """The bound on the false-alarm rate that holds at all thresholds at once, beside the counts.

    thresholds, upper (G,): those of a Band; calibration (n,) scores; normals (m,): scores of other
    normal images. In false alarms per 1,000 normal images, on a logarithmic axis.
    """
    known = {"calibration images": calibration, "test normals (analysis)": normals}
    rates = {"guaranteed bound": upper} | {
        f"counted, {name}": (part[:, None] > thresholds).mean(0)
        for name, part in known.items()
        if part is not None
    }
    wide = 1000 * pd.DataFrame(rates, index=thresholds)
    figure = px.line(
        wide.where(wide > 0),
        line_dash="variable",
        line_shape="hv",
        color_discrete_sequence=[theme.INK, theme.NORMAL.colour, theme.ANOMALOUS.colour],
        template=theme.TEMPLATE,
    )
    return theme.finish(
        figure,
        title=title,
        note=note.format(1 - delta, len(calibration)),
        alt=f"The bound falls from {1000 * upper[0]:.0f} to {1000 * upper[-1]:.1f} per 1,000.",
        xaxis_title=f"threshold on the {theme.plain(score)}",
        yaxis=theme.log_axis(wide) | {"title": "false alarms per 1,000 normal images"},
    )


def guarantee_check(
    rates: np.ndarray,
    *,
    alpha: float,
    delta: float,
    n: int,
    title: str = "The guarantee put to the test",
) -> Figure:
    """False-alarm rates (R,) of thresholds from repeated draws of n images, beside alpha.

    The promise holds where the share of draws beyond alpha is at most delta, up to chance.
    """
    beyond = (finite(rates, "rates") > alpha).mean()
    figure = px.histogram(x=100 * rates, nbins=40, template=theme.TEMPLATE)
    figure.add_vline(100 * alpha, line=theme.DASHED)
    return theme.finish(
        figure,
        title=title,
        note=f"{beyond:.1%} of {len(rates):,} draws lie beyond alpha = {alpha:g} (dashed); at most "
        f"{delta:.0%} were promised. Each draw of {n:,} images has its own threshold.",
        xaxis_title="long-run false-alarm rate of the threshold (%)",
        yaxis_title="calibration draws",
    )
