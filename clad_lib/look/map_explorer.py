"""The map explorer: the latent map in several colours, with the images that one points at."""

from __future__ import annotations

from numbers import Real
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd

from clad_lib.clad.posthoc import msp
from clad_lib.look import parts
from clad_lib.look.charts_of_clusters import latent_scatter
from clad_lib.look.live import Figure, plotly_script
from clad_lib.look.theme import INK, QUIET
from clad_lib.study.engine import Study

HALF = 12  # images of a selection on each of two lines
HELP = (
    "Point at an image, click to open its cluster, draw a lasso or a box to select. By keyboard: "
    "arrows move from image to image, Enter opens the cluster, the space bar selects 24 around it."
)
FRAME: dict[str, Any] = {
    "height": 560,
    "title": None,
    "dragmode": "lasso",
    "margin": {"t": 40},
    "modebar": {"color": QUIET, "activecolor": INK},
}
NARROW = {"yaxis": {"scaleanchor": False}, "margin": {"t": 40, "l": 40}}  # else it is cut off


def map_explorer(study: Study) -> ipw.Widget:
    """The explorer of a run's map, or one sentence that says what is missing."""
    return parts.or_sentence(lambda: MapExplorer(**gather(study)))


def gather(study: Study) -> dict[str, Any]:
    """The run's map with all that its finished stages say of its images, for a MapExplorer.

    Hidden classes are among it, for analysis only. Raises StoreError where there is no map yet.
    """
    drawn, split, facts = study.find("latent_map"), study.split, pd.DataFrame()
    rows, categories = drawn.rows, pd.Categorical.from_codes
    if study.has("clusters"):
        clusters = study.find("clusters")
        names = [f"cluster {k}" for k in range(clusters.labels.max() + 1)]
        facts["cluster"] = categories(clusters.labels[rows], names)
        facts["confidence"] = clusters.confidence[rows]
    if study.has("outputs"):
        logits = study.find("outputs").train.logits[rows]
        facts["anomaly score (MSP)"] = msp(logits.float()).numpy()
    facts["hidden class (analysis)"] = categories(
        split.answers.train_class[rows], split.class_names
    )
    told = f"{len(rows):,} of {len(split.train):,} training images; t-SNE by {drawn.backend}, "
    told += f"perplexity {drawn.perplexity:g}, seed {drawn.seed}."
    images = split.train[rows].numpy()
    return {"points": drawn.points, "images": images, "facts": facts, "told": told}


def in_words(values: pd.Series) -> str:
    """What images have in common: mean and range of numbers, the five commonest categories."""
    if values.dtype == "category":
        counts = values.value_counts().head(5)
        return ", ".join(f"{name}: {n:,}" for name, n in counts.items() if n)
    return f"{values.mean():.3g}, from {values.min():.3g} to {values.max():.3g}"


class MapExplorer(parts.Explorer):
    """The map of points (N, 2), of images (N, C, H, W) uint8 and what is known of them, a row each.

    Columns of `facts` are numbers or categories; `cluster` and `confidence` are among them once
    the clusters are made. `told` says how the map was drawn. Controls: colour, and cluster, which
    opens one; `select` shows images and what they share.
    """

    def __init__(self, points: np.ndarray, images: np.ndarray, facts: pd.DataFrame, told: str = ""):
        self.points, self.images, self.facts = points, images, facts
        clusters = facts.get("cluster", pd.Series(dtype="category")).cat.categories
        self.colour = ipw.Dropdown(options=[*facts], description="colour by")
        self.cluster = ipw.Dropdown(options=["none", *clusters], description="open")
        self.message, self.panel = ipw.HTML(), ipw.HTML().add_class("clad-panel")
        self.figure = Figure(script=plotly_script(), acts=True, narrow=NARROW).add_class("clad-map")
        self._paint()
        parts.say(self.message, f"{told} {HELP}")
        super().__init__([self.colour, self.cluster], self.message, [self.figure, self.panel])
        self.colour.observe(self._paint, "value")
        self.cluster.observe(self._open, "value")
        self.figure.on_msg(self._heard)

    def _paint(self, _: Any = None) -> None:
        name, values = self.colour.value, self.facts[self.colour.value]
        kind: dict[str, Any] = {"continuous": True}
        if values.dtype == "category":
            kind, values = {"names": [*values.cat.categories]}, values.cat.codes
        figure = latent_scatter(self.points, values.to_numpy(), meaning=name, **kind)
        figure.update_traces(hoverinfo="none", hovertemplate=None)
        self.figure.draw(figure, f"{figure.layout.meta['alt']} {HELP}", **FRAME)

    def _heard(self, _: Any, content: dict[str, Any], __: Any) -> None:
        what, rows = content["what"], np.array(content["rows"], dtype=int)
        if what == "select":
            self.select(rows, "selected")
        elif what == "show":
            known = self.facts.iloc[rows[0]].items()
            told = [f"{n} {v:.3g}" if isinstance(v, Real) else str(v) for n, v in known]
            self.figure.tip = parts.strip(self.images[rows], [", ".join(told)], size=120)
        elif "cluster" in self.facts:
            self.cluster.value = "none"  # so that the cluster that is open opens again
            self.cluster.value = self.facts["cluster"].iloc[rows[0]]

    def _open(self, change: Any) -> None:
        self.panel.value = ""
        if change["new"] != "none":
            members = np.flatnonzero(self.facts["cluster"] == change["new"])
            self.select(members, f"in {change['new']}")

    def select(self, rows: np.ndarray, what: str) -> None:
        """Show some images, the surest and the least sure of them, and what they all share."""
        share = parts.per_cent(len(rows) / len(self.points))
        common = {name: in_words(values) for name, values in self.facts.iloc[rows].items()}
        told = parts.table(
            pd.DataFrame({"": common}), f"{len(rows):,} images {what}, {share} of the map"
        )
        sure = self.facts.get("confidence", pd.Series(0.0, self.facts.index)).iloc[rows]
        sure = sure.sort_values(ascending=False, kind="stable")
        for title, few in (("Surest", sure[:HALF]), ("Least sure", sure[HALF:][::-1][:HALF])):
            told += parts.strip(self.images[few.index], few.map("{:.3f}".format), title=title)
        self.panel.value = told if len(rows) else "No image is selected."
