"""Before any training: do the anomalies of a scenario lie closer to the training images than its normal images do?"""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from clad_lib.scenarios import Split
from clad_lib.training import as_unit


def nearest_distance(split: Split) -> np.ndarray:
    """Euclidean distance in pixels, [0, 1] units, from each test image to its nearest training image: (M,). Analysis only."""
    train, test = (as_unit(images).flatten(1).numpy() for images in (split.train, split.test))
    return NearestNeighbors(n_neighbors=1, algorithm="brute").fit(train).kneighbors(test)[0][:, 0]
