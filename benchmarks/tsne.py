"""`latent_map.tsne` against scikit-learn and openTSNE as they come, and its own other library.

`python benchmarks/tsne.py [--small]`. Latents around ten centres; all sides take the same number of
iterations, perplexity 30, two jobs and a start from main components. The trustworthiness (12
neighbours, of at most 5,000 points) is ours over the rival's. The row with the other library says
whether `MANY` in latent_map.py lies where it should.
"""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import numpy as np
import openTSNE
from sides import Row, asked, in_turn, ratios, show
from sklearn.manifold import TSNE, trustworthiness

from clad_lib.clad import latent_map

JOBS, EARLY = 2, 250


def latents(count: int, size: int = 10) -> np.ndarray:
    """Points (count, size) around ten centres, as a trained encoder leaves them."""
    random = np.random.default_rng(0)
    centres = random.normal(0, 3, (10, size))
    return centres[random.integers(0, 10, count)] + random.normal(0, 1, (count, size))


def ours(data: np.ndarray, iterations: int, many: int = latent_map.MANY) -> np.ndarray:
    """The library's map; up to `many` points are drawn by MulticoreTSNE."""
    with patch.object(latent_map, "MANY", many):
        return latent_map.tsne(data, iterations=iterations, jobs=JOBS).points


def scikit_learn(data: np.ndarray, iterations: int) -> np.ndarray:
    """scikit-learn's map."""
    model = TSNE(max_iter=iterations, init="pca", n_jobs=JOBS, random_state=0)
    return model.fit_transform(data)


def open_tsne(data: np.ndarray, iterations: int) -> np.ndarray:
    """openTSNE's map; its early iterations come on top of `n_iter`."""
    model = openTSNE.TSNE(n_iter=iterations - EARLY, n_jobs=JOBS, random_state=0)
    return np.asarray(model.fit(data))


def main() -> None:
    """Time the sides for few points and for many."""
    options = asked(__doc__)
    small = options.small
    sizes, iterations = ((300,), 260) if small else ((2000, 5000, 20_000), 750)
    ours(latents(100), 10), ours(latents(100), 10, 0)  # what is loaded first is not timed
    rows = []
    for size in sizes:
        data, other = latents(size), 0 if size <= latent_map.MANY else size
        sides = {
            "clad_lib": partial(ours, data, iterations),
            "scikit-learn": partial(scikit_learn, data, iterations),
            "openTSNE": partial(open_tsne, data, iterations),
            f"clad_lib by {'MulticoreTSNE' if other else 'openTSNE'}": partial(
                ours, data, iterations, other
            ),
        }
        costs = in_turn(sides)
        sample = np.random.default_rng(0).permutation(size)[:5000]
        trust = {
            name: trustworthiness(data[sample], cost.result[sample], n_neighbors=12)
            for name, cost in costs.items()
        }
        for name in list(costs)[1:]:
            quality = trust["clad_lib"] / trust[name]
            faster = ratios(costs["clad_lib"], costs[name])
            rows.append(Row(f"{size:,} points", name, *faster, agreement=quality))
    what = f"t-SNE, {iterations} iterations, {JOBS} jobs"
    show(options, what, rows, agreement="trustworthiness over the rival's")


if __name__ == "__main__":
    main()
