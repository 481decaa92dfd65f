"""The bootstrap interval of an AUROC against scipy.stats.bootstrap.

`python benchmarks/bootstrap.py [--small]`. Both make percentile intervals of the same statistic
from as many resamples, normal images and anomalies apart; SciPy's statistic is the usual one for
it, vectorised midranks.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy import stats
from sides import RATIOS, asked_for_small, in_turn, print_table, ratios

from clad_lib.judge.metrics import bootstrap


def midrank_auroc(normal: np.ndarray, anomalous: np.ndarray, axis: int = -1) -> np.ndarray:
    """AUROC along an axis, as SciPy's bootstrap calls it: (..., n), (..., m) -> (...)."""
    ranks = stats.rankdata(np.concatenate([normal, anomalous], axis), axis=axis)
    n, m = normal.shape[axis], anomalous.shape[axis]
    return (ranks[..., n:].sum(axis) - m * (m + 1) / 2) / (n * m)


def main() -> None:
    """Time both sides for few scores and for many."""
    small = asked_for_small(__doc__)
    sizes, resamples, repeats = ((1000,), 200, 1) if small else ((1000, 10_000), 2000, 3)
    rows = []
    for size in sizes:
        anomaly = np.arange(size) % 2 == 0
        scores = np.random.default_rng(0).normal(size=size) + anomaly
        parts, options = (scores[~anomaly], scores[anomaly]), dict(method="percentile", rng=0)
        options |= dict(n_resamples=resamples, batch=50, vectorized=True)
        sides = {
            "clad_lib": partial(bootstrap, scores, anomaly, resamples=resamples, seed=0),
            "SciPy": partial(stats.bootstrap, parts, midrank_auroc, **options),
        }
        ours, theirs = in_turn(sides, repeats=repeats).values()
        low, high = theirs.result.confidence_interval
        width = (ours.result.high - ours.result.low) / (high - low)
        assert 0.7 < width < 1.4, f"our interval is {width:.2f} times as wide as SciPy's"
        rows.append((f"{size:,}", "scipy.stats.bootstrap", *ratios(ours, theirs), width))
    heads = ("scores", "rival", *RATIOS, "width over the rival's")
    print_table(f"An interval of an AUROC, {resamples:,} resamples", heads, rows)


if __name__ == "__main__":
    main()
