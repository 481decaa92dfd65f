"""What a threshold costs, as one view: histograms with the line, and the ROC with the point that belongs to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clad_lib.plots.curves import roc_points
from clad_lib.plots.scores import kind_bars, score_bins
from clad_lib.plots.theme import ANOMALOUS, INK, NORMAL, QUIET, finish, finite, plain, same_length

BARS = 50


def threshold_view(
    scores: np.ndarray,
    anomaly: np.ndarray,
    threshold: float,
    *,
    score: str = "anomaly score",
    title: str = "What the threshold costs",
    note: str = "Left: images above the dashed line are alarms. Right: the circle is the same line on the ROC curve; "
    "moving the line left goes up and to the right.",
) -> go.Figure:
    """Scores (N,), higher = more anomalous, of normal images and anomalies (N,) bool, and one threshold, in two panels.

    Without anomalies the ROC panel stays empty. Traces, in this order: bars of normal images, bars of anomalies, ROC, its
    point; shape 0 is the line. `threshold_traces` and `threshold_point` give their data anew for a live view.
    """
    same_length(scores=scores, anomaly=anomaly)
    figure = make_subplots(1, 2, column_widths=[0.62, 0.38], horizontal_spacing=0.1)
    normal, anomalous, curve = threshold_traces(scores, anomaly)
    figure.add_bar(**normal, row=1, col=1)
    figure.add_bar(**anomalous, row=1, col=1)
    figure.add_scatter(**curve, mode="lines", line=dict(color=NORMAL.colour, width=2.5), name="ROC", row=1, col=2)
    x, y = threshold_point(scores, anomaly, threshold)
    mark = dict(symbol="circle-open", size=14, color=INK, line=dict(width=3))
    figure.add_scatter(x=x, y=y, mode="markers", marker=mark, name="this threshold", row=1, col=2)
    figure.add_shape(type="line", x0=threshold, x1=threshold, y0=0, y1=1, xref="x", yref="y domain",
                     line=dict(color=INK, dash="dash", width=2))  # fmt: skip
    figure.add_shape(type="line", x0=0, x1=1, y0=0, y1=1, xref="x2", yref="y2", line=dict(color=QUIET, dash="dot", width=1.5))
    figure.update_xaxes(title=f"{plain(score)} (higher = more anomalous)", exponentformat="power", col=1)
    figure.update_yaxes(title="share of the images of a kind", tickformat=".0%", col=1)
    figure.update_xaxes(title="false alarms (share of normal images)", range=[-0.02, 1.02], col=2)
    figure.update_yaxes(title="anomalies found (share)", range=[-0.02, 1.02], col=2)
    figure.update_layout(barmode="overlay", bargap=0, showlegend=True, legend=dict(orientation="h", x=0, y=-0.22, yanchor="top"))
    told = f"false alarms {x[0]:.1%}, anomalies found {y[0]:.1%}" if len(x) else "no anomalies in the test split"
    alt = f"Histogram of {score} and ROC curve with threshold {threshold:.4g}: {told}."
    return finish(figure, title=title, note=note, alt=alt, height=440, bottom=96)


def threshold_traces(scores: np.ndarray, anomaly: np.ndarray) -> list[dict[str, Any]]:
    """Data of the bars of normal images, the bars of anomalies and the ROC: what changes with the score, not the threshold."""
    scores, anomaly = finite("scores", scores), np.asarray(anomaly, dtype=bool)
    edges, found = score_bins(scores, BARS), list[dict[str, Any]]()
    for name, rows, style in (("normal", ~anomaly, NORMAL), ("anomalous", anomaly, ANOMALOUS)):
        counts = np.histogram(np.clip(scores[rows], edges[0], edges[-1]), edges)[0]
        found.append(kind_bars(edges, counts, f"{name} ({rows.sum():,} images)", style))
    both = anomaly.any() and not anomaly.all()
    curve = roc_points(scores, anomaly)[:2] if both else (np.zeros(0), np.zeros(0))
    return [*found, dict(x=curve[0], y=curve[1])]


def threshold_point(scores: np.ndarray, anomaly: np.ndarray, threshold: float) -> tuple[list[float], list[float]]:
    """False-alarm rate and share of anomalies found at the threshold, each a list of one; empty where a kind is missing."""
    alarm, truth = np.asarray(scores) > threshold, np.asarray(anomaly, dtype=bool)
    if truth.all() or not truth.any():
        return [], []
    return [float(alarm[~truth].mean())], [float(alarm[truth].mean())]
