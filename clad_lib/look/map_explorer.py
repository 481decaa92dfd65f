"""The map explorer: the latent map in several colours, with the images that one points at."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import ipywidgets as ipw
import numpy as np
import pandas as pd

from clad_lib.clad.latent_map import place
from clad_lib.clad.posthoc import msp
from clad_lib.clad.training import infer
from clad_lib.look import parts
from clad_lib.look.charts_of_clusters import latent_scatter
from clad_lib.look.live import Figure, plotly_script
from clad_lib.look.theme import KINDS
from clad_lib.study.engine import Study

PLACED, SHOWN = 500, 24  # test images put on the map, images of a selection
HELP = (
    "Point at an image, click for its cluster, draw a lasso or a box to select. By keyboard: arrows"
    " go from image to image, Enter opens the cluster, the space bar selects the 24 nearest."
)


class Mapped(NamedTuple):
    """A map: points (N, 2), images (N, C, H, W) uint8, and what is known of them, a row an image.

    Columns of `facts` are numbers or categories; `cluster` and `confidence` are among them once
    the clusters are made. `told` says how the map was drawn. `place` puts test images on the map
    and returns their points (M, 2), images and whether they are anomalies (M,).
    """

    points: np.ndarray
    images: np.ndarray
    facts: pd.DataFrame
    told: str = ""
    place: Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None


def map_explorer(study: Study) -> ipw.Widget:
    """The explorer of a run's map, or one sentence that says what is missing."""
    return parts.or_sentence(lambda: MapExplorer(gather(study)))


def gather(study: Study) -> Mapped:
    """The run's map with all that its finished stages say of its images; hidden classes are for
    analysis only. Raises StoreError where there is no map yet.
    """
    drawn, split, facts = study.find("latent_map"), study.split, dict[str, Any]()
    rows = drawn.rows
    if study.has("clusters"):
        clusters = study.find("clusters")
        names = [f"cluster {k}" for k in range(clusters.labels.max() + 1)]
        facts["cluster"] = pd.Categorical.from_codes(clusters.labels[rows], names)
        facts["confidence"] = clusters.confidence[rows]
    if study.has("outputs"):
        logits = study.find("outputs").train.logits[rows].float()
        facts["anomaly score (MSP)"] = msp(logits).numpy()
    hidden = split.answers.train_class[rows]
    facts["hidden class (analysis)"] = pd.Categorical.from_codes(hidden, split.class_names)
    told = f"{len(rows):,} of {len(split.train):,} training images; t-SNE by {drawn.backend}"
    told += f", perplexity {drawn.perplexity:g}, seed {drawn.seed}."

    def placed() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.random.default_rng(study.config.seed).permutation(len(split.test))[:PLACED]
        model, test = study.find("autoencoder").model, split.test[order]
        latents = [
            infer(model, each, function=model.encode).numpy() for each in (split.train[rows], test)
        ]
        return place(drawn, *latents), test.numpy(), split.answers.test_anomaly[order]

    return Mapped(drawn.points, split.train[rows].numpy(), pd.DataFrame(facts), told, placed)


def summary(facts: pd.DataFrame) -> pd.DataFrame:
    """What some images have in common: a number's mean and range, the five commonest categories."""
    lines = {}
    for name, values in facts.items():
        if isinstance(values.dtype, pd.CategoricalDtype):
            counts = values.value_counts()
            known = [f"{each} ({n:,})" for each, n in counts[counts > 0].head(5).items()]
            lines[name] = ", ".join(known)
        else:
            lines[name] = f"mean {values.mean():.3g}, {values.min():.3g} to {values.max():.3g}"
    return pd.DataFrame({"": lines})


class MapExplorer(ipw.VBox):
    """Controls: colour, cluster (opens it), placer; `select` shows images and what they share."""

    def __init__(self, data: Mapped):
        self.data, self.images, self.placed = data, data.images, list[dict[str, Any]]()
        clusters = data.facts["cluster"].cat.categories if "cluster" in data.facts else []
        self.colour = ipw.Dropdown(options=[*data.facts], description="colour by")
        self.cluster = ipw.Dropdown(
            options=["none", *clusters], description="open", disabled=not len(clusters)
        )
        self.placer = ipw.Button(description="Place test images", disabled=data.place is None)
        self.message, self.panel = (ipw.HTML().add_class(f"clad-{n}") for n in ("message", "panel"))
        self.panel.layout = ipw.Layout(flex="1 1 300px", max_height="560px", overflow="auto")
        self.figure = Figure(script=plotly_script(), acts=True)
        self.figure.layout.flex = "3 1 460px"
        self._paint()
        parts.say(self.message, f"{data.told} {HELP}")
        super().__init__(
            parts.rows(
                [self.colour, self.cluster, self.placer], self.message, [self.figure, self.panel]
            )
        )
        self.add_class("clad")
        self.colour.observe(self._paint, "value")
        self.cluster.observe(self._open, "value")
        self.placer.on_click(self._place)
        self.figure.on_msg(self._heard)

    def _paint(self, _: Any = None) -> None:
        values = self.data.facts[self.colour.value]
        sorts = isinstance(values.dtype, pd.CategoricalDtype)
        codes, names = (values.cat.codes, list(values.cat.categories)) if sorts else (values, None)
        figure = latent_scatter(
            self.data.points,
            np.asarray(codes),
            continuous=not sorts,
            meaning=self.colour.value,
            names=names,
        )
        figure.update_layout(
            title=None, height=560, margin={"t": 16, "l": 40, "b": 90}, dragmode="lasso"
        )
        figure.update_traces(hoverinfo="none", hovertemplate=None)
        plain = json.loads(figure.to_json())
        with self.figure.hold_sync():
            self.figure.traces = plain["data"] + self.placed
            self.figure.frame, self.figure.alt = (
                plain["layout"],
                f"{figure.layout.meta['alt']} {HELP}",
            )

    def _heard(self, _: Any, content: dict[str, Any], __: Any) -> None:
        rows = np.array(content["rows"], dtype=int)
        known = rows[rows < len(self.data.points)]
        with parts.guarded(self.message):
            if content["what"] == "show":
                self.figure.tip = parts.strip(self.images[rows], [self.caption(rows[0])], size=120)
            elif content["what"] == "select":
                self.select(known, "selected")
            elif len(known) and "cluster" in self.data.facts:
                self.cluster.value = "none"  # so that the cluster that is open opens again
                self.cluster.value = self.data.facts["cluster"].iloc[known[0]]

    def _open(self, change: Any) -> None:
        facts = self.data.facts
        self.panel.value = ""
        if change["new"] != "none":
            self.select(np.flatnonzero(facts["cluster"] == change["new"]), f"in {change['new']}")

    def caption(self, row: int) -> str:
        """What is known of one image."""
        if row >= len(self.data.points):
            return "test image (analysis)"
        told = self.data.facts.iloc[row].items()
        return ", ".join(f"{n} {v:.3g}" if isinstance(v, float) else f"{v}" for n, v in told)

    def select(self, rows: np.ndarray, what: str) -> None:
        """Show what some images share, the surest half of those shown, then the least sure."""
        facts, half = self.data.facts.iloc[rows], SHOWN // 2
        if "confidence" in facts:
            rows = rows[np.argsort(-facts["confidence"].to_numpy(), kind="stable")]
        share = parts.per_cent(len(rows) / len(self.data.points))
        shown = parts.table(summary(facts), f"{len(rows):,} images {what}, {share} of the map")
        for name, few in (("Surest", rows[:half]), ("Least sure", rows[half:][::-1][:half])):
            texts = [
                f"{c:.3f}" for c in facts.get("confidence", pd.Series(index=facts.index)).loc[few]
            ]
            shown += f"<b>{name}</b><br>{parts.strip(self.images[few], texts)}<br>"
        self.panel.value = shown if len(rows) else "No image is selected."

    def _place(self, _: Any) -> None:
        with parts.guarded(self.message):
            if self.data.place is None:
                return
            points, images, anomaly = self.data.place()
            self.images = np.concatenate([self.images, images])
            for (kind, look), of in zip(KINDS.items(), (~anomaly, anomaly), strict=True):
                (x, y), rows = points[of].T.tolist(), len(self.data.points) + np.flatnonzero(of)
                mark = {
                    "color": look.colour,
                    "symbol": look.symbol,
                    "size": 9,
                    "line": {"width": 1, "color": "white"},
                }
                trace = {
                    "type": "scattergl",
                    "mode": "markers",
                    "marker": mark,
                    "hoverinfo": "none",
                }
                self.placed.append(
                    trace
                    | {
                        "x": x,
                        "y": y,
                        "customdata": rows[:, None].tolist(),
                        "name": f"test: {kind}",
                    }
                )
            self.placer.disabled = True
            self._paint()
            parts.say(
                self.message, f"{len(points)} test images placed (analysis); the map did not move."
            )
