"""What is measured of a method's scores, and the one schema in which all scores are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clad_lib.clad.scores import Scored
from clad_lib.config import Config, as_dict
from clad_lib.data.split import Split
from clad_lib.judge import guarantees, metrics
from clad_lib.study.stages import rows, short_hash
from clad_lib.study.store import RECORD, atomic_folder, folder_name, peak_memory_mb, stamp

ALPHA, DELTA = 0.1, 0.1  # of the threshold at which F1 and the confusion matrix are taken
RESAMPLES = 1000


def measure(
    config: Config,
    split: Split,
    scored: Scored,
    *,
    method: str,
    copies: np.ndarray | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of scores and the metrics of a method on a split.

    The threshold wants at most `ALPHA` false alarms with probability 1 - `DELTA` over the
    calibration draw, from one image a track that the method did not use up. The interval of AUROC
    resamples tracks where there are any. `copies` (m,) bool marks test images that stand in
    training: AUROC is then also given without them. Without anomalies in the test split, as in a
    folder of normal images, there are no metrics but the threshold and the share of alarms.
    """
    free = np.ones(len(scored.calibration), bool) if scored.used is None else ~scored.used
    calibrated, tested = scored.calibration[free], scored.test
    independent = guarantees.one_per_track(
        calibrated, split.calibration_tracks[free], seed=config.seed
    )
    threshold = guarantees.threshold_for(independent, alpha=ALPHA, delta=DELTA)
    counts = {"train": len(split.train), "calibration": len(independent), "test": len(tested)}
    found = {
        "threshold": {k: v for k, v in threshold._asdict().items() if v != float("inf")},
        "images": counts,
        "peak_memory_mb": peak_memory_mb(),
        **scored.extra,
    }
    anomaly = split.answers.test_anomaly
    if anomaly.all() or not anomaly.any():
        found["alarm_rate"] = float((tested > threshold.value).mean())
    else:
        found |= _tested(split, tested, anomaly, config.seed, copies)
        found |= _at_threshold(tested, anomaly, threshold)
        found |= published_metrics(config, method, tested, anomaly, found["auroc"])
    return scores_table(split, calibrated, tested, free), found


def units_of(split: Split) -> np.ndarray | None:
    """The tracks (m,) of the test images where several show one object, else None."""
    tracks = split.test_tracks
    return tracks if len(np.unique(tracks)) < len(tracks) else None


def _tested(
    split: Split, tested: np.ndarray, anomaly: np.ndarray, seed: int, copies: np.ndarray | None
) -> dict[str, Any]:
    units = units_of(split)
    found = metrics.evaluate(tested, anomaly)._asdict()
    found["unit"] = "image" if units is None else "track"
    if units is None or min(len(np.unique(units[kind])) for kind in (anomaly, ~anomaly)) > 1:
        interval = metrics.bootstrap(tested, anomaly, resamples=RESAMPLES, seed=seed, units=units)
        found |= {"auroc_low": interval.low, "auroc_high": interval.high}
    if copies is not None and copies.any() and not anomaly[~copies].all():
        found["copies_in_training"] = int(copies.sum())
        found["auroc_without_copies"] = metrics.auroc(tested[~copies], anomaly[~copies])
    return found


def _at_threshold(tested: np.ndarray, anomaly: np.ndarray, threshold: Any) -> dict[str, Any]:
    if threshold.guarantee == guarantees.NONE:
        return {"f1": None, "confusion": None}
    confusion = metrics.f1_at(tested, anomaly, threshold.value)
    return {"f1": confusion.f1, "confusion": confusion._asdict()}


def published_metrics(
    config: Config, method: str, tested: np.ndarray, anomaly: np.ndarray, auroc: float
) -> dict[str, Any]:
    """What the published code would have reported, where one of its defects is switched on."""
    found: dict[str, Any] = {}
    if config.hard_svdd and method == "SVDD":
        found["auroc"] = auroc = metrics.hard_decision_auroc(tested, 0.0, anomaly)
    if config.flip_auroc:
        found["auroc"] = metrics.flipped_auroc(auroc)
    if config.best_f1:
        found["f1"] = metrics.best_f1(tested, anomaly).f1
    return found


def scores_table(
    split: Split, calibrated: np.ndarray, tested: np.ndarray, free: np.ndarray
) -> pd.DataFrame:
    """One row an image: split, index, track, hidden_class, anomaly, score.

    Calibration images that the method used up, not `free` (n,) bool, have no row.
    """
    answers = split.answers
    hidden = [answers.calibration_class[free], answers.test_class]
    return pd.DataFrame(
        {
            "split": ["calibration"] * len(calibrated) + ["test"] * len(tested),
            "index": np.concatenate([split.calibration_index[free], split.test_index]),
            "track": np.concatenate([split.calibration_tracks[free], split.test_tracks]),
            "hidden_class": np.concatenate(hidden),
            "anomaly": np.concatenate([np.zeros(len(calibrated), bool), answers.test_anomaly]),
            "score": np.concatenate([calibrated, tested]),
        }
    )


def read_scores(path: Path, size: int) -> np.ndarray:
    """One's own scores of the test images from a CSV with columns index and score, (size,).

    `index` is the place of an image in the test split, every one of them once. Raises ValueError
    that says what is missing, double or not a number.
    """
    table = pd.read_csv(path)
    if not {"index", "score"} <= set(table.columns):
        raise ValueError(
            f"{path} has the columns {', '.join(table.columns)}: expected index, score"
        )
    places = pd.to_numeric(table["index"], errors="coerce")
    if sorted(places) != list(range(size)):
        raise ValueError(
            f"{path} has {len(table)} rows: expected each index from 0 to {size - 1} once"
        )
    scores = pd.to_numeric(table["score"], errors="coerce").to_numpy(np.float64)[np.argsort(places)]
    if not np.isfinite(scores).all():
        raise ValueError(f"{path} holds scores that are no finite numbers: expected numbers")
    return scores


def add_scores(study: Any, path: Path, method: str) -> Path:
    """Keep one's own scores of a Study's test images as one more method; gives their folder.

    The CSV is that of `read_scores`. The method stands in tables and tests as `clean`: that its
    choices used no test label is the word of whoever adds it. Scores that were added under that
    name before are replaced. Raises ValueError for the name of one of our methods.
    """
    if method in rows():
        raise ValueError(f"{method} is a method of this package: name yours otherwise")
    config, split, places = study.config, study.split, study.places
    tested, nothing = read_scores(path, len(split.test)), np.zeros(len(split.calibration), bool)
    copies = study["copies"].test_in_train
    found = {"images": {"train": len(split.train), "test": len(tested)}}
    found |= _tested(split, tested, split.answers.test_anomaly, config.seed, copies)
    record = {"stage": method, "config": as_dict(config), "settings": {}, "protocol": "clean"}
    record |= {"data": places.data, "source": str(path)} | study.conditions | stamp()
    name = f"{folder_name(method)}-{short_hash(places.data)}"
    folder = places.scenario / name / f"seed{config.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as draft:
        table = scores_table(split, np.empty(0), tested, nothing)
        table.to_parquet(draft / "scores.parquet", index=False)
        for file, values in (("metrics.json", found), (RECORD, record)):
            (draft / file).write_text(json.dumps(values, indent=1), encoding="utf-8")
    return folder
