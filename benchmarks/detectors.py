"""Our four distances on the features of Patches against PyOD's KNN and LOF on the same features.

`python benchmarks/detectors.py [--small]`. These two were PyOD's best on raw pixels. Ours are all
four distances at once, with the leave-one-out scores of the training images; each rival gives one.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import torch
from patches import CELLS, CENTROIDS, CLUSTERS, digit_like
from scipy.stats import spearmanr
from sides import Row, asked, in_turn, ratios, show

from clad_lib.methods.dictionary import encode, learn_dictionary
from clad_lib.methods.distances import LOCAL, NEAREST, SCORES, distances, remember

try:
    from pyod.models.knn import KNN
    from pyod.models.lof import LOF
except ImportError as error:
    sys.exit(f"left out: {error}; pip install pyod")


def ours(seen: torch.Tensor, new: torch.Tensor) -> np.ndarray:
    """The four scores of new points (m, 4)."""
    memory, _ = remember(seen, torch.arange(len(seen)), clusters=CLUSTERS, seed=0)
    return distances(memory, new).numpy()


def theirs(detector: KNN | LOF, seen: torch.Tensor, new: torch.Tensor) -> np.ndarray:
    """A rival's scores of new points (m,)."""
    return detector.fit(seen.numpy()).decision_function(new.numpy())


def main() -> None:
    """Time fitting and scoring together."""
    options = asked(__doc__)
    count, more = (300, 100) if options.small else (10_000, 4000)
    train, tested = digit_like(count, 0), digit_like(more, 1)
    dictionary = learn_dictionary(train, side=4, stride=1, cells=CELLS, centroids=CENTROIDS, seed=0)
    seen, new = encode(train, dictionary), encode(tested, dictionary)
    rivals = {
        "PyOD's KNN": (partial(theirs, KNN(n_neighbors=NEAREST, method="mean")), 0),
        "PyOD's LOF": (partial(theirs, LOF(n_neighbors=LOCAL)), 1),
    }
    sides = {"clad_lib": partial(ours, seen, new)}
    sides |= {name: partial(call, seen, new) for name, (call, _) in rivals.items()}
    costs, rows = in_turn(sides, repeats=1 if options.small else 2), []
    for name, (_, column) in rivals.items():
        alike = spearmanr(costs["clad_lib"].result[:, column], costs[name].result).statistic
        assert alike > 0.95, f"{name} ranks the images otherwise: {alike:.3f}"
        faster = ratios(costs["clad_lib"], costs[name])
        rows.append(Row(f"four distances for {SCORES[column]}", name, *faster, None, float(alike)))
    what = f"Distances of {more:,} to {count:,} points of {seen.shape[1]} numbers"
    show(options, what, rows, agreement="rank correlation of the scores")


if __name__ == "__main__":
    main()
