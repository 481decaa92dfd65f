"""The threshold explorer: choose a score and a line, see at once what it costs, and keep it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import eq
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd
from plotly import graph_objects

from clad_lib.look import operating_point as points
from clad_lib.look import parts
from clad_lib.look.charts_of_scores import above, threshold_marks, threshold_view
from clad_lib.look.live import Figure, Slider, plotly_script
from clad_lib.look.operating_point import Line, Setting, Sheet
from clad_lib.study.engine import Study
from clad_lib.study.measure import ALPHA

Keep = Callable[[Setting, Line], dict[str, Any]]
Rule = Callable[[Sheet], Line]
NEAR = 8  # images on each side of the line
FRAME: dict[str, Any] = {"height": 400, "title": None, "margin": {"t": 16, "b": 100}}
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
    return parts.or_sentence(
        lambda: ThresholdExplorer(
            points.gather(study), images, alpha=alpha, keep=keep if may_keep else None
        )
    )


def view(sheet: Sheet) -> graph_objects.Figure:
    """The chart of a threshold, whose ticks say the share of calibration images above them."""
    low, high = np.quantile(sheet.test, [0.001, 0.999])
    ticks = np.linspace(low, high, 6)
    pairs = zip(above(sheet.calibration, ticks), ticks, strict=True)
    texts = [f"{share:.1%}<br>{parts.number(tick, np.ptp(ticks))}" for share, tick in pairs]
    figure = threshold_view(sheet.test, sheet.anomaly, ticks[-1])
    title = "calibration images above, and score (higher: more anomalous)"
    return figure.update_xaxes(
        tickvals=ticks, ticktext=texts, tickangle=0, title=title, selector={"domain": (0, 0.58)}
    )


def costs(sheet: Sheet, line: Line) -> str:
    """What a line costs as tables in HTML: counts, false alarms, the rates of each pseudo-class."""
    kinds = {"alarm": ["caught", "false_alarms"], "no alarm": ["missed", "passed"]}
    counts = pd.DataFrame(kinds, ["anomalies", "normal images"]).map(line.counts.get)
    told = parts.table(counts, f"Counts of {len(sheet.test):,} test images", "counts")
    told += parts.table(points.false_alarms(line), "False alarms in 1,000 normal images", "rates")
    if sheet.clusters is not None:
        rates = points.cluster_rates(sheet, line.threshold)
        told += parts.table(rates, "In each pseudo-class", "clusters")
    return told


def nearest_images(sheet: Sheet, images: np.ndarray, threshold: float) -> str:
    """The test images next to the line as HTML: alarms above it, and those below or on it."""
    order, told = np.argsort(sheet.test, kind="stable"), ""
    cut = int((sheet.test <= threshold).sum())
    sides = {
        "Just above the line: alarms": order[cut : cut + NEAR],
        "Just below it": order[max(0, cut - NEAR) : cut][::-1],
    }
    for title, places in sides.items():
        scores = [parts.number(score, sheet.test.std()) for score in sheet.test[places]]
        kinds = np.where(sheet.anomaly[places], "anomaly", "normal")
        texts = [f"{score} {kind}" for score, kind in zip(scores, kinds, strict=True)]
        told += parts.strip(images[sheet.rows[places]], texts, title=title)
    return told


class ThresholdExplorer(parts.Explorer):
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
        self.views: dict[Setting, graph_objects.Figure] = {}  # each takes 100 ms to make
        known = pd.DataFrame([*sheets])  # columns score, temperature, epsilon
        drop_down = partial(ipw.Dropdown, style=parts.WHOLE)
        text = partial(ipw.Text, continuous_update=False, style=parts.WHOLE)
        self.score = drop_down(description="score", options=[*known.score.unique()])
        self.temperature, self.epsilon = (
            drop_down(description=name, options=[(f"{v:,g}", v) for v in sorted(values)])
            for name, values in ((name, {*known[name].dropna()}) for name in Setting._fields[1:])
        )
        self.slider = Slider(label="calibration images above the line")
        self.typed = text(description="score at the line")
        self.rate = text(value=f"{100 * alpha:g}", description="false alarms wanted, at most (%)")
        self.by_rate = ipw.Button(description="Set by this rate")
        self.keeper = ipw.Button(description="Keep this threshold", disabled=keep is None)
        self.message, self.promise, self.costs, self.near = (ipw.HTML() for _ in range(4))
        self.figure = Figure(script=plotly_script(), narrow=BELOW)
        controls = [self.score, self.temperature, self.epsilon]
        line = [self.typed, self.rate, self.by_rate, self.keeper]
        told = (self.message, self.promise, self.figure, self.costs, self.near)
        super().__init__(controls, self.slider, line, *told)
        self._take(next(iter(sheets)))
        self._put(partial(points.line_for_rate, alpha=alpha, named=alpha))
        acts = {self.slider: self._on_slider, self.typed: self._on_typed, self.rate: self._on_rate}
        for control, act in (dict.fromkeys(controls, self._on_setting) | acts).items():
            control.observe(act, "value")
        self.by_rate.on_click(self._on_rate)
        self.keeper.on_click(self._on_keep)

    def _take(self, setting: Setting) -> None:
        self.setting, self.sheet = setting, self.sheets[setting]
        self.view = self.views[setting] = self.views.get(setting) or view(self.sheet)
        self.temperature.disabled = self.epsilon.disabled = setting.temperature is None
        if setting.temperature is not None:  # as shown, which a pair without scores is not
            self.temperature.value, self.epsilon.value = setting.temperature, setting.epsilon

    def _put(self, rule: Rule, line: Line | None = None, position: float | None = None) -> None:
        """Follow a rule, by default to the line that it gives here, and show what follows.

        A hand on the slider left it at `position`.
        """
        self.rule, self.line, sheet = rule, line or rule(self.sheet), self.sheet
        line, above, n = self.line, self.line.counts["above"], self.line.counts["calibration"]
        self.text = self.typed.value = parts.number(line.threshold, sheet.test.std())
        share = f"{parts.per_cent(above / n)} ({above:,} of {n:,} calibration images)"
        place = f"{share}, score {self.text}"
        self.position = 100 * above / n if position is None else position
        self.slider.step, self.slider.text = max(100 / n, 0.1), place
        self.slider.value = self.position
        self.costs.value = costs(sheet, line)
        self.near.value = nearest_images(sheet, self.images, line.threshold)
        parts.say(self.promise, points.promise_sentence(line, tracks=sheet.tracks))
        parts.say(self.message, "")
        self.view.layout.shapes = threshold_marks(sheet.test, sheet.anomaly, line.threshold)
        alt = f"Histogram and ROC curve of {self.setting}, line at {place}"
        self.figure.draw(self.view, alt, **FRAME)

    def _on_setting(self, _: Any) -> None:
        wanted = (self.score.value, self.temperature.value, self.epsilon.value)
        self._take(max(self.sheets, key=lambda known: [*map(eq, known, wanted)]))
        self._put(self.rule)

    def _on_slider(self, change: Any) -> None:
        if change["new"] != self.position:
            rule = partial(points.line_for_share, share=change["new"] / 100)
            self._put(rule, position=change["new"])

    def _on_typed(self, change: Any) -> None:
        if change["new"] != self.text:
            with parts.guarded(self.message):
                both = np.append(self.sheet.calibration, self.sheet.test)
                low, high = float(both.min()), float(both.max())
                value = parts.read_number(change["new"], "the score at the line", low, high)
                line = points.line_at(self.sheet, value)
                share = line.counts["above"] / line.counts["calibration"]
                self._put(partial(points.line_for_share, share=share), line)

    def _on_rate(self, _: Any) -> None:
        with parts.guarded(self.message):
            rate = parts.read_number(self.rate.value, "the wanted rate of false alarms", 0.01, 99.9)
            self._put(partial(points.line_for_rate, alpha=rate / 100, named=self.named))

    def _on_keep(self, _: Any) -> None:
        with parts.guarded(self.message):
            if self.keep is not None:
                record = self.keep(self.setting, self.line)
                told = f"{self.slider.text}, on {self.setting}, chosen {self.line.by}"
                parts.say(self.message, f"Kept with the run as {record['protocol']}: {told}.")
