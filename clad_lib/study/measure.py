"""What is measured of a method's scores, and the one schema in which all scores are kept."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from clad_lib.config import Config
from clad_lib.judge import guarantees, metrics
from clad_lib.study.stages import rows
from clad_lib.study.store import (
    RECORD,
    atomic_folder,
    folder_name,
    peak_memory_mb,
    short_hash,
    write_json,
)

if TYPE_CHECKING:
    from clad_lib.clad.scores import Scored
    from clad_lib.data.split import Split
    from clad_lib.study.engine import Study

ALPHA, DELTA = 0.1, 0.1  # of the threshold at which F1 and the confusion matrix are taken
RESAMPLES = 1000


def measure(
    config: Config, split: Split, scored: Scored, *, method: str, copies: np.ndarray
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of scores and the metrics of a method on a split.

    The threshold wants at most `ALPHA` false alarms with probability 1 - `DELTA` over the
    calibration draw, from one image a track that the method did not use up. The interval of AUROC
    resamples tracks where there are any. `copies` (m,) bool marks test images that stand in
    training: AUROC is then also given without them. Without anomalies in the test split, as in a
    folder of normal images, there are no metrics but the threshold and the share of alarms.
    """
    free = np.ones(len(scored.calibration), bool) if scored.used is None else ~scored.used
    calibrated, tested, anomaly = scored.calibration[free], scored.test, split.answers.test_anomaly
    tracks = split.calibration_tracks[free]
    independent = guarantees.one_per_track(calibrated, tracks, seed=config.seed)
    line = guarantees.threshold_for(independent, alpha=ALPHA, delta=DELTA)
    found: dict[str, Any] = {
        "threshold": {name: v for name, v in line._asdict().items() if v != math.inf},
        "images": {"train": len(split.train), "calibration": len(independent), "test": len(tested)},
        "peak_memory_mb": peak_memory_mb(),
        **scored.extra,
    }
    if anomaly.all() or not anomaly.any():
        found["alarm_rate"] = float((tested > line.value).mean())
        return scores_table(split, scored, free), found
    found |= {"f1": None, "confusion": None} | tested_metrics(split, tested, copies, config.seed)
    if line.guarantee != guarantees.NONE:
        confusion = metrics.f1_at(tested, anomaly, line.value)
        found |= {"f1": confusion.f1, "confusion": confusion._asdict()}
    if config.hard_svdd and method == "SVDD":
        found["auroc"] = metrics.hard_decision_auroc(tested, 0.0, anomaly)
    if config.flip_auroc:
        found["auroc"] = max(found["auroc"], 1 - found["auroc"])
    if config.best_f1:
        found["f1"] = metrics.best_f1(tested, anomaly)
    return scores_table(split, scored, free), found


def tested_metrics(
    split: Split, tested: np.ndarray, copies: np.ndarray, seed: int
) -> dict[str, Any]:
    """AUROC with its interval, and the other metrics that no threshold decides."""
    anomaly, units = split.answers.test_anomaly, units_of(split.test_tracks)
    found = metrics.evaluate(tested, anomaly)._asdict()
    found["unit"] = "image" if units is None else "track"
    if not one_object(units, anomaly):
        interval = metrics.bootstrap(tested, anomaly, resamples=RESAMPLES, seed=seed, units=units)
        found |= {"auroc_low": interval.low, "auroc_high": interval.high}
    if copies.any() and not anomaly[~copies].all():
        found["copies_in_training"] = int(copies.sum())
        found["auroc_without_copies"] = metrics.auroc(tested[~copies], anomaly[~copies])
    return found


def units_of(tracks: np.ndarray) -> np.ndarray | None:
    """The tracks (m,) of the test images where several show one object, else None."""
    return tracks if len(np.unique(tracks)) < len(tracks) else None


def one_object(units: np.ndarray | None, anomaly: np.ndarray) -> bool:
    """Whether all images of one kind show one object, so that nothing says how they scatter."""
    kinds = () if units is None else (units[anomaly], units[~anomaly])
    return any(len(np.unique(kind)) < 2 for kind in kinds)


def compare(
    one: np.ndarray, other: np.ndarray, anomaly: np.ndarray, tracks: np.ndarray, **options: Any
) -> metrics.Comparison:
    """Two methods on the same test images: a bootstrap paired on images, or on tracks.

    With a single track of one kind nothing can be told: p is 1 and the interval is NaN.
    """
    units = units_of(tracks)
    if one_object(units, anomaly):
        areas = [metrics.auroc(np.mean(np.atleast_2d(each), 0), anomaly) for each in (one, other)]
        return metrics.Comparison(areas[0] - areas[1], math.nan, math.nan, 1.0)
    return metrics.paired_comparison(one, other, anomaly, seed=0, units=units, **options)


def scores_table(split: Split, scored: Scored, free: np.ndarray) -> pd.DataFrame:
    """One row an image: split, index, track, hidden_class, anomaly, score.

    Calibration images that the method used up, not `free` (n,) bool, have no row.
    """
    answers = split.answers
    parts = {
        "calibration": pd.DataFrame(
            {
                "index": split.calibration_index[free],
                "track": split.calibration_tracks[free],
                "hidden_class": answers.calibration_class[free],
                "anomaly": False,
                "score": scored.calibration[free],
            }
        ),
        "test": pd.DataFrame(
            {
                "index": split.test_index,
                "track": split.test_tracks,
                "hidden_class": answers.test_class,
                "anomaly": answers.test_anomaly,
                "score": scored.test,
            }
        ),
    }
    return pd.concat(parts, names=["split"]).reset_index("split")


def write_scores(folder: Path, table: pd.DataFrame, measured: dict[str, Any]) -> None:
    """Write what `measure` gives as scores.parquet and metrics.json."""
    table.to_parquet(folder / "scores.parquet", index=False)
    write_json(folder / "metrics.json", measured)


def add_scores(study: Study, path: Path, method: str) -> Path:
    """Keep one's own scores of a Study's test images as one more method; gives their folder.

    The CSV has the columns index, the place of an image in the test split, every one of them once,
    and score. The method stands in tables and tests as `clean`: that its choices used no test label
    is the word of whoever adds it. Scores that were added under that name before are replaced.
    Raises ValueError for another table, and for the name of one of our methods.
    """
    from clad_lib.clad.scores import Scored

    if method in rows():
        raise ValueError(f"{method} is a method of this package: name yours otherwise")
    split, seed = study.split, study.config.seed
    table = pd.read_csv(path).reindex(columns=["index", "score"])
    table = table.apply(pd.to_numeric, errors="coerce").sort_values("index")
    whole = table["index"].tolist() == [*range(len(split.test))]
    if not whole or not np.isfinite(table.score).all():
        raise ValueError(
            f"{path} has {len(table)} rows: expected the columns index, every number from 0 to "
            f"{len(split.test) - 1} once, and score, a finite number each"
        )
    scored = Scored(np.empty(len(split.calibration)), table.score.to_numpy(np.float64))
    measured = tested_metrics(split, scored.test, study["copies"].test_in_train, seed)
    measured["images"] = {"train": len(split.train), "test": len(scored.test)}
    folder = (
        study.places.scenario
        / f"{folder_name(method)}-{short_hash(study.places.data)}"
        / f"seed{seed}"
    )
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as draft:
        write_scores(
            draft, scores_table(split, scored, np.zeros(len(scored.calibration), bool)), measured
        )
        record = study.record(method, settings={}, protocol="clean", source=str(path))
        write_json(draft / RECORD, record)
    return folder
