"""Metrics of ranked scores from counts of each class at each distinct score: one formula for data and for resamples."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

CELLS = 2**16  # (resample, image) cells handled at once: half a MB an array stays in a core's cache


class ConstantScores(UserWarning):
    """All scores are equal: the metrics are those of a guess, and the detector has most likely collapsed."""


def auroc(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Chance that an anomaly scores above a normal image, ties counting half; equal to the midrank formula.

    normal, anomalous: counts (R, G) of R samples at each of G distinct scores, rising -> (R,), as all METRICS.
    """
    halves = 2 * np.cumsum(normal, 1) - normal  # (R, G), twice: normal images below, plus half of those level
    return (anomalous * halves).sum(1) / (2 * normal.sum(1) * anomalous.sum(1))


def average_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """sum_t (R_t - R_t-1) P_t; counts (R, G) by falling confidence in the positive class -> (R,)."""
    hits = np.cumsum(positive, 1)
    return (positive * hits / np.maximum(hits + np.cumsum(negative, 1), 1)).sum(1) / hits[:, -1]


def aupr_anomaly(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Average precision with anomalies as the positive class, found from the highest score down."""
    return average_precision(anomalous[:, ::-1], normal[:, ::-1])


def aupr_normal(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Average precision with normal images as the positive class, found from the lowest score up."""
    return average_precision(normal, anomalous)


def fpr95(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Share of anomalies accepted at the lowest threshold that accepts at least 95 % of the normal images."""
    accepted, missed = np.cumsum(normal, 1), np.cumsum(anomalous, 1)
    line = (100 * accepted < 95 * accepted[:, -1:]).sum(1, keepdims=True)  # in integers: 0.95 n is not exact
    return np.take_along_axis(missed, line, 1)[:, 0] / missed[:, -1]


METRICS = {"auroc": auroc, "aupr_anomaly": aupr_anomaly, "aupr_normal": aupr_normal, "fpr95": fpr95}


def counts(values: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) and anomaly (N,) bool -> counts (1, G) of normal images and of anomalies at each distinct score."""
    distinct, place = np.unique(values, return_inverse=True)
    if len(distinct) == 1:
        text = f"all {len(values)} scores are {distinct[0]:g}: AUROC is 0.5, a guess; was the detector trained?"
        warnings.warn(text, ConstantScores, stacklevel=3)
    normal, anomalous = (np.bincount(place[part], minlength=len(distinct))[None] for part in (~truth, truth))
    return normal, anomalous


def resampled(values: Sequence[np.ndarray], truth: np.ndarray, *, resamples: int, seed: int, metric: str) -> Iterator[np.ndarray]:
    """A metric of M methods, scores (N,) each, on the same stratified resamples of the images: chunks (r, M) of rows.

    A drawn image adds one to the count of its distinct score, so no resample is ever sorted and ties stay exact.
    """
    generator = np.random.default_rng(seed)
    placed = [np.unique(scores, return_inverse=True)[1] for scores in values]
    classes = np.flatnonzero(~truth), np.flatnonzero(truth)
    step = max(1, CELLS // len(truth))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = [images[generator.integers(0, len(images), (count, len(images)), dtype=np.int32)] for images in classes]
        tallies = [[_tally(place, rows, place.max() + 1) for rows in drawn] for place in placed]
        yield np.stack([METRICS[metric](normal, anomalous) for normal, anomalous in tallies], 1)


def _tally(place: np.ndarray, drawn: np.ndarray, groups: int) -> np.ndarray:
    """place (N,) in [0, G) of each image and drawn images (r, n) -> how often each place was drawn, (r, G)."""
    cells = place[drawn] + groups * np.arange(len(drawn))[:, None]
    return np.bincount(cells.ravel(), minlength=len(drawn) * groups).reshape(len(drawn), groups)


def checked(scores: ArrayLike, anomaly: ArrayLike, *, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Scores as finite float64 (N,) and anomaly as bool (N,), with `least` images of each class, or a ValueError."""
    values, truth = finite(scores, "scores"), np.asarray(anomaly)
    if truth.shape != values.shape:
        raise ValueError(f"scores are {values.shape}, anomaly is {truth.shape}: expected one bool an image for both")
    if not np.isin(truth, (0, 1)).all():
        found = np.unique(truth)[:5]
        raise ValueError(f"anomaly holds {found}: expected True for an anomaly, False for a normal image")
    truth = truth.astype(bool)
    if min(truth.sum(), (~truth).sum()) < least:
        raise ValueError(
            f"got {(~truth).sum()} normal images and {truth.sum()} anomalies: expected {least} or more of each; "
            "choose a scenario whose test set holds both"
        )
    return values, truth


def finite(values: ArrayLike, what: str) -> np.ndarray:
    """Values as float64 (N,), N of 1 or more, all finite, or a ValueError that names them as `what`."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{what} have shape {array.shape}: expected (N,) with N of 1 or more; give one score an image")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{what} hold {bad} NaN or infinite of {len(array)}: expected finite numbers; check the model")
    return array


def share(value: float, name: str) -> float:
    """The value, or a ValueError that names it where it is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value!r}: expected a number strictly between 0 and 1, such as 0.05")
    return value
