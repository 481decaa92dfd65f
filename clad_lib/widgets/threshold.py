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
from clad_lib.operating import DELTA, HAND, LARGEST, NAMED, RATE, Gathered, Point, Setting, Sheet
from clad_lib.pipeline import Study
from clad_lib.runs import RunError
from clad_lib.widgets import costs
from clad_lib.widgets.parts import guarded, live, message_line, say

Keep = Callable[[Setting, Sheet, float, Point, str, float | None], dict[str, Any]]
STEPS = 500  # of the slider, from the lowest to the highest score


def threshold_explorer(study: Study, *, alpha: float = ALPHA, may_keep: bool = True) -> ipw.Widget:
    """The explorer for one run, or one line that says what is missing: nothing finished, or scores that are no numbers.

    `alpha` is the false-alarm rate named beforehand: only its threshold, on the configured score, is kept as `clean`.
    """

    def keep(setting: Setting, sheet: Sheet, threshold: float, point: Point, by: str, rate: float | None) -> dict[str, Any]:
        return operating.keep_threshold(study, setting, sheet, threshold, point, by=by, alpha=rate)

    try:
        explorer = ThresholdExplorer(operating.gather(study), alpha=alpha, keep=keep if may_keep else None)
        explorer.recall(operating.kept_threshold(study))
        return explorer
    except (RunError, ValueError) as error:
        line = message_line()
        say(line, f"No threshold explorer: {error}", loud=True)
        return line


class ThresholdExplorer(ipw.VBox):
    """Controls: score, temperature, epsilon; slider, typed (the threshold as a number), alpha (the wanted false-alarm rate).

    Nothing is computed but counts: every score is there already. `shown`, `threshold`, `point` and `by` are the present
    state; `keep` writes it somewhere and returns the record. Raises ValueError for scores that are NaN or infinite, or of
    one value.
    """

    def __init__(self, data: Gathered, *, alpha: float = ALPHA, keep: Keep | None = None):
        self.data, self.keep, self.named, self._quiet = data, keep, alpha, False
        self.threshold, self.by = math.nan, HAND
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
        self.typed = ipw.FloatText(description="as a number", layout=ipw.Layout(width="270px"), **wide)
        self.alpha = ipw.BoundedFloatText(
            self.named, min=0.0005, max=0.9995, step=0.005, description="false-alarm rate wanted (0 to 1)",
            layout=ipw.Layout(width="300px"), **wide,
        )  # fmt: skip
        self.by_alpha = ipw.Button(description="Set by this rate", tooltip="from calibration images alone")
        self.keep_button = ipw.Button(description="Keep this threshold", button_style="primary", disabled=self.keep is None)
        self._acting = (self.slider, self.typed, self.alpha, self.by_alpha, self.keep_button)

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
        self._load(self.data.start)
        view = plots.threshold_view(self.sheet.test, self.truth, float(np.median(self.sheet.test)), score=str(self.shown))
        return view.update_layout(title=dict(text=None, subtitle=dict(text=None)), margin_t=24)

    def _load(self, setting: Setting) -> None:
        """What depends on the setting alone: the sheet, its truth, the band of guaranteed rates, the slider's range."""
        sheet = self.data.sheets[setting]
        both = finite(np.concatenate([sheet.test, sheet.calibration]), f"scores of {setting}")
        low, high = float(both.min()), float(both.max())
        if not low < high:
            raise ValueError(f"all scores of {setting} are {low:g}: there is no threshold to explore; train the run again")
        self.shown, self.sheet, self.truth = setting, sheet, np.asarray(self.data.anomaly, dtype=bool)[sheet.rows]
        self.band = calibration.false_alarm_band(sheet.calibration, delta=DELTA)
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
        for control in self._acting:  # until the new setting is shown: nothing acts on the one before under its name
            control.disabled = True
        with guarded(self.message):
            self.temperature.disabled = self.epsilon.disabled = self.score.value != "ODIN"
            if self.setting not in self.data.sheets:
                raise ValueError(f"{self.setting} was not computed: choose another temperature or epsilon")
            self._load(self.setting)
            with self.figure.batch_update():
                for trace, new in zip(self.figure.data, plots.threshold_traces(self.sheet.test, self.truth), strict=False):
                    trace.update(new)
                self.figure.layout.xaxis.title.text = f"{self.shown} (higher = more anomalous)"
            self._by_alpha()
            for control in self._acting:
                control.disabled = control is self.keep_button and self.keep is None

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
                self._move(value, HAND)

    def _by_alpha(self) -> None:
        """The lowest threshold that promises the wanted rate; where none does, the highest calibration score, and why."""
        found = calibration.threshold_for(self.sheet.calibration, alpha=self.alpha.value, delta=DELTA)
        named = self.alpha.value == self.named
        if math.isfinite(found.value):
            say(self.message, costs.promise(found, named=named, tracks=self.data.tracks) + self._remarks())
            self._move(found.value, NAMED if named else RATE)
        else:
            say(self.message, f"{found.note}. The line is at the highest calibration score.{self._remarks()}", loud=True)
            self._move(float(self.sheet.calibration.max()), LARGEST if named else RATE)

    def _remarks(self) -> str:
        size, whole = len(self.sheet.test), len(self.data.anomaly)
        part = f" Counts are of a sample of {size:,} of the {whole:,} test images." if size < whole else ""
        return part + (f" Left out, not finite: {', '.join(self.data.left_out)}." if self.data.left_out else "")

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
        scores, rows = self.sheet.test, self.sheet.rows
        self.confusion.value, self.point_line.value = costs.confusion_table(self.point), costs.false_alarms(self.point)
        if self.data.clusters is not None:
            self.clusters.value = costs.cluster_table(scores, self.truth, self.data.clusters[rows], self.threshold)
        self.images.value = costs.image_strips(scores, self.truth, self.data.images, rows, self.threshold)

    def _on_keep(self) -> None:
        with guarded(self.kept):
            if self.keep is not None:
                alpha = None if self.by == HAND else self.alpha.value
                self.recall(self.keep(self.shown, self.sheet, self.threshold, self.point, self.by, alpha), "Kept with the run")

    def recall(self, record: dict[str, Any] | None, lead: str = "Kept before") -> None:
        """Say which threshold is kept with the run, and under which protocol; nothing where none is."""
        if record is not None:
            setting = Setting(record["score"], record["temperature"], record["epsilon"])
            told = f"{record['threshold']:.6g} on {setting}, protocol {record['protocol']}: {record['reason']}"
            say(self.kept, f"{lead}: {told}.", loud=record["protocol"] != "clean")
