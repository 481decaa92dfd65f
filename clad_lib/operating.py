"""Operating points: what a threshold on one score costs, counted and guaranteed, and the threshold that a run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clad_lib import calibration, methods, pipeline, runs
from clad_lib.config import Protocol, overrides_of
from clad_lib.curves import finite
from clad_lib.whole import write_whole

DELTA = 0.1  # of the calibration draws may break a promise

# how a threshold was chosen; the first two need no look at the test images
NAMED = "a false-alarm rate named beforehand"
LARGEST = "the largest calibration score, since too few images can promise the rate named beforehand"
RATE = "a false-alarm rate picked in sight of the test images"
HAND = "by hand in sight of the test images"


class Setting(NamedTuple):
    """A score, and for ODIN its temperature and its epsilon in pixel units; None stands for a score without them."""

    score: str
    temperature: float | None = None
    epsilon: float | None = None

    def __str__(self) -> str:
        numbers = "" if self.temperature is None else f", T = {self.temperature:g}, epsilon = {self.epsilon:g}"
        return self.score + numbers


class Sheet(NamedTuple):
    """One setting's scores: of independent calibration images (n,), of test images (m,), and their rows of the test split."""

    calibration: np.ndarray
    test: np.ndarray
    rows: np.ndarray


class Gathered(NamedTuple):
    """Everything that an explorer of thresholds needs: all sheets of a run, and what is known of the test images.

    anomaly (N,) bool, images (N, C, H, W) uint8, clusters (N,) the classifier's pseudo-classes or None. `start` is the
    configured setting; `left_out` names scores that are no finite numbers; `tracks` is whether one calibration score
    stands for a whole track of frames.
    """

    sheets: dict[Setting, Sheet]
    anomaly: np.ndarray
    images: np.ndarray
    clusters: np.ndarray | None
    start: Setting
    left_out: tuple[str, ...] = ()
    tracks: bool = False


class Point(NamedTuple):
    """Counts at a threshold, score > threshold an alarm, and the false alarms in 1,000 normal images.

    counted_per_1000 is of the test normals, NaN where there are none; bound_per_1000 holds at all thresholds at once with
    probability 1 - delta over the calibration draw.
    """

    caught: int
    missed: int
    false_alarms: int
    passed: int
    counted_per_1000: float
    bound_per_1000: float


def operating_point(sheet: Sheet, anomaly: np.ndarray, threshold: float, band: calibration.Band) -> Point:
    """What the threshold costs on a sheet's test images, anomaly (m,) bool, and the bound from its calibration images."""
    alarm, truth = sheet.test > threshold, np.asarray(anomaly, dtype=bool)
    caught, false_alarms = int((alarm & truth).sum()), int((alarm & ~truth).sum())
    normals = int((~truth).sum())
    counted = 1000 * false_alarms / normals if normals else float("nan")
    bound = 1000 * float(calibration.band_at(band, threshold))
    return Point(caught, int(truth.sum()) - caught, false_alarms, normals - false_alarms, counted, bound)


def cluster_rates(
    scores: np.ndarray, anomaly: np.ndarray, clusters: np.ndarray, threshold: float
) -> list[tuple[int, int, float, int, float]]:
    """(cluster, normal images, share of them that alarm, anomalies, share found) for each predicted pseudo-class.

    scores, anomaly, clusters (m,); a share of no images is NaN. Tells where one threshold for all alarms unevenly.
    """
    alarm, count = np.asarray(scores) > threshold, int(clusters.max()) + 1
    found = []
    for kind in (~anomaly, anomaly):
        sizes = np.bincount(clusters[kind], minlength=count)
        alarms = np.bincount(clusters[kind & alarm], minlength=count)
        found.append((sizes, np.divide(alarms, sizes, out=np.full(count, np.nan), where=sizes > 0)))
    (normals, false), (anomalies, caught) = found
    return [(k, int(normals[k]), float(false[k]), int(anomalies[k]), float(caught[k]))
            for k in range(count) if normals[k] + anomalies[k]]  # fmt: skip


def around(scores: np.ndarray, threshold: float, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Places in scores (m,) of the `count` lowest scores above the threshold and of the highest ones not above it."""
    order = np.argsort(scores, kind="stable")
    cut = int(np.searchsorted(np.asarray(scores)[order], threshold, side="right"))
    return order[cut : cut + count], order[max(0, cut - count) : cut][::-1]


def gather(study: pipeline.Study) -> Gathered:
    """All finished scores of a run; those that are NaN or infinite are left out. RunError where there is none."""
    split, start = study.split, configured(study)
    everything, sheets, left_out = np.arange(len(split.test)), dict[Setting, Sheet](), []
    for name in methods.METHODS:
        if study.run.has(name) and name not in methods.CHOSEN:
            one = methods.scores(study, name, make=False)
            try:
                test = finite(one.test, f"{name} scores")
                sheets[start if name == "ODIN" else Setting(name)] = Sheet(
                    _independent(study, name, one.calibration), test, everything
                )
            except ValueError:
                left_out.append(name)
    if not sheets and not left_out:
        study.run.find("ODIN")  # says what is missing
    if study.run.has("odin_grid"):
        sheets = _grid_sheets(study) | sheets
    known = study.run.has("classifier")
    clusters = methods.predicted_clusters(study) if known else None
    if not sheets:
        raise ValueError(f"the scores of {', '.join(left_out)} are NaN or infinite: train the run again")
    first = start if start in sheets else next(iter(sheets))
    tracks = len(np.unique(split.calibration_tracks)) < len(split.calibration_tracks)
    return Gathered(sheets, split.answers.test_anomaly, split.test.numpy(), clusters, first, tuple(left_out), tracks)


def configured(study: pipeline.Study) -> Setting:
    """ODIN as the configuration has it, fixed before any score was seen."""
    return Setting("ODIN", study.config.temperature, study.config.epsilon)


def _grid_sheets(study: pipeline.Study) -> dict[Setting, Sheet]:
    grid = methods.odin_grid(study, make=False)
    tracks = study.split.calibration_tracks[grid.calibration_rows]
    return {
        Setting("ODIN", temperature, epsilon): Sheet(
            calibration.one_per_track(grid.calibration[i, j], tracks, seed=study.config.seed), grid.test[i, j], grid.test_rows
        )
        for i, temperature in enumerate(grid.temperatures)
        for j, epsilon in enumerate(grid.epsilons)
    }


def _independent(study: pipeline.Study, name: str, scores: np.ndarray) -> np.ndarray:
    """One score a track; a method that used up some calibration images kept only the rest, whose rows are with its scores."""
    table = pd.read_parquet(study.run.find(name) / "scores.parquet", columns=["split", "index"])
    kept = np.isin(study.split.calibration_index, table.loc[table.split == "calibration", "index"])
    return calibration.one_per_track(scores, study.split.calibration_tracks[kept], seed=study.config.seed)


def protocol_of(study: pipeline.Study, setting: Setting, by: str) -> tuple[Protocol, str]:
    """The protocol of a threshold, and why: `clean` only where nothing at all was chosen in sight of the test images."""
    if study.config.protocol != "clean":
        return study.config.protocol, f"the run itself is {study.config.protocol}"
    if setting != configured(study):
        return "oracle", "the score or its settings were picked in sight of the test images"
    return "clean" if by in (NAMED, LARGEST) else "oracle", f"chosen as {by}"


def keep_threshold(
    study: pipeline.Study, setting: Setting, sheet: Sheet, threshold: float, point: Point, *, by: str, alpha: float | None = None
) -> dict[str, Any]:
    """Write the threshold to the run as threshold.json, whole or not at all, and return what was written.

    `by` is one of NAMED, LARGEST, RATE and HAND, `alpha` the false-alarm rate that gave the threshold, None for any other.
    RunError when the file cannot be written.
    """
    protocol, reason = protocol_of(study, setting, by)
    config, path = study.config, kept_path(study)
    record: dict[str, Any] = {
        **setting._asdict(), "threshold": float(threshold), "chosen_by": by, "alpha": alpha, "delta": DELTA,
        "protocol": protocol, "reason": reason, **point._asdict(), "bound": "at all thresholds at once",
        "calibration_scores": len(sheet.calibration), "test_images": len(sheet.test), "dataset": config.dataset,
        "scenario": config.scenario, "profile": config.profile, "seed": config.seed, "overrides": overrides_of(config),
    } | runs.stamp()  # fmt: skip
    try:
        write_whole(path, json.dumps(record, indent=1))
    except OSError as error:
        raise runs.RunError(
            f"cannot write {path}: {error.strerror}; free some space or choose another folder for runs"
        ) from error
    return record


def kept_path(study: pipeline.Study) -> Path:
    """Where the kept threshold of this configuration lies, whether or not it is there yet."""
    return study.folder / "threshold.json"


def kept_threshold(study: pipeline.Study) -> dict[str, Any] | None:
    """What `keep_threshold` wrote for this configuration; None where nothing was kept."""
    path = kept_path(study)
    return json.loads(path.read_text()) if path.is_file() else None
