"""The threshold explorer: choose a score and a line, see at once what it costs, and keep it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd

from clad_lib.judge import guarantees
from clad_lib.look import operating_point as points
from clad_lib.look import parts
from clad_lib.look.live import Figure, Slider, plotly_script
from clad_lib.look.operating_point import Choice, Gathered, Point, Setting, Sheet
from clad_lib.look.theme import INK, KINDS, NORMAL, TEMPLATE
from clad_lib.study.engine import Study
from clad_lib.study.measure import ALPHA, DELTA

Keep = Callable[[Setting, Choice, Point], dict[str, Any]]
WIDE: dict[str, Any] = {"style": {"description_width": "initial"}}
BARS = 50
SHARE = {"range": [-0.02, 1.02], "tickformat": ".0%"}
FRAME: dict[str, Any] = {
    "template": TEMPLATE.to_plotly_json(),
    "height": 400,
    "barmode": "overlay",
    "bargap": 0,
    "margin": {"t": 16, "b": 100},
    "yaxis": {"title": {"text": "share of the images of a kind"}, "tickformat": ".0%"},
    "xaxis2": {"domain": [0.68, 1], "title": {"text": "normal images that alarm"}, **SHARE},
    "yaxis2": {"anchor": "x2", "title": {"text": "anomalies found"}, **SHARE},
}
BELOW = {  # where the page is narrow, the second panel stands below the first
    "height": 720,
    "xaxis": {"domain": [0, 1]},
    "yaxis": {"domain": [0.6, 1]},
    "xaxis2": {"domain": [0, 1], "anchor": "y2"},
    "yaxis2": {"domain": [0, 0.42]},
}


def threshold_explorer(study: Study, *, alpha: float = ALPHA, may_keep: bool = True) -> ipw.Widget:
    """The explorer of one run, or one sentence that says what is missing.

    `alpha` is the false-alarm rate named beforehand: only its line on the configured score is kept
    as `clean`.
    """
    keep = partial(points.keep_threshold, study) if may_keep else None
    return parts.or_sentence(
        lambda: ThresholdExplorer(points.gather(study), alpha=alpha, keep=keep)
    )


def threshold_traces(sheet: Sheet, edges: np.ndarray) -> list[dict[str, Any]]:
    """Bars of normal test images and of anomalies, and the ROC curve, as plain traces of plotly.

    What lies beyond the edges (B + 1,) is counted in the end bars.
    """
    traces, curve = list[dict[str, Any]](), list[list[float]]()
    lines = np.quantile(sheet.test, np.linspace(1, 0, 401))
    for (kind, look), of in zip(KINDS.items(), (~sheet.anomaly, sheet.anomaly), strict=True):
        scores, many = sheet.test[of], max(int(of.sum()), 1)
        heights = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0] / many
        bar = {"x": edges[:-1].tolist(), "y": heights.tolist(), "width": float(np.diff(edges)[0])}
        fill = {"color": look.colour, "pattern": {"shape": look.pattern}}
        bar |= {"type": "bar", "offset": 0, "opacity": 0.7, "marker": fill}
        traces.append({"name": f"{kind} ({of.sum():,} images)", **bar})
        curve.append([*((scores[:, None] > lines).sum(0) / many).tolist(), 1.0])
    roc = {"x": curve[0], "y": curve[1], "xaxis": "x2", "yaxis": "y2", "name": "ROC curve"}
    line = {"type": "scatter", "mode": "lines", "line": {"color": NORMAL.colour}}
    return [*traces, roc | line]


def score_axis(sheet: Sheet, edges: np.ndarray) -> dict[str, Any]:
    """The axis of scores: a tick says how many calibration images lie above it, then its score."""
    ticks = edges[:: len(edges) // 5]
    above = (sheet.calibration[:, None] > ticks).mean(0)
    scores = [parts.number(tick, edges[-1] - edges[0]) for tick in ticks]
    texts = [f"{share:.1%}<br>{score}" for share, score in zip(above, scores, strict=True)]
    title = {"text": "calibration images above, and the score (higher = more anomalous)"}
    return {"domain": [0, 0.58], "tickvals": ticks.tolist(), "ticktext": texts, "title": title}


def line_shapes(threshold: float, point: Point) -> list[dict[str, Any]]:
    """The line among the scores, and the circle at the same line on the ROC curve."""
    alarms = point.false_alarms / max(point.false_alarms + point.passed, 1)
    found = point.caught / max(point.caught + point.missed, 1)
    ends = {"type": "line", "x0": threshold, "x1": threshold, "y0": 0, "y1": 1, "yref": "y domain"}
    circle = {"type": "circle", "x0": -8, "x1": 8, "y0": -8, "y1": 8, "xref": "x2", "yref": "y2"}
    circle |= {"xsizemode": "pixel", "xanchor": alarms, "ysizemode": "pixel", "yanchor": found}
    stroke = {"color": INK, "width": 2}
    return [{**ends, "line": stroke | {"dash": "dash"}}, {**circle, "line": stroke}]


def nearest_images(sheet: Sheet, images: np.ndarray, threshold: float, *, count: int = 8) -> str:
    """The test images next to the line as HTML: alarms above it, and those below or on it."""
    order, told = np.argsort(sheet.test, kind="stable"), ""
    cut = int(np.searchsorted(sheet.test[order], threshold, side="right"))
    sides = order[cut : cut + count], order[max(0, cut - count) : cut][::-1]
    for name, places in zip(("Just above the line: alarms", "Just below it"), sides, strict=True):
        scores = [parts.number(score, sheet.test.std()) for score in sheet.test[places]]
        kinds = np.where(sheet.anomaly[places], "anomaly", "normal")
        texts = [f"{score} {kind}" for score, kind in zip(scores, kinds, strict=True)]
        told += f"<b>{name}</b><br>{parts.strip(images[sheet.rows[places]], texts)}<br>"
    return told


class ThresholdExplorer(ipw.VBox):
    """Controls: score, temperature, epsilon; slider, typed, rate (in per cent) for the line.

    Nothing is computed but counts: every score is there already. setting, choice and point are
    what is shown. Another score keeps the rule "this rate"; a line that was put by hand keeps its
    share of calibration images above. `keep` writes the line down.
    """

    def __init__(self, data: Gathered, *, alpha: float = ALPHA, keep: Keep | None = None):
        self.data, self.named, self.keep = data, alpha, keep
        names = dict.fromkeys(setting.score for setting in data.sheets)
        odin = [setting for setting in data.sheets if setting.temperature is not None]
        self.score = ipw.Dropdown(options=names, value=data.start.score, description="score")
        self.temperature, self.epsilon = (
            ipw.Dropdown(options=[(f"{v:,g}", v) for v in sorted({s[i] for s in odin})], **WIDE)
            for i in (1, 2)
        )
        self.temperature.description, self.epsilon.description = Setting._fields[1:]
        self.slider = Slider(label="calibration images above the line")
        text = partial(ipw.Text, continuous_update=False, **WIDE)
        self.typed = text(description="score at the line")
        self.rate = text(value=f"{100 * alpha:g}", description="false alarms wanted, at most (%)")
        self.by_rate = ipw.Button(description="Set by this rate")
        self.keeper = ipw.Button(description="Keep this threshold", disabled=keep is None)
        places = ("message", "promise", "kept", "counts", "rates", "clusters", "images")
        self.told = {name: ipw.HTML().add_class(f"clad-{name}") for name in places}
        self.figure = Figure(script=plotly_script(), narrow=BELOW)
        self._take(data.start)
        self._put_rate(alpha)
        super().__init__(parts.rows(*self._rows()))
        self.add_class("clad")
        for control in (self.score, self.temperature, self.epsilon):
            control.observe(self._on_setting, "value")
        self.slider.observe(self._on_slider, "value")
        self.typed.observe(self._on_typed, "value")
        self.rate.observe(self._on_rate, "value")
        self.by_rate.on_click(self._on_rate)
        self.keeper.on_click(self._on_keep)

    def _rows(self) -> list[ipw.Widget | list[ipw.Widget]]:
        told = self.told
        return [
            [self.score, self.temperature, self.epsilon],
            self.slider,
            [self.typed, self.rate, self.by_rate, self.keeper],
            *(told["message"], told["promise"], told["kept"], self.figure),
            [told["counts"], told["rates"], told["clusters"]],
            told["images"],
        ]

    def _take(self, setting: Setting) -> None:
        self.setting, self.sheet = setting, self.data.sheets[setting]
        self.band = guarantees.false_alarm_band(self.sheet.calibration, delta=DELTA)
        self.edges = np.linspace(*np.quantile(self.sheet.test, [0.001, 0.999]), BARS + 1)
        self.temperature.disabled = self.epsilon.disabled = setting.temperature is None
        if setting.temperature is not None:  # as shown, which a missing pair of the two is not
            self.temperature.value, self.epsilon.value = setting.temperature, setting.epsilon

    def _put(self, choice: Choice, position: float | None = None) -> None:
        """Put the line there and show what follows; a hand on the slider left it at `position`."""
        self.choice, sheet, told = choice, self.sheet, self.told
        point = self.point = points.operating_point(sheet, choice.threshold, self.band)
        self.position = 100 * point.above / point.calibration if position is None else position
        self.slider.step = max(100 / point.calibration, 0.1)
        self.slider.text = points.place_sentence(point, choice.threshold, sheet.test.std())
        self.slider.value = self.position
        self.typed.value = self._as_text(choice.threshold)
        kinds = {"alarm": [point.caught, point.false_alarms], "none": [point.missed, point.passed]}
        counts = pd.DataFrame(kinds, ["anomalies", "normal images"])
        told["counts"].value = parts.table(counts, f"Counts of {len(sheet.test):,} test images")
        rates = points.false_alarms(choice, point)
        told["rates"].value = parts.table(rates, "False alarms in 1,000 normal images")
        if sheet.clusters is not None:
            rates = points.cluster_rates(sheet, choice.threshold)
            told["clusters"].value = parts.table(rates, "In each pseudo-class")
        told["images"].value = nearest_images(sheet, self.data.images, choice.threshold)
        parts.say(told["promise"], points.promise_sentence(choice, tracks=self.data.tracks))
        parts.say(told["message"], self.data.left_out)
        parts.say(told["kept"], "")
        with self.figure.hold_sync():
            self.figure.traces = threshold_traces(sheet, self.edges)
            shapes, axis = line_shapes(choice.threshold, point), score_axis(sheet, self.edges)
            self.figure.frame = FRAME | {"xaxis": axis, "shapes": shapes}
            self.figure.alt = f"Histogram and ROC curve of {self.setting}; line: {self.slider.text}"

    def _as_text(self, threshold: float) -> str:
        return parts.number(threshold, self.sheet.test.std())

    def _put_share(self, position: float) -> None:
        self._put(Choice(points.line_with_share(self.sheet.calibration, position / 100)), position)

    def _put_rate(self, alpha: float) -> None:
        self._put(points.line_for_rate(self.sheet.calibration, alpha, named=self.named))

    def _on_setting(self, _: Any) -> None:
        wanted = Setting(self.score.value, self.temperature.value, self.epsilon.value)
        fits = [setting for setting in self.data.sheets if setting.score == wanted.score]
        near = [setting for setting in fits if setting.temperature == wanted.temperature]
        self._take(wanted if wanted in fits else (near or fits)[0])
        if self.choice.alpha is None:
            self._put_share(self.position)
        else:
            self._put_rate(self.choice.alpha)

    def _on_slider(self, change: Any) -> None:
        if change["new"] != self.position:
            self._put_share(change["new"])

    def _on_typed(self, change: Any) -> None:
        if change["new"] != self._as_text(self.choice.threshold):
            with parts.guarded(self.told["message"]):
                known = np.append(self.sheet.calibration, self.sheet.test)
                limits = float(known.min()), float(known.max())
                self._put(
                    Choice(parts.read_number(change["new"], "the score at the line", *limits))
                )

    def _on_rate(self, _: Any) -> None:
        with parts.guarded(self.told["message"]):
            what = "the wanted rate of false alarms"
            self._put_rate(parts.read_number(self.rate.value, what, 0.01, 99.9) / 100)

    def _on_keep(self, _: Any) -> None:
        with parts.guarded(self.told["kept"]):
            if self.keep is not None:
                record = self.keep(self.setting, self.choice, self.point)
                told = f"{self.slider.text}, on {self.setting}, chosen as {self.choice.by}"
                parts.say(self.told["kept"], f"Kept with the run as {record['protocol']}: {told}.")
