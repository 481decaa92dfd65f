"""Operating points: what a threshold on a score costs, in numbers and in sentences, and its record.

Three false-alarm rates are kept apart: what is promised before any test image is seen, what is
expected from the calibration images, and what was counted on the test images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clad_lib.config import as_dict, overrides_of
from clad_lib.judge import guarantees
from clad_lib.look.parts import number, per_cent
from clad_lib.study.engine import Study
from clad_lib.study.measure import DELTA
from clad_lib.study.stages import methods
from clad_lib.study.store import stamp, write_atomically

# how a line was chosen; the first needs no look at the test images
NAMED = "a false-alarm rate named beforehand"
RATE = "a false-alarm rate picked in sight of the test images"
HAND = "by hand in sight of the test images"


class Setting(NamedTuple):
    """A score, and for ODIN its temperature and its epsilon in the configuration's unit."""

    score: str
    temperature: float | None = None
    epsilon: float | None = None

    def __str__(self) -> str:
        odin = f"{self.score}, T = {self.temperature}, epsilon = {self.epsilon}"
        return self.score if self.temperature is None else odin


class Sheet(NamedTuple):
    """Scores of one setting: of independent calibration images (n,) and of test images (m,).

    rows (m,) of the test split, anomaly (m,) bool, and clusters (m,), the pseudo-classes that the
    classifier gives the test images, or None.
    """

    calibration: np.ndarray
    test: np.ndarray
    rows: np.ndarray
    anomaly: np.ndarray
    clusters: np.ndarray | None = None


class Gathered(NamedTuple):
    """All sheets of a run, the configured setting to start from, test images (N, C, H, W) uint8.

    `tracks` is whether a calibration score stands for a track of frames; `left_out` says which
    scores cannot be explored.
    """

    sheets: dict[Setting, Sheet]
    start: Setting
    images: np.ndarray
    tracks: bool = False
    left_out: str = ""


class Choice(NamedTuple):
    """Where the line is and how it was chosen: for a wanted rate alpha, and what is promised."""

    threshold: float
    by: str = HAND
    alpha: float | None = None
    promise: guarantees.Threshold | None = None


class Point(NamedTuple):
    """What a line costs: counts of test images, score > threshold being an alarm.

    `above` of the `calibration` images lie above the line. Of false alarms in 1,000 normal images,
    expected_per_1000 is (above + 1) / (calibration + 1), the mean over calibration draws of a line
    that they alone fix; bound_per_1000 holds at all lines at once, with probability 1 - delta.
    """

    caught: int
    missed: int
    false_alarms: int
    passed: int
    above: int
    calibration: int
    expected_per_1000: float
    bound_per_1000: float


def operating_point(sheet: Sheet, threshold: float, band: guarantees.Band) -> Point:
    """What a line costs on a sheet, whose calibration scores gave the band."""
    alarm, truth, n = sheet.test > threshold, sheet.anomaly, len(sheet.calibration)
    parts = (alarm & truth, ~alarm & truth, alarm & ~truth, ~alarm & ~truth)
    counts = [int(part.sum()) for part in (*parts, sheet.calibration > threshold)]
    bound = 1000 * float(guarantees.band_at(band, threshold))
    return Point(*counts, n, 1000 * (counts[-1] + 1) / (n + 1), bound)


def line_with_share(calibration: np.ndarray, share: float) -> float:
    """The lowest line with at most that share of the calibration scores (n,) above it."""
    ends = np.append(np.nextafter(calibration.min(), -np.inf), np.sort(calibration))
    return float(ends[-1 - round(share * len(calibration))])


def line_for_rate(calibration: np.ndarray, alpha: float, *, named: float) -> Choice:
    """The lowest line that promises a false-alarm rate; where none does, the highest score.

    `named` is the rate that was named before any test image was seen.
    """
    least = guarantees.smallest_alpha(len(calibration), DELTA)
    promise = guarantees.threshold_for(calibration, alpha=max(alpha, least), delta=DELTA)
    return Choice(promise.value, NAMED if alpha == named else RATE, alpha, promise)


def place_sentence(point: Point, threshold: float, spread: float) -> str:
    """Where the line is: as a share of the calibration images and as a score."""
    share, score = per_cent(point.above / point.calibration), number(threshold, spread)
    return f"{share} ({point.above:,} of {point.calibration:,} calibration images), score {score}"


def promise_sentence(choice: Choice, *, tracks: bool = False) -> str:
    """How the line was chosen, and what is promised of it for that reason."""
    if choice.promise is None or choice.alpha is None:
        return f"Chosen {HAND}: no rate is promised of this line."
    told = f"{guarantees.in_words(choice.promise, tracks=tracks)}."
    if choice.alpha < choice.promise.alpha:
        needed = guarantees.images_needed(choice.alpha, DELTA)
        told = (
            f"{per_cent(choice.alpha)} cannot be promised: that needs {needed:,} calibration "
            f"images. With {choice.promise.n:,} the line is at their highest score. {told}"
        )
    lead = "Picked in sight of the test images, so not promised. Had it been named beforehand"
    return f"{'Promised' if choice.by == NAMED else lead}: {told}"


def false_alarms(choice: Choice, point: Point) -> pd.DataFrame:
    """False alarms in 1,000 normal images: promised, guaranteed, expected and counted."""
    odds, normals = f"with probability {1 - DELTA:g}", point.false_alarms + point.passed
    promised = choice.promise.bound_per_1000 if choice.promise and choice.by == NAMED else None
    counted = f"{1000 * point.false_alarms / normals:.1f}" if normals else "no normal images"
    cells = {
        f"promised {odds}": "nothing" if promised is None else f"at most {promised:.1f}",
        f"guaranteed at any line {odds}": f"at most {point.bound_per_1000:.1f}",
        "expected from the calibration images": f"{point.expected_per_1000:.1f}",
        "counted on the test images": counted,
    }
    return pd.DataFrame({"in 1,000": cells})


def cluster_rates(sheet: Sheet, threshold: float) -> pd.DataFrame:
    """Images and share of alarms in each pseudo-class that occurs; NaN for a share of none.

    Columns normal, false alarms, anomalies, found. It tells where one line for all pseudo-classes
    alarms unevenly.
    """
    alarm = pd.Series(sheet.test > threshold).groupby([sheet.clusters, sheet.anomaly])
    shares = alarm.agg(["size", "mean"]).unstack().swaplevel(axis=1)
    shares = shares.reindex(columns=[(k, what) for k in (False, True) for what in ("size", "mean")])
    shares.columns = pd.Index(["normal", "false alarms", "anomalies", "found"])
    whole = {"normal": 0, "anomalies": 0}
    return shares.rename_axis("pseudo-class").fillna(whole).astype(dict.fromkeys(whole, int))


def gather(study: Study) -> Gathered:
    """All finished scores of a run that are finite and differ.

    Raises StoreError where nothing is finished, ValueError where nothing can be explored.
    """
    sheets, left_out = dict[Setting, Sheet](), list[str]()
    for setting, sheet in _sheets(study):
        both = np.append(sheet.calibration, sheet.test)
        if np.isfinite(both).all() and np.ptp(both) > 0:
            sheets[setting] = sheet
        else:
            left_out.append(str(setting))
    told = f" Left out, its scores being equal or not finite: {', '.join(left_out)}."
    if not sheets:
        raise ValueError(f"no score can be explored.{told} Train the run again")
    start = configured(study) if configured(study) in sheets else next(iter(sheets))
    tracks = len(np.unique(study.split.calibration_tracks)) < len(study.split.calibration_tracks)
    return Gathered(sheets, start, study.split.test.numpy(), tracks, told if left_out else "")


def configured(study: Study) -> Setting:
    """ODIN as the configuration has it, fixed before any score was seen."""
    return Setting("ODIN", study.config.temperature, study.config.epsilon)


def _sheets(study: Study) -> Iterator[tuple[Setting, Sheet]]:
    """ODIN's grid, then every finished method, with one calibration score a track."""
    split, anomaly, seed = study.split, study.split.answers.test_anomaly, study.config.seed
    known = study.find("outputs").test.logits.argmax(1).numpy() if study.has("outputs") else None

    def sheet(scores: Any, tracks: Any, test: np.ndarray, rows: np.ndarray) -> Sheet:
        own = guarantees.one_per_track(scores, tracks, seed=seed)
        return Sheet(own, test, rows, anomaly[rows], None if known is None else known[rows])

    if study.has("odin_grid"):
        grid = study.find("odin_grid")
        tracks = split.calibration_tracks[grid.calibration_rows]
        for i, j in np.ndindex(grid.test.shape[:2]):
            setting = Setting("ODIN", float(grid.temperatures[i]), float(grid.epsilons[j]))
            yield setting, sheet(grid.calibration[i, j], tracks, grid.test[i, j], grid.test_rows)
    for name in [*filter(study.has, methods())] or ["ODIN"]:
        test = study.find(name).test  # where nothing is finished, it says what is missing
        table = pd.read_parquet(study.path(name) / "scores.parquet").query("split == 'calibration'")
        setting = configured(study) if name == "ODIN" else Setting(name)
        yield setting, sheet(table["score"], table["track"], test, np.arange(len(test)))


def keep_threshold(study: Study, setting: Setting, choice: Choice, point: Point) -> dict[str, Any]:
    """Write the threshold to the run as threshold.json, and return what was written.

    Its protocol is `clean` only where no test image had a say: for the configured score and a
    rate named beforehand. Raises StoreError when the file cannot be written.
    """
    protocol, config = study.config.protocol, study.config
    if protocol == "clean" and (setting != configured(study) or choice.by != NAMED):
        protocol = "oracle"
    record = {**setting._asdict(), "threshold": choice.threshold, "chosen_by": choice.by}
    record |= {"alpha": choice.alpha, "delta": DELTA, "protocol": protocol, **point._asdict()}
    record |= {"config": as_dict(config), "overrides": overrides_of(config), **stamp()}
    write_atomically(study.folder / "threshold.json", json.dumps(record, indent=1))
    return record
