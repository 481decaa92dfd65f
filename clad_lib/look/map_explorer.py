"""The map explorer: the latent map in several colours, with the images that one points at."""

from __future__ import annotations

import json
from numbers import Real
from typing import Any, NamedTuple

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
FRAME: dict[str, Any] = {"height": 560, "title": None, "dragmode": "lasso", "margin": {"t": 40}}
NARROW = {"yaxis": {"scaleanchor": False}, "margin": {"t": 40, "l": 40}}  # else it is cut off
FRAME |= {"modebar": {"color": QUIET, "activecolor": INK}}


class Mapped(NamedTuple):
    """A map: points (N, 2), images (N, C, H, W) uint8, and what is known of them, a row an image.

    Columns of `facts` are numbers or categories; `cluster` and `confidence` are among them once
    the clusters are made. `told` says how the map was drawn.
    """

    points: np.ndarray
    images: np.ndarray
    facts: pd.DataFrame
    told: str = ""


def map_explorer(study: Study) -> ipw.Widget:
    """The explorer of a run's map, or one sentence that says what is missing."""
    return parts.or_sentence(lambda: MapExplorer(gather(study)))


def gather(study: Study) -> Mapped:
    """The run's map with all that its finished stages say of its images.

    Hidden classes are among it, for analysis only. Raises StoreError where there is no map yet.
    """
    drawn, split, facts = study.find("latent_map"), study.split, dict[str, Any]()
    rows, categories = drawn.rows, pd.Categorical.from_codes
    if study.has("clusters"):
        clusters = study.find("clusters")
        names = [f"cluster {k}" for k in range(clusters.labels.max() + 1)]
        facts["cluster"] = categories(clusters.labels[rows], names)
        facts["confidence"] = clusters.confidence[rows]
    if study.has("outputs"):
        logits = study.find("outputs").train.logits[rows]
        facts["anomaly score (MSP)"] = msp(logits.float()).numpy()
    hidden = split.answers.train_class[rows]
    facts["hidden class (analysis)"] = categories(hidden, split.class_names)
    told = f"{len(rows):,} of {len(split.train):,} training images; t-SNE by {drawn.backend}, "
    told += f"perplexity {drawn.perplexity:g}, seed {drawn.seed}."
    return Mapped(drawn.points, split.train[rows].numpy(), pd.DataFrame(facts), told)


def summary(facts: pd.DataFrame) -> pd.DataFrame:
    """What images have in common: mean and range of numbers, the five commonest categories."""
    told = {}
    for name, values in facts.items():
        if values.dtype == "category":
            counts = values.value_counts().head(5)
            told[name] = ", ".join(f"{each}: {n:,}" for each, n in counts.items() if n)
        else:
            told[name] = f"{values.mean():.3g}, from {values.min():.3g} to {values.max():.3g}"
    return pd.DataFrame({"": told})


class MapExplorer(ipw.VBox):
    """Controls: colour, and cluster, which opens one; `select` shows images and what they share."""

    def __init__(self, data: Mapped):
        self.data, options = data, ["none"]
        if "cluster" in data.facts:
            options += [*data.facts["cluster"].cat.categories]
        self.colour = ipw.Dropdown(options=[*data.facts], description="colour by")
        self.cluster = ipw.Dropdown(options=options, description="open")
        self.message, self.panel = ipw.HTML(), ipw.HTML().add_class("clad-panel")
        self.figure = Figure(script=plotly_script(), acts=True, narrow=NARROW).add_class("clad-map")
        self._paint()
        parts.say(self.message, f"{data.told} {HELP}")
        beside = [self.figure, self.panel]
        super().__init__(parts.rows([self.colour, self.cluster], self.message, beside))
        self.add_class("clad")
        self.colour.observe(self._paint, "value")
        self.cluster.observe(self._open, "value")
        self.figure.on_msg(self._heard)

    def _paint(self, _: Any = None) -> None:
        meaning, values = self.colour.value, self.data.facts[self.colour.value]
        kind: dict[str, Any] = {"meaning": meaning, "continuous": values.dtype != "category"}
        if not kind["continuous"]:
            kind["names"], values = [*values.cat.categories], values.cat.codes
        figure = latent_scatter(self.data.points, values.to_numpy(), **kind)
        plain = json.loads(figure.update_traces(hoverinfo="none", hovertemplate=None).to_json())
        with self.figure.hold_sync():
            self.figure.traces, self.figure.frame = plain["data"], plain["layout"] | FRAME
            self.figure.alt = f"{figure.layout.meta['alt']} {HELP}"

    def _heard(self, _: Any, content: dict[str, Any], __: Any) -> None:
        what, rows = content["what"], np.array(content["rows"], dtype=int)
        if what == "select":
            self.select(rows, "selected")
        elif what == "show":
            known = self.data.facts.iloc[rows[0]].items()
            told = [f"{n} {v:.3g}" if isinstance(v, Real) else str(v) for n, v in known]
            self.figure.tip = parts.strip(self.data.images[rows], [", ".join(told)], size=120)
        elif "cluster" in self.data.facts:
            self.cluster.value = "none"  # so that the cluster that is open opens again
            self.cluster.value = self.data.facts["cluster"].iloc[rows[0]]

    def _open(self, change: Any) -> None:
        self.panel.value = ""
        if change["new"] != "none":
            members = np.flatnonzero(self.data.facts["cluster"] == change["new"])
            self.select(members, f"in {change['new']}")

    def select(self, rows: np.ndarray, what: str) -> None:
        """Show some images, the surest and the least sure of them, and what they all share."""
        share = parts.per_cent(len(rows) / len(self.data.points))
        title = f"{len(rows):,} images {what}, {share} of the map"
        told = parts.table(summary(self.data.facts.iloc[rows]), title)
        sure = self.data.facts.get("confidence", pd.Series(0.0, self.data.facts.index))
        rows = rows[np.argsort(-sure.to_numpy()[rows], kind="stable")]
        for name, few in (("Surest", rows[:HALF]), ("Least sure", rows[HALF:][::-1][:HALF])):
            texts = [f"{share:.3f}" for share in sure.iloc[few]]
            told += f"<p>{name}</p>{parts.strip(self.data.images[few], texts)}"
        self.panel.value = told if len(rows) else "No image is selected."
