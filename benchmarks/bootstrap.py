"""The bootstrap interval of an AUROC against scipy.stats.bootstrap.

`python benchmarks/bootstrap.py [--small]`. Both make percentile intervals of the same statistic
from as many resamples, normal images and anomalies apart; SciPy's statistic is the usual one for
it, vectorised midranks.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy import stats
from sides import Row, asked, in_turn, ratios, show

from clad_lib.judge.metrics import bootstrap


def midrank_auroc(normal: np.ndarray, anomalous: np.ndarray, axis: int = -1) -> np.ndarray:
    """AUROC along an axis, as SciPy's bootstrap calls it: (..., n), (..., m) -> (...)."""
    ranks = stats.rankdata(np.concatenate([normal, anomalous], axis), axis=axis)
    n, m = normal.shape[axis], anomalous.shape[axis]
    return (ranks[..., n:].sum(axis) - m * (m + 1) / 2) / (n * m)


def main() -> None:
    """Time both sides for few scores and for many."""
    options = asked(__doc__)
    small = options.small
    sizes, resamples, repeats = ((1000,), 200, 1) if small else ((1000, 10_000), 2000, 3)
    rows = []
    for size in sizes:
        anomaly = np.arange(size) % 2 == 0
        scores = np.random.default_rng(0).normal(size=size) + anomaly
        parts, common = (scores[~anomaly], scores[anomaly]), dict(method="percentile", rng=0)
        common |= dict(n_resamples=resamples, batch=50, vectorized=True)
        sides = {
            "clad_lib": partial(bootstrap, scores, anomaly, resamples=resamples, seed=0),
            "SciPy": partial(stats.bootstrap, parts, midrank_auroc, **common),
        }
        ours, theirs = in_turn(sides, repeats=repeats).values()
        low, high = theirs.result.confidence_interval
        width = (ours.result.high - ours.result.low) / (high - low)
        assert 0.7 < width < 1.4, f"our interval is {width:.2f} times as wide as SciPy's"
        faster = ratios(ours, theirs)
        rows.append(Row(f"{size:,} scores", "scipy.stats.bootstrap", *faster, agreement=width))
    what = f"An interval of an AUROC, {resamples:,} resamples"
    show(options, what, rows, agreement="width over the rival's")


if __name__ == "__main__":
    main()
