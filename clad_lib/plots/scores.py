"""Anomaly scores: normal images against anomalies, with the threshold between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from clad_lib.plots.theme import ANOMALOUS, INK, NORMAL, Look, finish, finite, plain, same_length


def score_histogram(
    scores: np.ndarray,
    anomaly: np.ndarray,
    *,
    score: str = "anomaly score",
    threshold: float | None = None,
    bins: int = 60,
    title: str = "Scores of normal images and anomalies",
    note: str = "Each colour adds up to 100 %. The less the two overlap, the better the score tells them apart.",
) -> go.Figure:
    """Scores (N,), higher = more anomalous, of normal images and anomalies, as shares of each kind.

    threshold: a score above it is an alarm; the two rates it gives are written beside it. The outer 0.1 % at each end
    are counted in the end bins. Either kind may be absent. Raises ValueError for NaN or infinite scores.
    """
    same_length(scores=scores, anomaly=anomaly)
    scores, anomaly = finite("scores", scores), np.asarray(anomaly, dtype=bool)
    edges = score_bins(scores, bins)
    figure, told = go.Figure(), []
    for name, rows, style in (("normal", ~anomaly, NORMAL), ("anomalous", anomaly, ANOMALOUS)):
        if rows.any():
            counts = np.histogram(np.clip(scores[rows], edges[0], edges[-1]), edges)[0]
            figure.add_bar(**kind_bars(edges, counts, f"{name} ({rows.sum():,} images)", style))
            told.append(f"{name} median {np.median(scores[rows]):.4g}")
    above = dict(orientation="h", x=1, xanchor="right", y=1, yanchor="bottom")
    figure.update_layout(barmode="overlay", bargap=0, showlegend=True, legend=above)
    figure.update_xaxes(title=f"{plain(score)} (higher = more anomalous)", exponentformat="power")
    figure.update_yaxes(title="share of the images of a kind", tickformat=".0%" if bins <= 100 else None)
    if threshold is not None and np.isfinite(threshold):
        told.append(_line(figure, scores, anomaly, float(threshold)))
    alt = f"Histogram of {score}: {'; '.join(told)}."
    finish(figure, title=title, note=note, alt=alt, height=480)
    return figure.update_layout(margin_t=figure.layout.margin.t + (76 if threshold is not None else 22))


def score_bins(scores: np.ndarray, bins: int) -> np.ndarray:
    """Edges (bins + 1,) from the 0.1 % to the 99.9 % quantile, so that single extremes do not flatten the picture."""
    low, high = np.quantile(scores, [0.001, 0.999])
    if not low < high:
        low, high = float(scores.min()), float(scores.max())
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def kind_bars(edges: np.ndarray, counts: np.ndarray, name: str, style: Look) -> dict[str, Any]:
    """Histogram bars of one kind of image as shares, from bin edges (B + 1,) and counts (B,): arguments of a bar trace."""
    fill: dict[str, Any] = dict(color=style.colour, opacity=0.75, line=dict(width=1, color=style.colour))
    if style.pattern:  # hatched and paler: what lies behind stays visible, and a grey print tells the two apart
        hatch = dict(shape=style.pattern, fillmode="overlay", fgcolor="#B34700", size=6, solidity=0.35)
        fill |= dict(pattern=hatch, opacity=0.6)
    return dict(
        x=(edges[:-1] + edges[1:]) / 2, y=counts / max(counts.sum(), 1), width=np.diff(edges), customdata=counts, name=name,
        marker=fill, hovertemplate="score %{x:.4g}: %{customdata} images, %{y:.2%}<extra>%{fullData.name}</extra>",
    )  # fmt: skip


def _line(figure: go.Figure, scores: np.ndarray, anomaly: np.ndarray, threshold: float) -> str:
    alarms = scores > threshold
    rates = []
    if (~anomaly).any():
        rates.append(f"{1000 * alarms[~anomaly].mean():.1f} false alarms per 1,000 normal images")
    if anomaly.any():
        rates.append(f"{alarms[anomaly].mean():.1%} of the anomalies found")
    low, high = np.quantile(scores, [0.001, 0.999])
    place = (threshold - low) / (high - low) if high > low else 0.5
    side = "left" if place < 0.25 else "right" if place > 0.75 else "center"
    figure.add_vline(x=threshold, line=dict(color=INK, dash="dash", width=2))
    figure.add_annotation(
        x=threshold, y=1, yref="paper", yanchor="bottom", yshift=26, showarrow=False, align=side, xanchor=side,
        text=f"threshold {threshold:.4g}<br>{'<br>'.join(rates)}",
    )  # fmt: skip
    return f"threshold {threshold:.4g}: {', '.join(rates)}"
