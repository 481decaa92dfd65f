"""What is measured of a method's scores: metrics with intervals, the calibrated threshold, and the table of scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clad_lib import calibration, evaluation, runs
from clad_lib.config import Config
from clad_lib.scenarios import Split

ALPHA, DELTA = 0.1, 0.1  # of the threshold at which F1 and the confusion matrix are taken
RESAMPLES = 1000


class Scores(NamedTuple):
    """Anomaly scores of the calibration and the test images, (n,) and (m,), and the metrics of the test."""

    calibration: np.ndarray
    test: np.ndarray
    metrics: dict[str, Any]


def metrics(
    config: Config, split: Split, method: str, calibrated: np.ndarray, tested: np.ndarray, *, free: np.ndarray | None = None
) -> dict[str, Any]:
    """Test metrics with AUROC's interval, and F1 and confusion at the threshold that calibration images alone give.

    The threshold wants alpha = 0.1 with probability 0.9 over the calibration draw, from one image a track. Without
    anomalies in the test split (a folder of normal images) there are no metrics but the threshold and the alarms.
    `free` (n,) bool are the calibration images that `calibrated` belongs to. The published defects enter here, and only
    where they are switched on.
    """
    tracks = split.calibration_tracks if free is None else split.calibration_tracks[free]
    independent = calibration.one_per_track(calibrated, tracks, seed=config.seed)
    threshold = calibration.threshold_for(independent, alpha=ALPHA, delta=DELTA)
    counts = {"train": len(split.train), "calibration": len(independent), "test": len(tested)}
    finite = {name: value for name, value in threshold._asdict().items() if value != float("inf")}
    base = {"threshold": finite, "images": counts, "peak_memory_mb": runs.peak_memory_mb()}
    anomaly = split.answers.test_anomaly
    if anomaly.all() or not anomaly.any():
        return base | {"alarm_rate": float((tested > threshold.value).mean())}
    measured = evaluation.evaluate(tested, anomaly)._asdict()
    interval = evaluation.bootstrap(tested, anomaly, resamples=RESAMPLES, seed=config.seed)
    confusion = evaluation.f1_at(tested, anomaly, threshold.value)
    known = threshold.guarantee != calibration.NONE
    base |= measured | {"auroc_low": interval.low, "auroc_high": interval.high}
    base |= {"f1": confusion.f1 if known else None, "confusion": confusion._asdict() if known else None}
    return base | _published_metrics(config, method, tested, anomaly, measured["auroc"])


def _published_metrics(config: Config, method: str, tested: np.ndarray, anomaly: np.ndarray, auroc: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if config.hard_svdd and method == "SVDD":
        found["auroc"] = auroc = evaluation.hard_decision_auroc(tested, 0.0, anomaly)
    if config.flip_auroc:
        found["auroc"] = evaluation.flipped_auroc(auroc)
    if config.best_f1:
        found["f1"] = evaluation.best_f1(tested, anomaly).f1
    return found


def scores_table(split: Split, calibrated: np.ndarray, test: np.ndarray) -> pd.DataFrame:
    """The one schema of all methods: split, index, hidden_class, anomaly, score; one row an image."""
    answers = split.answers
    quiet = np.zeros(len(calibrated), dtype=bool)
    return pd.DataFrame({
        "split": ["calibration"] * len(calibrated) + ["test"] * len(test),
        "index": np.concatenate([split.calibration_index, split.test_index]),
        "hidden_class": np.concatenate([answers.calibration_class, answers.test_class]),
        "anomaly": np.concatenate([quiet, answers.test_anomaly]),
        "score": np.concatenate([calibrated, test]),
    })  # fmt: skip


def load_scores(folder: Path) -> Scores:
    """Scores and metrics of a finished method folder."""
    table = pd.read_parquet(folder / "scores.parquet")
    parts = {name: group["score"].to_numpy() for name, group in table.groupby("split")}
    empty = np.zeros(0)
    found = json.loads((folder / "metrics.json").read_text())
    return Scores(parts.get("calibration", empty), parts.get("test", empty), found)
