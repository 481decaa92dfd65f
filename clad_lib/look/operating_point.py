"""Operating points: what a threshold on a score costs, in numbers and in sentences, and its record.

Three false-alarm rates are kept apart: what is promised before any test image is seen, what is
expected from the calibration images, and what was counted on the test images.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clad_lib.config import as_dict
from clad_lib.judge import guarantees
from clad_lib.look.parts import per_cent
from clad_lib.study.engine import Study
from clad_lib.study.measure import DELTA
from clad_lib.study.stages import methods
from clad_lib.study.store import stamp, write_json

# how a line was chosen; the first needs no look at the test images
NAMED = "for a false-alarm rate named beforehand"
RATE = "for a false-alarm rate picked in sight of the test images"
HAND = "by hand in sight of the test images"


class Setting(NamedTuple):
    """A score, and for ODIN its temperature and its epsilon."""

    score: str
    temperature: float | None = None
    epsilon: float | None = None

    def __str__(self) -> str:
        if self.temperature is None:
            return self.score
        return f"{self.score}, T = {self.temperature:g}, epsilon = {self.epsilon:g}"


class Sheet(NamedTuple):
    """Scores of one setting: of independent calibration images (n,) and of test images (m,).

    rows (m,) of the test split, anomaly (m,) bool, clusters (m,), the pseudo-classes that the
    classifier gives them, or None. `tracks`: a calibration score stands for a track of frames.
    """

    calibration: np.ndarray
    test: np.ndarray
    rows: np.ndarray
    anomaly: np.ndarray
    clusters: np.ndarray | None = None
    tracks: bool = False


class Line(NamedTuple):
    """A threshold, how it was chosen, and what it costs, score > threshold being an alarm.

    alpha is the rate that was wanted, and promise what that rate promises, if one was. counts: test
    images caught, missed, false_alarms and passed; `above` of the `calibration` images lie above.
    bound_per_1000 false alarms in 1,000 normal images are guaranteed at all lines at once, with
    probability 1 - delta.
    """

    threshold: float
    by: str
    alpha: float | None
    promise: guarantees.Threshold | None
    counts: dict[str, Any]
    bound_per_1000: float


def line_at(
    sheet: Sheet,
    threshold: float,
    by: str = HAND,
    alpha: float | None = None,
    promise: guarantees.Threshold | None = None,
) -> Line:
    """What a threshold costs on a sheet."""
    alarm, truth = sheet.test > threshold, sheet.anomaly
    counts = {
        "caught": int((alarm & truth).sum()),
        "missed": int((~alarm & truth).sum()),
        "false_alarms": int((alarm & ~truth).sum()),
        "passed": int((~alarm & ~truth).sum()),
        "above": int((sheet.calibration > threshold).sum()),
        "calibration": len(sheet.calibration),
    }
    band = guarantees.false_alarm_band(sheet.calibration, delta=DELTA)
    bound = 1000 * float(guarantees.band_at(band, threshold))
    return Line(float(threshold), by, alpha, promise, counts, bound)


def line_for_share(sheet: Sheet, share: float) -> Line:
    """The lowest line with at most that share of the calibration images above it."""
    scores = np.sort(sheet.calibration)
    ends = np.append(scores[0] - 1e-9 * max(abs(scores[0]), 1.0), scores)
    return line_at(sheet, ends[-1 - round(share * len(scores))])


def line_for_rate(sheet: Sheet, alpha: float, *, named: float) -> Line:
    """The lowest line that promises a false-alarm rate; where none does, the highest score.

    `named` is the rate that was named before any test image was seen.
    """
    least = guarantees.smallest_alpha(len(sheet.calibration), DELTA)
    promise = guarantees.threshold_for(sheet.calibration, alpha=max(alpha, least), delta=DELTA)
    return line_at(sheet, promise.value, NAMED if alpha == named else RATE, alpha, promise)


def promise_sentence(line: Line, *, tracks: bool = False) -> str:
    """How the line was chosen, and what is promised of it for that reason."""
    if line.promise is None or line.alpha is None:
        return f"Chosen {HAND}: no rate is promised of this line."
    told = guarantees.in_words(line.promise, tracks=tracks)
    named = "Promised" if line.by == NAMED else "Promised if it had been fixed before looking"
    if line.alpha >= line.promise.alpha:
        return f"{named}: {told}"
    needed, n = guarantees.images_needed(line.alpha, DELTA), line.counts["calibration"]
    few = f"{per_cent(line.alpha)} cannot be promised: that needs {needed:,} calibration images"
    return f"{few}. The line is at the highest of {n:,}. {named}: {told}"


def false_alarms(line: Line) -> pd.DataFrame:
    """False alarms in 1,000 normal images: guaranteed at any line, expected and counted.

    Expected is (above + 1) / (n + 1), the mean over calibration draws of a line that they fix.
    """
    counts, normals = line.counts, line.counts["false_alarms"] + line.counts["passed"]
    rate = f"{1000 * counts['false_alarms'] / normals:.1f}" if normals else "no such image"
    told = {
        f"guaranteed at all lines, with probability {1 - DELTA:g}": f"{line.bound_per_1000:.1f}",
        "expected": f"{1000 * (counts['above'] + 1) / (counts['calibration'] + 1):.1f}",
        f"counted on {normals:,} normal test images": rate,
    }
    return pd.DataFrame({"": told})


def cluster_rates(sheet: Sheet, threshold: float) -> pd.DataFrame:
    """Images and share of alarms in each pseudo-class that occurs; NaN for a share of none.

    Columns normal, false alarms, anomalies, found. It tells where one line for all pseudo-classes
    alarms unevenly.
    """
    alarm = pd.Series(sheet.test > threshold, dtype=float)
    kinds = pd.DataFrame({"normal": alarm.mask(sheet.anomaly), "odd": alarm.where(sheet.anomaly)})
    found = kinds.groupby(np.asarray(sheet.clusters)).agg(["count", "mean"])
    return found.set_axis(["normal", "false alarms", "anomalies", "found"], axis=1)


def gather(study: Study) -> dict[Setting, Sheet]:
    """The sheets of all finished scores of a run, the configured one first, ODIN's grid last.

    Raises StoreError where no score is finished.
    """
    split, first = study.split, configured(study)
    classes = study.find("outputs").test.logits.argmax(1).numpy() if study.has("outputs") else None
    found = dict[Setting, Sheet]()
    finished = [name for name in methods() if study.has(name)]

    def add(setting: Setting, scores: Any, tracks: Any, test: np.ndarray, rows: np.ndarray) -> None:
        own = guarantees.one_per_track(scores, tracks, seed=study.config.seed)
        clusters = None if classes is None else classes[rows]
        anomaly, frames = split.answers.test_anomaly[rows], len(own) < len(scores)
        found.setdefault(setting, Sheet(own, test, rows, anomaly, clusters, frames))

    for name in sorted(finished or ["ODIN"], key="ODIN".__ne__):  # else it says what is missing
        test = study.find(name).test
        table = pd.read_parquet(study.path(name) / "scores.parquet").query("split == 'calibration'")
        setting = first if name == "ODIN" else Setting(name)
        add(setting, table["score"], table["track"], test, np.arange(len(test)))
    if study.has("odin_grid"):
        grid = study.find("odin_grid")
        tracks = split.calibration_tracks[grid.calibration_rows]
        for i, j in np.ndindex(grid.test.shape[:2]):
            setting = Setting("ODIN", float(grid.temperatures[i]), float(grid.epsilons[j]))
            add(setting, grid.calibration[i, j], tracks, grid.test[i, j], grid.test_rows)
    return found


def configured(study: Study) -> Setting:
    """ODIN as the configuration has it, fixed before any score was seen."""
    return Setting("ODIN", study.config.temperature, study.config.epsilon)


def keep_threshold(study: Study, setting: Setting, line: Line) -> dict[str, Any]:
    """Write the threshold to the run as threshold.json, and return what was written.

    Its protocol is `clean` only where no test image had a say: for the configured score and a
    rate named beforehand. Raises StoreError when the file cannot be written.
    """
    protocol = study.config.protocol
    if protocol == "clean" and (setting, line.by) != (configured(study), NAMED):
        protocol = "oracle"
    record = {
        **setting._asdict(),
        "threshold": line.threshold,
        "chosen_by": line.by,
        "alpha": line.alpha,
        **line.counts,
        "bound_per_1000": line.bound_per_1000,
        "delta": DELTA,
        "protocol": protocol,
        "config": as_dict(study.config),
        **stamp(),
    }
    write_json(study.folder / "threshold.json", record)
    return record
