"""Clusters judged: how sure they are, what hidden classes they hold (analysis only), and how they settle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clad_lib.plots.theme import ANOMALOUS, INK, NORMAL, QUIET, colour_bar, finish, finite, look, names_for, same_length


def confidence_histograms(
    confidence: np.ndarray,
    labels: np.ndarray,
    *,
    hidden: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    clusters: int | None = None,
    bins: int = 20,
    title: str = "How sure each cluster is of its images",
    note: str = "One panel a cluster, all on the same axes. Confidence is the largest soft assignment q; mass at the "
    "right is a clear cluster, mass at the left images that could belong elsewhere.",
) -> go.Figure:
    """Histograms of confidence (N,) in [0, 1], one panel for each label (N,) in [0, K).

    hidden (N,), `names` of its classes: bars are stacked by hidden class, for analysis only.
    """
    confidence, labels = finite("confidences", confidence), np.asarray(labels)
    same_length(confidences=confidence, labels=labels, **({} if hidden is None else {"hidden": hidden}))
    count = clusters or int(labels.max()) + 1
    across = min(5, count)
    down = -(-count // across)
    sizes = np.bincount(labels, minlength=count)
    heads = [f"cluster {k} · {size / len(labels):.0%}" for k, size in enumerate(sizes)]
    figure = make_subplots(
        down, across, shared_xaxes=True, shared_yaxes=True, subplot_titles=heads, horizontal_spacing=0.035,
        vertical_spacing=0.28 / down if down > 1 else 0, x_title="confidence q", y_title="images",
    )  # fmt: skip
    edges = np.linspace(0, 1, bins + 1)
    groups = {0: "images"} if hidden is None else names_for(np.asarray(hidden), names, word="class")
    kinds = np.zeros(len(labels), dtype=int) if hidden is None else np.asarray(hidden)
    for order, (group, name) in enumerate(groups.items()):
        style = look(order)
        for k in range(count):
            heights = np.histogram(confidence[(labels == k) & (kinds == group)], edges)[0]
            figure.add_bar(
                x=(edges[:-1] + edges[1:]) / 2, y=heights, width=1 / bins, name=name, legendgroup=name,
                marker=style.fill, showlegend=k == 0 and hidden is not None, row=k // across + 1, col=k % across + 1,
                hovertemplate="q %{x:.2f}: %{y} images<extra>%{fullData.name}</extra>",
            )  # fmt: skip
    top = max(np.histogram(confidence[labels == k], edges)[0].max() for k in range(count))
    figure.update_yaxes(range=[0, 1.08 * max(top, 1)])
    means = [f"cluster {k} {confidence[labels == k].mean():.2f}" for k in range(count) if sizes[k]]
    figure.update_xaxes(range=[0, 1], tickvals=[0, 0.5, 1], ticktext=["0", "0.5", "1"])
    figure.update_annotations(font_size=13)
    figure.update_layout(barmode="stack", bargap=0)
    alt = f"Confidence histograms. Mean confidence: {', '.join(means)}."
    finish(figure, title=title, note=note, alt=alt, height=170 + 150 * down, bottom=66)
    return figure.update_layout(margin_t=figure.layout.margin.t + 22)


def cluster_matrix(
    labels: np.ndarray,
    hidden: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    title: str = "What the clusters hold (analysis only)",
    note: str = "Numbers are images; a darker cell is a larger share of its cluster. One dark cell a row is a pure "
    "cluster. Hidden classes are shown for analysis and enter no step of training.",
) -> go.Figure:
    """Images of each hidden class in each cluster: labels (N,) in [0, K), hidden (N,); rows sorted by main class."""
    same_length(labels=labels, hidden=hidden)
    labels, hidden = np.asarray(labels), np.asarray(hidden)
    titles = names_for(hidden, names, word="class")
    counts = np.array([[np.sum((labels == k) & (hidden == c)) for c in titles] for k in range(int(labels.max()) + 1)])
    order = np.lexsort((-counts.max(1), counts.argmax(1)))
    counts = counts[order]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    purity = counts.max(1).sum() / counts.sum()
    figure = go.Figure(
        go.Heatmap(
            z=shares, x=list(titles.values()), y=[f"cluster {k}" for k in order], zmin=0, zmax=1, colorscale="Blues",
            text=counts, texttemplate="%{text}", textfont=dict(size=13 if len(titles) <= 12 else 11), xgap=2, ygap=2,
            hovertemplate="%{y}, %{x}: %{text} images, %{z:.1%} of the cluster<extra></extra>",
            colorbar=colour_bar("share of the cluster", tickformat=".0%"),
        )
    )  # fmt: skip
    figure.update_xaxes(title="hidden class", type="category", showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="", ticklabelstandoff=6)
    size = f"{len(counts)} clusters by {len(titles)} hidden classes, {counts.sum()} images"
    note, alt = f"{note} Purity: {purity:.3f}.", f"Matrix of {size}; purity {purity:.3f}."
    return finish(figure, title=title, note=note, alt=alt, height=max(400, 170 + 30 * len(counts)))


def cluster_health(
    shares: np.ndarray,
    churn: np.ndarray,
    entropy: np.ndarray,
    *,
    dead_share: float = 0.05,
    tolerance: float = 1e-3,
    title: str = "Health of the clusters",
    note: str = "Left: a bar below the dotted line is a dead cluster. Middle: training stops when churn falls below "
    "the dashed line. Right: entropy of q falls as assignments become certain.",
) -> go.Figure:
    """Shares (K,) of the images, churn (epochs,) of labels and entropy (epochs,) in [0, 1] of the assignment.

    dead_share: the share of an even share below which a cluster is dead; tolerance: the churn that stops training.
    """
    shares, churn, entropy = finite("shares", shares), finite("churn", churn), finite("entropy", entropy)
    heads = ("share of the images", "labels changed in an epoch", "assignment entropy")
    figure = make_subplots(1, 3, subplot_titles=heads, horizontal_spacing=0.09)
    dead = shares < dead_share / len(shares)
    fill = dict(color=np.where(dead, ANOMALOUS.colour, NORMAL.colour))
    figure.add_bar(x=np.arange(len(shares)), y=shares, marker=fill, name="share", row=1, col=1)
    figure.add_hline(y=1 / len(shares), line=dict(color=QUIET, dash="dash", width=1.5), row=1, col=1)
    figure.add_hline(y=dead_share / len(shares), line=dict(color=INK, dash="dot", width=1.5), row=1, col=1)
    epochs = np.arange(1, len(churn) + 1)
    line = dict(color=NORMAL.colour, width=2.5)
    figure.add_scatter(x=epochs, y=churn, mode="lines+markers", line=line, name="churn", row=1, col=2)
    figure.add_hline(y=tolerance, line=dict(color=QUIET, dash="dash", width=1.5), row=1, col=2)
    figure.add_scatter(x=epochs, y=entropy, mode="lines+markers", line=line, name="entropy", row=1, col=3)
    figure.update_xaxes(title="cluster", dtick=1 if len(shares) <= 12 else None, col=1)
    figure.update_xaxes(title="epoch", col=2)
    figure.update_xaxes(title="epoch", col=3)
    figure.update_yaxes(tickformat=".0%", col=1)
    figure.update_yaxes(tickformat=".1%", rangemode="tozero", col=2)
    figure.update_yaxes(range=[0, 1.02], title="0 certain, 1 undecided", col=3)
    figure.update_annotations(font_size=14)
    figure.update_layout(showlegend=False)
    alt = f"{len(shares)} clusters, shares from {shares.min():.1%} to {shares.max():.1%}, {int(dead.sum())} dead" + (
        f"; last epoch: churn {churn[-1]:.2%}, entropy {entropy[-1]:.2f}." if len(churn) else "."
    )
    finish(figure, title=title, note=note, alt=alt, height=420)
    return figure.update_layout(margin_t=figure.layout.margin.t + 24)
