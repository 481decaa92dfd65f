"""Before any training: do the anomalies of a scenario lie closer to the training images than its normal images do?

Analysis only: it reads the test labels, and nothing that trains, selects or calibrates reads it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.neighbors import NearestNeighbors

from clad_lib.evaluation import bootstrap
from clad_lib.scenarios import Split
from clad_lib.training import as_unit

RESAMPLES = 500


class Neighbours(NamedTuple):
    """Test images looked at, their distance to the nearest training image, and which that is: all (M,)."""

    rows: np.ndarray
    distance: np.ndarray  # Euclidean, pixels in [0, 1]
    nearest: np.ndarray


class Verdict(NamedTuple):
    """AUROC of the distance with its 95 % interval, whether scores are likely to point the wrong way, and it in words."""

    auroc: float
    low: float
    high: float
    warns: bool
    text: str


def neighbours(split: Split, *, limit: int = 5000, seed: int = 0) -> Neighbours:
    """The nearest of at most `limit` training images to each of at most `limit` test images, in plain pixels."""
    random = np.random.default_rng(seed)
    known, rows = (np.sort(random.permutation(len(part))[:limit]) for part in (split.train, split.test))
    train, test = as_unit(split.train[known]).flatten(1).numpy(), as_unit(split.test[rows]).flatten(1).numpy()
    distance, place = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(train).kneighbors(test)
    return Neighbours(rows, distance[:, 0], known[place[:, 0]])


def verdict(found: Neighbours, anomaly: np.ndarray, *, seed: int = 0) -> Verdict:
    """What the distances say of the direction of scores; anomaly (M,) bool for the images looked at.

    Warns where the whole interval of the AUROC lies below 0.5: anomalies then look more normal than the normal images,
    and a score that follows pixels ranks them the wrong way round. ValueError where one of the two kinds is missing.
    """
    interval = bootstrap(found.distance, anomaly, resamples=RESAMPLES, seed=seed)
    value, low, high = interval
    span = f"AUROC {value:.3f} (95 % interval {low:.3f} to {high:.3f})"
    if high < 0.5:
        says = "anomalies look MORE normal than the normal images: expect an AUROC below 0.5 from scores that follow pixels"
    elif low <= 0.5:
        says = "in pixels, anomalies and normal images are alike: nothing can be said of the direction of scores"
    else:
        says = "anomalies lie farther from the training images than normal images do: scores should point the right way"
    return Verdict(value, low, high, high < 0.5, f"{span}: {says}")


def most_normal_anomalies(found: Neighbours, anomaly: np.ndarray, *, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """The anomalies closest to a training image: rows of the test split, and of the training image each is close to."""
    order = np.argsort(found.distance, kind="stable")
    order = order[np.asarray(anomaly, dtype=bool)[order]][:count]
    return found.rows[order], found.nearest[order]
