"""Latents and clusters in pictures: maps, confidence, hidden classes, health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.express as px
from plotly.graph_objects import Figure

from clad_lib.judge.metrics import finite
from clad_lib.look import theme


def latent_scatter(
    points: np.ndarray,
    values: np.ndarray,
    *,
    continuous: bool = False,
    meaning: str = "cluster",
    names: Sequence[str] | None = None,
    hover: Mapping[str, np.ndarray] | None = None,
    title: str = "Map of the latent space",
) -> Figure:
    """A map of points (N, 2), by categories (N,) with `names`, or `continuous` values on a scale.

    meaning: what the values are, with the unit; hover: name -> (N,) to show beside the row number.
    WebGL draws it, so that 10,000 points stay fluid.
    """
    x, y = (finite(each, "points").astype(np.float32) for each in np.transpose(points))
    shown = finite(values, meaning) if continuous else theme.named(values, names, word=meaning)
    known = pd.DataFrame({"x": x, "y": y, "image": np.arange(len(x)), meaning: shown})
    columns = known.join(pd.DataFrame(hover or {}).round(4))
    figure = px.scatter(
        columns.iloc[np.argsort(values, kind="stable")],
        x="x",
        y="y",
        color=meaning,
        symbol=None if continuous else meaning,
        hover_data={name: name not in "xy" for name in columns if name != meaning},
        render_mode="webgl",
        template=theme.TEMPLATE,
    )
    figure.update_traces(marker_size=np.clip(260 / np.sqrt(len(x)), 4, 9), marker_line_width=0.5)
    ends = {"from": f"{min(values):.3g}", "to": f"{max(values):.3g}"}
    groups = ends if continuous else pd.Series(shown).value_counts().sort_index()
    bare = {"showticklabels": False, "ticks": "", "showgrid": False, "constrain": "domain"}
    return theme.finish(
        figure,
        title=title,
        note="Each mark is an image; images that lie close have similar latents. Distances between "
        "groups mean little.",
        alt=f"{len(x)} images by {meaning}: {theme.listed(groups)}.",
        height=640,
        xaxis=bare | {"title": "t-SNE 1 (no unit)"},
        yaxis=bare | {"title": "t-SNE 2 (no unit)", "scaleanchor": "x"},
    )


def confidence_histograms(
    confidence: np.ndarray,
    labels: np.ndarray,
    *,
    hidden: np.ndarray,
    names: Sequence[str] | None = None,
) -> Figure:
    """Confidence (N,) in [0, 1], a panel for each of the labels (N,), by hidden class (N,)."""
    kinds = {"cluster": theme.named(labels, word="cluster"), "class": theme.named(hidden, names)}
    frame = pd.DataFrame({"confidence q": finite(confidence, "confidences"), **kinds})
    figure = px.histogram(
        frame.iloc[np.argsort(hidden)],
        x="confidence q",
        color="class",
        pattern_shape="class",
        facet_col="cluster",
        facet_col_wrap=5,
        facet_col_spacing=0.03,
        category_orders={"cluster": theme.named(np.unique(labels), word="cluster")},
        template=theme.TEMPLATE,
    ).update_xaxes(matches=None, range=[0, 1])  # plotly loses the other range of matched axes
    figure.update_traces(xbins={"start": 0, "end": 1, "size": 0.05})
    figure.update_yaxes(title="images", col=1)
    means = frame["confidence q"].groupby(labels).mean()
    return theme.finish(
        figure,
        title="How sure each cluster is of its images",
        note="One panel a cluster. Confidence is the largest soft assignment q: mass at the right "
        "is a clear cluster, mass at the left images that could belong elsewhere. Colours are "
        "hidden classes, for analysis only.",
        alt=f"Mean confidence: {theme.listed(means, '.2f')}.",
        height=220 + 150 * -(-len(means) // 5),
        above=20,
        bargap=0,
    )


def cluster_matrix(
    labels: np.ndarray,
    hidden: np.ndarray,
    *,
    names: Sequence[str] | None = None,
) -> Figure:
    """Images of each hidden class (N,) in each cluster (N,); sorted by main class."""
    counts = pd.crosstab(np.asarray(labels), np.asarray(hidden))
    counts = counts.iloc[np.lexsort((-counts.max(axis=1), counts.to_numpy().argmax(axis=1)))]
    figure = px.imshow(
        counts.div(counts.sum(axis=1), axis=0).to_numpy(),
        x=theme.named(counts.columns, names),
        y=counts.index.astype(str),
        labels={"x": "hidden class", "y": "cluster", "color": "share of the cluster"},
        color_continuous_scale=theme.SHADES,
        zmin=0,
        zmax=1,
        aspect="auto",
    )
    figure.update_traces(text=counts, texttemplate="%{text}", textfont_color=theme.INK)
    return theme.finish(
        figure.update_traces(xgap=2, ygap=2),
        title="What the clusters hold (analysis only)",
        note="Numbers are images; a darker cell is a larger share of its cluster, so that a pure "
        "cluster has one dark cell. Hidden classes enter no step of training. "
        f"Purity: {counts.max(axis=1).sum() / len(labels):.3f}.",
        alt=f"{len(counts)} clusters, {counts.shape[1]} hidden classes.",
        height=max(400, 200 + 30 * len(counts)),
        coloraxis_colorbar_tickformat=".0%",
        xaxis_type="category",
        yaxis_type="category",
    )


def cluster_health(
    shares: np.ndarray,
    churn: np.ndarray,
    entropy: np.ndarray,
    *,
    dead_share: float = 0.05,
    tolerance: float = 1e-3,
) -> Figure:
    """Shares (K,) of the images, churn (epochs,) of labels, and entropy (epochs,) in [0, 1].

    dead_share: the part of an even share below which a cluster is dead; tolerance: the churn that
    stops training.
    """
    parts = {"share of the images": shares, "labels changed": churn, "entropy of q": entropy}
    series = {name: pd.Series(part if len(part) else [np.nan]) for name, part in parts.items()}
    frame = pd.concat(series, names=["panel", "at"]).rename("value").reset_index()
    frame["at"] += frame.panel != "share of the images"  # epochs from 1, clusters from 0
    figure = px.bar(
        frame,
        x="at",
        y="value",
        facet_col="panel",
        facet_col_spacing=0.08,
        template=theme.TEMPLATE,
    )
    figure.update_xaxes(matches=None).update_yaxes(matches=None, showticklabels=True)
    even, last = 1 / len(shares), [f"{each[-1]:.3f}" for each in (churn, entropy) if len(each)]
    figure.add_hline(even, line=theme.DASHED, col=1)
    figure.add_hline(dead_share * even, line=theme.DOTTED, col=1)
    figure.add_hline(tolerance, line=theme.DOTTED, col=2)
    return theme.finish(
        figure,
        title="Health of the clusters",
        note="Left: dashed is an even share; a bar below the dotted line is a dead cluster. "
        "Middle: training stops when churn falls below the line. Right: entropy of q falls as "
        "assignments become certain, from 1 to 0.",
        alt=f"{sum(shares < dead_share * even)} of {len(shares)} clusters are dead; "
        f"last churn and entropy: {' and '.join(last) or 'none'}.",
        above=24,
        xaxis_title="cluster",
        xaxis2_title="epoch",
        xaxis3_title="epoch",
        yaxis={"title": "", "tickformat": ".0%"},
        yaxis2={"tickformat": ".2~%", "range": [0, 1.1 * max([4 * tolerance, *churn])]},
        yaxis3_range=[0, 1.02],
    )
