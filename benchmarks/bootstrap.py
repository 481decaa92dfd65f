"""The bootstrap interval of an AUROC: clad_lib against scipy.stats.bootstrap, both sides in one run.

Run with `python benchmarks/bootstrap.py [--scores 10000] [--resamples 2000] [--repeats 3]`. Both make stratified
percentile intervals of the same statistic at the same number of resamples; SciPy's statistic is the usual one for it,
vectorised midranks. CPU seconds of one process, best of the repeats.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from clad_lib.evaluation import bootstrap


def auroc_of_samples(normal: np.ndarray, anomalous: np.ndarray, axis: int = -1) -> np.ndarray:
    """Midrank AUROC along an axis, as SciPy's bootstrap calls it: (..., n), (..., m) -> (...)."""
    ranks = stats.rankdata(np.concatenate([normal, anomalous], axis), axis=axis)
    n, m = normal.shape[axis], anomalous.shape[axis]
    return (ranks[..., n:].sum(axis) - m * (m + 1) / 2) / (n * m)


def best_of(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Least CPU seconds of `repeats` calls, and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("scores", 10_000), ("resamples", 2_000), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    anomaly = np.arange(options.scores) % 2 == 0
    scores = generator.normal(size=options.scores) + anomaly
    ours, interval = best_of(lambda: bootstrap(scores, anomaly, resamples=options.resamples, seed=0), options.repeats)
    theirs, result = best_of(
        lambda: stats.bootstrap(
            (scores[~anomaly], scores[anomaly]), auroc_of_samples, n_resamples=options.resamples, batch=50,
            vectorized=True, method="percentile", rng=np.random.default_rng(0),
        ).confidence_interval,
        options.repeats,
    )  # fmt: skip
    print(f"{options.resamples} resamples of {options.scores} scores, AUROC {interval.estimate:.4f}")
    print(f"clad_lib.evaluation.bootstrap  {ours:6.2f} s CPU  [{interval.low:.4f}, {interval.high:.4f}]")
    print(f"scipy.stats.bootstrap          {theirs:6.2f} s CPU  [{result.low:.4f}, {result.high:.4f}]")
    print(f"ratio: {theirs / ours:.1f} times as fast as SciPy")


if __name__ == "__main__":
    main()
