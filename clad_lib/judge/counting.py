"""Metrics from counts of each class at each distinct score, of the data and of resamples."""

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike

CELLS = 2**16  # (resample, image) cells handled at once: they stay in a core's cache


class ConstantScores(UserWarning):
    """All scores are equal: the metrics are those of a guess; most likely the model collapsed."""


def area(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """AUROC: the chance that an anomaly scores above a normal image, ties counting half.

    normal, anomalous: counts (..., G) at each of G distinct scores, rising -> (...). Equal to the
    formula with midranks.
    """
    halves = 2 * np.cumsum(normal, -1) - normal  # twice: normal images below + half level
    return (anomalous * halves).sum(-1) / (2 * normal.sum(-1) * anomalous.sum(-1))


def fpr95(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """Share of anomalies accepted at the lowest threshold that accepts 95 % of normal images."""
    line = (100 * np.cumsum(normal) < 95 * normal.sum()).sum()  # 0.95 n is not exact
    return float(np.cumsum(anomalous)[line] / anomalous.sum())


def counts(values: np.ndarray, truth: np.ndarray) -> list[np.ndarray]:
    """Scores, anomaly (N,) -> counts (G,) of normal images and of anomalies at each score."""
    distinct, place = np.unique(values, return_inverse=True)
    if len(distinct) == 1:
        text = f"all {len(values)} scores are {distinct[0]:g}: AUROC is 0.5, a guess; no training?"
        warnings.warn(text, ConstantScores, stacklevel=3)
    return [np.bincount(place[part], minlength=len(distinct)) for part in (~truth, truth)]


def resampled(
    rows: np.ndarray,
    anomaly: ArrayLike,
    resamples: int,
    seed: int,
    units: ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """AUROC of M rows of scores, each (N,): of all images and of the same resamples of them.

    Returns the AUROC (M,), its resamples (R, M), and the smaller number of `units` of the two
    classes, inf without units. Normal images and anomalies, or whole units of them, are drawn
    apart. What is drawn adds to the count of its distinct score, so that ties stay exact.
    """
    if resamples < 2:
        raise ValueError(f"got {resamples} resamples: expected 2 or more")
    values = [checked(row, anomaly)[0] for row in rows]
    truth = np.asarray(anomaly, bool)
    names = np.arange(len(truth)) if units is None else np.asarray(units)
    if names.shape != truth.shape:
        raise ValueError(f"units are {names.shape}: expected the unit of each image, {truth.shape}")
    owners = [np.unique(names[part], return_inverse=True)[1] for part in (~truth, truth)]
    sizes = [owner.max() + 1 for owner in owners]
    if min(sizes) < 2:
        raise ValueError(
            f"got {sizes[0]} normal and {sizes[1]} anomalous independent images or tracks: "
            "expected 2 or more of each for an interval or a test"
        )
    generator, draws = np.random.default_rng(seed), np.empty((resamples, len(values)))
    orders = [row.argsort() for row in values]
    starts = [np.unique(np.sort(row), return_index=True)[1] for row in values]  # (G,) of a score
    step = max(1, CELLS // len(truth))
    for block in np.split(draws, range(step, resamples, step)):
        times = np.zeros((2, len(block), len(truth)))  # how often each image is drawn, by class
        for each, part, owner, size in zip(times, (~truth, truth), owners, sizes, strict=True):
            chosen = generator.integers(0, size, (len(block), size), dtype=np.int32)
            flat = (chosen + size * np.arange(len(block))[:, None]).ravel()
            drawn = np.bincount(flat, minlength=chosen.size).reshape(chosen.shape)
            each[:, part] = drawn[:, owner]
        for column, (order, start) in enumerate(zip(orders, starts, strict=True)):
            block[:, column] = area(*np.add.reduceat(times[..., order], start, axis=2))
    observed = np.array([area(*counts(row, truth)) for row in values])
    return observed, draws, min(sizes) if units is not None else math.inf


def checked(scores: ArrayLike, anomaly: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores as finite float64 (N,) and anomaly as bool (N,), both classes present."""
    values, truth = finite(scores, "scores"), np.asarray(anomaly)
    if truth.shape != values.shape or not np.isin(truth, (0, 1)).all():
        raise ValueError(
            f"scores are {values.shape}, anomaly is {truth.shape} and holds "
            f"{np.unique(truth)[:5]}: expected True for an anomaly, False for a normal image"
        )
    if not 0 < truth.sum() < len(truth):
        raise ValueError(
            f"got {(truth == 0).sum()} normal images and {truth.sum()} anomalies: expected both; "
            "choose a scenario whose test set has both"
        )
    return values, truth.astype(bool)


def finite(values: ArrayLike, what: str) -> np.ndarray:
    """Values as float64 (N,), N of 1 or more, all finite, or a ValueError naming them `what`."""
    array = np.asarray(values, dtype=np.float64)
    bad = int((~np.isfinite(array)).sum())
    if array.ndim != 1 or not len(array) or bad:
        raise ValueError(
            f"{what} have shape {array.shape} and hold {bad} NaN or infinite: expected (N,) finite "
            "numbers, one for each image; check the model"
        )
    return array


def share(value: float, name: str) -> float:
    """The value, or a ValueError that names it where it is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value!r}: expected a number strictly between 0 and 1")
    return value
