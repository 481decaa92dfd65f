"""What a threshold promises: the bound on false alarms at every threshold, and the promise put to the test."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from clad_lib.plots.theme import ANOMALOUS, INK, NORMAL, QUIET, finish, finite, plain


def false_alarm_curve(
    thresholds: np.ndarray,
    upper: np.ndarray,
    calibration: np.ndarray,
    *,
    normals: np.ndarray | None = None,
    delta: float = 0.1,
    score: str = "anomaly score",
    title: str = "False alarms at every threshold",
    note: str = "",
) -> go.Figure:
    """The bound on the false-alarm rate that holds at all thresholds at once, with the rate that was counted.

    thresholds, upper (G,): a Band's; calibration (n,) scores; normals (m,) scores of other normal images, if any. In false
    alarms per 1,000 normal images, on a logarithmic axis.
    """
    line = np.asarray(thresholds)
    figure = go.Figure()
    curves = [("guaranteed bound", 1000 * np.asarray(upper), INK, "solid"),
              ("counted, calibration images", _per_thousand(calibration, line), NORMAL.colour, "dash")]  # fmt: skip
    if normals is not None and len(normals):
        curves.append(("counted, test normals (analysis)", _per_thousand(normals, line), ANOMALOUS.colour, "dot"))
    for name, values, colour, dash in curves:
        shown = np.where(values > 0, values, np.nan)
        figure.add_scatter(x=line, y=shown, name=name, mode="lines", line=dict(color=colour, dash=dash, width=2.5, shape="hv"))
    figure.update_xaxes(title=f"threshold on the {plain(score)}")
    figure.update_yaxes(title="false alarms per 1,000 normal images", type="log", dtick=1)
    figure.update_layout(showlegend=True)
    told = note or (f"With probability {1 - delta:g} over the draw of the {len(calibration):,} calibration images the solid line "
                    "lies above the long-run rate at all thresholds at once.")  # fmt: skip
    alt = f"False alarms per 1,000 against the threshold: the bound falls from {1000 * upper[0]:.0f} to {1000 * upper[-1]:.1f}."
    return finish(figure, title=title, note=told, alt=alt, height=480)


def _per_thousand(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    known = np.sort(finite("scores", scores))
    return 1000 * (len(known) - np.searchsorted(known, thresholds, side="right")) / len(known)


def guarantee_check(
    rates: np.ndarray,
    *,
    alpha: float,
    delta: float,
    n: int,
    title: str = "The guarantee put to the test",
    note: str = "",
) -> go.Figure:
    """Histogram of false-alarm rates (R,) from repeated calibration draws of n images, beside alpha.

    The promise holds where the share of draws beyond the dashed line is at most delta, up to chance.
    """
    values = finite("rates", rates)
    beyond = float((values > alpha).mean())
    figure = go.Figure(
        go.Histogram(x=100 * values, nbinsx=40, marker=dict(color=NORMAL.colour, line=dict(width=1, color="white")))
    )
    figure.add_vline(x=100 * alpha, line=dict(color=INK, dash="dash", width=2))
    figure.add_annotation(x=100 * alpha, y=1, yref="paper", yanchor="bottom", showarrow=False, font=dict(color=QUIET),
                          text=f"alpha = {alpha:g}")  # fmt: skip
    figure.update_xaxes(title="long-run false-alarm rate of the threshold (%)")
    figure.update_yaxes(title="calibration draws")
    told = note or (f"{len(values)} draws of {n:,} calibration images, each with its own threshold. Beyond alpha: {beyond:.1%} "
                    f"of the draws; at most delta = {delta:g} was promised.")  # fmt: skip
    alt = f"Histogram of {len(values)} false-alarm rates; {beyond:.1%} lie above alpha {alpha:g}, delta is {delta:g}."
    finish(figure, title=title, note=told, alt=alt, height=420)
    return figure.update_layout(margin_t=figure.layout.margin.t + 16)
