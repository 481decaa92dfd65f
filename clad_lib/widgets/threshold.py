"""The threshold explorer: choose a score and a threshold, see at once what it costs, and keep it with its protocol."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as ipw
import numpy as np

from clad_lib import calibration, operating, plots
from clad_lib.curves import finite
from clad_lib.measure import ALPHA
from clad_lib.operating import BY_ALPHA, BY_HAND, DELTA, Gathered, Point, Setting
from clad_lib.pipeline import Study
from clad_lib.plots.images import short_scores
from clad_lib.runs import RunError
from clad_lib.widgets.parts import guarded, live, message_line, say, strip, table

Keep = Callable[[Setting, float, Point, str, float | None], dict[str, Any]]
STEPS = 500  # of the slider, from the lowest to the highest score


def threshold_explorer(study: Study) -> ipw.Widget:
    """The explorer for one run, or one line that says what is missing: nothing finished, or scores that are no numbers."""

    def keep(setting: Setting, threshold: float, point: Point, by: str, alpha: float | None) -> dict[str, Any]:
        return operating.keep_threshold(study, setting, threshold, point, by=by, alpha=alpha)

    try:
        return ThresholdExplorer(operating.gather(study), keep=keep)
    except (RunError, ValueError) as error:
        line = message_line()
        say(line, f"No threshold explorer: {error}", loud=True)
        return line


class ThresholdExplorer(ipw.VBox):
    """Controls: score, temperature, epsilon; slider, typed (the threshold as a number), alpha (the wished false-alarm rate).

    Nothing is computed but counts: every score is there already. `threshold`, `point` and `by` are the present state;
    `keep` writes it somewhere and returns the record. Raises ValueError for scores that are NaN or infinite, or of one value.
    """

    def __init__(self, data: Gathered, *, keep: Keep | None = None):
        self.data, self.keep, self._quiet = data, keep, False
        self.threshold, self.by = math.nan, BY_HAND
        self._controls()
        self.point_line, self.confusion, self.clusters, self.images = (ipw.HTML() for _ in range(4))
        for name, place in dict(confusion=self.confusion, rates=self.point_line, clusters=self.clusters).items():
            place.add_class(f"clad-{name}")
        self.message, self.kept = message_line(), message_line()
        self.figure = live(self._view())
        super().__init__(self._rows())
        self._by_alpha()
        self._watch()

    def _controls(self) -> None:
        settings, first = list(self.data.sheets), self.data.start
        wide = dict(style=dict(description_width="initial"))
        names = list(dict.fromkeys(setting.score for setting in settings))
        self.score = ipw.Dropdown(options=names, value=first.score, description="score", **wide)
        odin = [setting for setting in settings if setting.temperature is not None]
        heats = sorted({s.temperature for s in odin if s.temperature is not None}) or [1.0]
        steps = sorted({s.epsilon for s in odin if s.epsilon is not None}) or [0.0]
        warm = first.temperature if first.temperature in heats else heats[0]
        options = [(f"{value:g}", value) for value in heats]
        self.temperature = ipw.SelectionSlider(options=options, value=warm, description="temperature", **wide)
        self.epsilon = ipw.SelectionSlider(
            options=[(f"{value:g}", value) for value in steps], value=first.epsilon if first.epsilon in steps else steps[0],
            description="epsilon (pixel units)", **wide,
        )  # fmt: skip
        self.slider = ipw.FloatSlider(description="threshold", readout=False, layout=ipw.Layout(width="55%"), **wide)
        self.typed = ipw.FloatText(description="as a number", layout=ipw.Layout(width="200px"), **wide)
        self.alpha = ipw.BoundedFloatText(
            ALPHA, min=0.0005, max=0.9995, step=0.005, description="wished false-alarm rate",
            layout=ipw.Layout(width="240px"), **wide,
        )  # fmt: skip
        self.by_alpha = ipw.Button(description="Set by this rate", tooltip="from calibration images alone")
        self.keep_button = ipw.Button(description="Keep this threshold", button_style="primary", disabled=self.keep is None)

    def _rows(self) -> list[ipw.Widget]:
        told = ipw.VBox([self.confusion, self.point_line])
        rows = (
            [self.score, self.temperature, self.epsilon],
            [self.slider, self.typed],
            [self.alpha, self.by_alpha, self.keep_button],
        )
        return [
            *(ipw.HBox(row, layout=ipw.Layout(grid_gap="18px", flex_flow="row wrap")) for row in rows),
            self.message, self.kept, self.figure,
            ipw.HBox([told, self.clusters], layout=ipw.Layout(flex_flow="row wrap", grid_gap="24px")),
            self.images,
        ]  # fmt: skip

    def _watch(self) -> None:
        for control in (self.score, self.temperature, self.epsilon):
            control.observe(self._on_setting, "value")
        self.slider.observe(lambda change: self._on_slider(change["new"]), "value")
        self.typed.observe(lambda change: self._by_hand(change["new"]), "value")
        self.alpha.observe(lambda _: self._on_alpha(), "value")
        self.by_alpha.on_click(lambda _: self._on_alpha())
        self.keep_button.on_click(lambda _: self._on_keep())

    @property
    def setting(self) -> Setting:
        """The setting that the controls show; scores other than ODIN have neither temperature nor epsilon."""
        odin = Setting("ODIN", self.temperature.value, self.epsilon.value)
        return odin if self.score.value == "ODIN" else Setting(self.score.value)

    def _view(self) -> Any:
        self.sheet = self.data.sheets[self.data.start]
        self._load()
        view = plots.threshold_view(self.sheet.test, self.truth, float(np.median(self.sheet.test)), score=str(self.setting))
        return view.update_layout(title=dict(text=None, subtitle=dict(text=None)), margin_t=24)

    def _load(self) -> None:
        """What depends on the setting alone: the sheet, its truth, the band of guaranteed rates, the slider's range."""
        self.sheet = sheet = self.data.sheets[self.setting]
        both = finite(np.concatenate([sheet.test, sheet.calibration]), f"scores of {self.setting}")
        self.truth = np.asarray(self.data.anomaly, dtype=bool)[self.sheet.rows]
        self.band = calibration.false_alarm_band(self.sheet.calibration, delta=DELTA)
        low, high = float(both.min()), float(both.max())
        if not low < high:
            raise ValueError(f"all scores of {self.setting} are {low:g}: there is no threshold to explore; train the run again")
        step = (high - low) / STEPS
        with self._silently():
            self.slider.min = min(self.slider.min, low - step)  # never above the old end, where it would be refused
            self.slider.max, self.slider.min, self.slider.step = high + step, low - step, step

    @contextlib.contextmanager
    def _silently(self) -> Iterator[None]:
        """Inside, controls may be set without their observers answering."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _on_setting(self, _: Any) -> None:
        if self._quiet:
            return
        with guarded(self.message):
            odin = self.score.value == "ODIN"
            self.temperature.disabled = self.epsilon.disabled = not odin
            if self.setting not in self.data.sheets:
                say(self.message, f"{self.setting} was not computed: choose another temperature or epsilon", loud=True)
                return
            self._load()
            with self.figure.batch_update():
                for trace, new in zip(self.figure.data, plots.threshold_traces(self.sheet.test, self.truth), strict=False):
                    trace.update(new)
                self.figure.layout.xaxis.title.text = f"{self.setting} (higher = more anomalous)"
            self._by_alpha()

    def _on_alpha(self) -> None:
        with guarded(self.message):
            self._by_alpha()

    def _on_slider(self, value: float) -> None:
        if abs(value - self._on_grid(self.threshold)) > self.slider.step / 2:  # else the browser echoes what was set
            self._by_hand(value)

    def _on_grid(self, value: float) -> float:
        """The slider's nearest mark: browsers round to marks, and a rounded echo would pass for a hand."""
        low, step = self.slider.min, self.slider.step
        return min(max(low + round((value - low) / step) * step, low), self.slider.max)

    def _by_hand(self, value: float) -> None:
        if not self._quiet and value != self.threshold:
            with guarded(self.message):
                if not math.isfinite(value):
                    raise ValueError(f"the threshold is {value}: expected a number between the lowest and the highest score")
                say(self.message, "")
                self._move(value, BY_HAND)

    def _by_alpha(self) -> None:
        """The lowest threshold that promises the wished rate; where none does, the highest calibration score, and why."""
        found = calibration.threshold_for(self.sheet.calibration, alpha=self.alpha.value, delta=DELTA)
        if math.isfinite(found.value):
            size, whole = len(self.sheet.test), len(self.data.anomaly)
            part = f"; counts are of a sample of {size:,} of the {whole:,} test images" if size < whole else ""
            promise = f"with probability {1 - DELTA:g}, at most {found.bound_per_1000:.0f} false alarms in 1,000 normal images"
            say(self.message, f"Promised: {promise} in the long run, from {found.n:,} calibration images{part}.")
            self._move(found.value, BY_ALPHA)
        else:
            say(self.message, f"{found.note}. The line is at the highest calibration score.", loud=True)
            self._move(float(self.sheet.calibration.max()), BY_HAND)

    def _move(self, value: float, by: str) -> None:
        self.threshold, self.by = float(value), by
        self.point = operating.operating_point(self.sheet, self.truth, self.threshold, self.band)
        with self._silently():
            self.slider.value = self._on_grid(self.threshold)
            self.typed.value = self.threshold
        with self.figure.batch_update():
            line = self.figure.layout.shapes[0]
            line.x0 = line.x1 = self.threshold
            x, y = plots.threshold_point(self.sheet.test, self.truth, self.threshold)
            self.figure.data[3].update(x=x, y=y)
        say(self.kept, "")
        self._tell()

    def _tell(self) -> None:
        point = self.point
        self.confusion.value = table(
            ["", "alarm", "no alarm"],
            [["anomalies", point.caught, point.missed], ["normal images", point.false_alarms, point.passed]],
        )
        counted = "–" if math.isnan(point.counted_per_1000) else f"{point.counted_per_1000:.1f}"
        self.point_line.value = (
            "<div style='line-height:1.4'>False alarms in 1,000 normal images<br>"
            f"counted on the test images: <b>{counted}</b><br>"
            f"guaranteed, with probability {1 - DELTA:g} at this and all<br>other thresholds at once: at most "
            f"<b>{point.bound_per_1000:.0f}</b></div>"
        )
        self.clusters.value = self._cluster_table()
        self.images.value = self._image_strips()

    def _cluster_table(self) -> str:
        if self.data.clusters is None:
            return ""
        found = operating.cluster_rates(self.sheet.test, self.truth, self.data.clusters[self.sheet.rows], self.threshold)
        cells = [[f"cluster {k}", n, _percent(false), m, _percent(caught)] for k, n, false, m, caught in found]
        return table(["classified as", "normal", "false alarms", "anomalies", "found"], cells)

    def _image_strips(self) -> str:
        parts, spread = [], float(self.sheet.test.std())
        for name, places in zip(("just above the line (alarms)", "just below the line"),
                                operating.around(self.sheet.test, self.threshold), strict=True):  # fmt: skip
            kinds = ["anomaly" if truth else "normal" for truth in self.truth[places]]
            scores = short_scores(self.sheet.test[places], spread)
            texts = [f"{score} {kind}" for score, kind in zip(scores, kinds, strict=True)]
            parts.append(f"<b>{name}</b>{strip(self.data.images[self.sheet.rows[places]], texts)}")
        return "".join(parts)

    def _on_keep(self) -> None:
        with guarded(self.kept):
            if self.keep is None:
                return
            alpha = self.alpha.value if self.by == BY_ALPHA else None
            record = self.keep(self.setting, self.threshold, self.point, self.by, alpha)
            say(self.kept, f"Kept with the run, protocol {record['protocol']}: {record['reason']}.",
                loud=record["protocol"] != "clean")  # fmt: skip


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"
