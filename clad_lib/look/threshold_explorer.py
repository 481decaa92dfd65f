"""The threshold explorer: choose a score and a line, see at once what it costs, and keep it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd

from clad_lib.look import operating_point as points
from clad_lib.look import parts
from clad_lib.look.live import Figure, Slider, plotly_script
from clad_lib.look.operating_point import Line, Setting, Sheet
from clad_lib.look.theme import INK, KINDS, NORMAL, TEMPLATE
from clad_lib.study.engine import Study
from clad_lib.study.measure import ALPHA

Keep = Callable[[Setting, Line], dict[str, Any]]
BARS, NEAR = 50, 8  # bars of a histogram, images on each side of the line
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
    "xaxis": {"domain": [0, 1], "tickfont": {"size": 9}, "title": {"text": ""}},
    "yaxis": {"domain": [0.6, 1]},
    "xaxis2": {"domain": [0, 1], "anchor": "y2"},
    "yaxis2": {"domain": [0, 0.42]},
}


def threshold_explorer(study: Study, *, alpha: float = ALPHA, may_keep: bool = True) -> ipw.Widget:
    """The explorer of one run, or one sentence that says what is missing.

    `alpha` is the false-alarm rate named beforehand: only its line on the configured score is kept
    as `clean`.
    """
    keep, images = partial(points.keep_threshold, study), study.split.test.numpy()
    more: dict[str, Any] = {"alpha": alpha, "keep": keep if may_keep else None}
    return parts.or_sentence(lambda: ThresholdExplorer(points.gather(study), images, **more))


def threshold_traces(sheet: Sheet, edges: np.ndarray) -> list[dict[str, Any]]:
    """Bars of normal test images and of anomalies, and the ROC curve, for plotly.

    What lies beyond the edges (B + 1,) is counted in the end bars.
    """
    traces, curve = list[dict[str, Any]](), list[list[float]]()
    lines = np.append(np.quantile(sheet.test, np.linspace(1, 0, 401)), -np.inf)
    for (kind, look), of in zip(KINDS.items(), (~sheet.anomaly, sheet.anomaly), strict=True):
        scores, many = np.sort(sheet.test[of]), max(int(of.sum()), 1)
        heights = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0] / many
        bar = {"x": edges[:-1].tolist(), "y": heights.tolist(), "width": edges[1] - edges[0]}
        bar |= {"marker": {"color": look.colour, "pattern": {"shape": look.pattern}}, "offset": 0}
        traces.append({"type": "bar", "name": f"{kind} ({of.sum():,} images)", **bar})
        above = (len(scores) - np.searchsorted(scores, lines, side="right")) / many
        curve.append(above.tolist())
    roc = {"x": curve[0], "y": curve[1], "mode": "lines", "line": {"color": NORMAL.colour}}
    return [*traces, {"type": "scatter", "name": "ROC curve", "xaxis": "x2", "yaxis": "y2", **roc}]


def threshold_frame(sheet: Sheet, line: Line, edges: np.ndarray) -> dict[str, Any]:
    """The layout for plotly, with the line among the scores and a circle on the ROC curve.

    A tick of the axis of scores says how many calibration images lie above it, then its score.
    """
    ticks = edges[:: BARS // 5]
    above = (sheet.calibration[:, None] > ticks).mean(0)
    scores = [parts.number(tick, edges[-1] - edges[0]) for tick in ticks]
    texts = [f"{share:.1%}<br>{score}" for share, score in zip(above, scores, strict=True)]
    title = {"text": "calibration images above, and score (higher: more anomalous)"}
    axis = {
        "domain": [0, 0.58],
        "tickangle": 0,
        "tickvals": ticks.tolist(),
        "ticktext": texts,
        "title": title,
    }
    x, ink = line.threshold, {"color": INK, "width": 2}
    across = {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "y domain"}
    alarms = line.false_alarms / max(line.false_alarms + line.passed, 1)
    found = line.caught / max(line.caught + line.missed, 1)
    circle = {"type": "circle", "xref": "x2", "yref": "y2", "xanchor": alarms, "yanchor": found}
    circle |= {"xsizemode": "pixel", "ysizemode": "pixel", "x0": -8, "x1": 8, "y0": -8, "y1": 8}
    shapes = [across | {"line": ink | {"dash": "dash"}}, circle | {"line": ink}]
    return FRAME | {"xaxis": axis, "shapes": shapes}


def costs(sheet: Sheet, line: Line) -> str:
    """What a line costs as tables in HTML: counts, false alarms, the rates of each pseudo-class."""
    kinds = {"alarm": [line.caught, line.false_alarms], "no alarm": [line.missed, line.passed]}
    counts = pd.DataFrame(kinds, ["anomalies", "normal images"])
    told = parts.table(counts, f"Counts of {len(sheet.test):,} test images", "counts")
    told += parts.table(points.false_alarms(line), "False alarms in 1,000 normal images", "rates")
    if sheet.clusters is not None:
        rates = points.cluster_rates(sheet, line.threshold)
        told += parts.table(rates, "In each pseudo-class", "clusters")
    return told


def nearest_images(sheet: Sheet, images: np.ndarray, threshold: float) -> str:
    """The test images next to the line as HTML: alarms above it, and those below or on it."""
    order, told = np.argsort(sheet.test, kind="stable"), ""
    cut = int(np.searchsorted(sheet.test[order], threshold, side="right"))
    sides = {"Just above the line: alarms": order[cut : cut + NEAR]}
    sides["Just below it"] = order[max(0, cut - NEAR) : cut][::-1]
    for name, places in sides.items():
        scores = [parts.number(score, sheet.test.std()) for score in sheet.test[places]]
        kinds = np.where(sheet.anomaly[places], "anomaly", "normal")
        texts = [f"{score} {kind}" for score, kind in zip(scores, kinds, strict=True)]
        told += f"<p>{name}</p>{parts.strip(images[sheet.rows[places]], texts)}"
    return told


class ThresholdExplorer(ipw.VBox):
    """Controls: score, temperature, epsilon; slider, typed, rate (in per cent) for the line.

    Nothing is computed but counts: every score is in the sheets, of which the first is shown
    first. `setting`, `sheet` and `line` are what is shown. Another score keeps the rule "this
    rate"; a line that was put by hand keeps its share of calibration images above. `keep` writes
    the line down.
    """

    def __init__(
        self,
        sheets: dict[Setting, Sheet],
        images: np.ndarray,
        *,
        alpha: float = ALPHA,
        keep: Keep | None = None,
    ):
        self.sheets, self.images, self.named, self.keep = sheets, images, alpha, keep
        scores = list(dict.fromkeys(setting.score for setting in sheets))
        self.score = ipw.Dropdown(description="score", options=scores)
        known: Any = [{s[place] for s in sheets if s.temperature is not None} for place in (1, 2)]
        self.temperature, self.epsilon = (
            ipw.Dropdown(description=name, options=[(f"{v:,g}", v) for v in sorted(values)])
            for name, values in zip(Setting._fields[1:], known, strict=True)
        )
        text = partial(ipw.Text, continuous_update=False, style={"description_width": "initial"})
        self.slider = Slider(label="calibration images above the line")
        self.typed = text(description="score at the line")
        self.rate = text(value=f"{100 * alpha:g}", description="false alarms wanted, at most (%)")
        self.by_rate = ipw.Button(description="Set by this rate")
        self.keeper = ipw.Button(description="Keep this threshold", disabled=keep is None)
        self.message, self.promise, self.costs, self.near = (ipw.HTML() for _ in range(4))
        self.figure = Figure(script=plotly_script(), narrow=BELOW)
        self._take(next(iter(sheets)))
        self._put_rate(alpha)
        controls = [self.score, self.temperature, self.epsilon]
        lines = [self.typed, self.rate, self.by_rate, self.keeper]
        told = (self.message, self.promise, self.figure, self.costs, self.near)
        super().__init__(parts.rows(controls, self.slider, lines, *told))
        self.add_class("clad")
        acts = dict.fromkeys(controls, self._on_setting)
        acts |= {self.slider: self._on_slider, self.typed: self._on_typed, self.rate: self._on_rate}
        for control, act in acts.items():
            control.observe(act, "value")
        self.by_rate.on_click(self._on_rate)
        self.keeper.on_click(self._on_keep)

    def _take(self, setting: Setting) -> None:
        self.setting, self.sheet = setting, self.sheets[setting]
        low, high = np.quantile(self.sheet.test, [0.001, 0.999])
        self.edges = np.linspace(low, high, BARS + 1)
        self.traces = threshold_traces(self.sheet, self.edges)
        self.temperature.disabled = self.epsilon.disabled = setting.temperature is None
        if setting.temperature is not None:  # as shown, which a pair without scores is not
            self.temperature.value, self.epsilon.value = setting.temperature, setting.epsilon

    def _put(self, line: Line, position: float | None = None) -> None:
        """Put the line there and show what follows; a hand on the slider left it at `position`."""
        self.line, sheet, spread = line, self.sheet, float(self.sheet.test.std())
        place = points.place_sentence(line, spread)
        self.position = 100 * line.above / line.calibration if position is None else position
        self.slider.step, self.slider.text = max(100 / line.calibration, 0.1), place
        self.slider.value = self.position
        self.text = self.typed.value = parts.number(line.threshold, spread)
        self.costs.value = costs(sheet, line)
        self.near.value = nearest_images(sheet, self.images, line.threshold)
        parts.say(self.promise, points.promise_sentence(line, tracks=sheet.tracks))
        parts.say(self.message, "")
        with self.figure.hold_sync():
            self.figure.traces = self.traces
            self.figure.frame = threshold_frame(sheet, line, self.edges)
            self.figure.alt = f"Histogram and ROC curve of {self.setting}, line at {place}"

    def _put_share(self, position: float) -> None:
        self._put(points.line_for_share(self.sheet, position / 100), position)

    def _put_rate(self, alpha: float) -> None:
        self._put(points.line_for_rate(self.sheet, alpha, named=self.named))

    def _on_setting(self, _: Any) -> None:
        wanted = Setting(self.score.value, self.temperature.value, self.epsilon.value)
        fits = [setting for setting in self.sheets if setting.score == wanted.score]
        near = [setting for setting in fits if setting.temperature == wanted.temperature]
        self._take(wanted if wanted in fits else (near or fits)[0])
        if self.line.alpha is None:
            self._put_share(self.position)
        else:
            self._put_rate(self.line.alpha)

    def _on_slider(self, change: Any) -> None:
        if change["new"] != self.position:
            self._put_share(change["new"])

    def _on_typed(self, change: Any) -> None:
        if change["new"] != self.text:
            with parts.guarded(self.message):
                both = np.append(self.sheet.calibration, self.sheet.test)
                low, high = float(both.min()), float(both.max())
                value = parts.read_number(change["new"], "the score at the line", low, high)
                self._put(points.line_at(self.sheet, value))

    def _on_rate(self, _: Any) -> None:
        with parts.guarded(self.message):
            what = "the wanted rate of false alarms"
            self._put_rate(parts.read_number(self.rate.value, what, 0.01, 99.9) / 100)

    def _on_keep(self, _: Any) -> None:
        with parts.guarded(self.message):
            if self.keep is not None:
                record = self.keep(self.setting, self.line)
                told = f"{self.slider.text}, on {self.setting}, chosen {self.line.by}"
                parts.say(self.message, f"Kept with the run as {record['protocol']}: {told}.")
