"""t-SNE side by side: this library's `tsne`, openTSNE and scikit-learn, on the same latents in one run.

    python benchmarks/tsne.py --sizes 5000 20000 --jobs 2

A ratio below 1 is faster than `clad_lib.embedding.tsne` as it is called by default. Trustworthiness (12 neighbours, in [0, 1])
is measured on at most 5,000 of the points, the same for each. OMP_WAIT_POLICY=PASSIVE keeps waiting threads out of the
CPU time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import openTSNE
import sklearn
from sklearn.manifold import TSNE, trustworthiness

from clad_lib.embedding import tsne

Method = Callable[[np.ndarray], np.ndarray]


def latents(count: int, size: int, *, clusters: int = 10, seed: int = 0) -> np.ndarray:
    """Points (count, size) around `clusters` centres, as a trained encoder leaves them."""
    random = np.random.default_rng(seed)
    centres = random.normal(0, 3, (clusters, size))
    return centres[random.integers(0, clusters, count)] + random.normal(0, 1, (count, size))


def methods(*, iterations: int, jobs: int) -> dict[str, Method]:
    """Name -> latents (N, D) -> points (N, 2), all with the same iterations, perplexity and PCA start."""
    rest = max(1, iterations - 250)
    return {
        "clad tsne": lambda z: tsne(z, iterations=iterations, jobs=jobs).points,
        "clad tsne (MulticoreTSNE)": lambda z: tsne(z, iterations=iterations, jobs=jobs, backend="multicore").points,
        "clad tsne (openTSNE)": lambda z: tsne(z, iterations=iterations, jobs=jobs, backend="opentsne").points,
        "openTSNE": lambda z: np.asarray(openTSNE.TSNE(n_iter=rest, n_jobs=jobs, random_state=0).fit(z)),
        "scikit-learn": lambda z: TSNE(max_iter=iterations, init="pca", n_jobs=jobs, random_state=0).fit_transform(z),
    }


def measure(method: Method, data: np.ndarray) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and trustworthiness of one fit."""
    wall, cpu = time.perf_counter(), time.process_time()
    points = method(data)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    sample = np.random.default_rng(0).permutation(len(data))[:5000]
    return wall, cpu, trustworthiness(data[sample], points[sample], n_neighbors=12)


def main() -> None:
    """Measure each method at each size and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 5000, 20000], help="numbers of points")
    parser.add_argument("--latent", type=int, default=10, help="size of a latent")
    parser.add_argument("--iterations", type=int, default=750)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[""], help="measure only methods whose name contains one of these")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, {given.jobs} jobs, {given.iterations} iterations, latents of {given.latent}, "
          f"openTSNE {openTSNE.__version__}, scikit-learn {sklearn.__version__}")  # fmt: skip
    print(f"{'points':>7} {'method':<26} {'wall s':>7} {'CPU s':>7} {'ratio':>6} {'CPU ratio':>9}  trustworthiness")
    tsne(latents(300, given.latent), iterations=20)  # imports and thread pools are not what is measured
    for size in given.sizes:
        data, first = latents(size, given.latent), None
        for name, method in methods(iterations=given.iterations, jobs=given.jobs).items():
            if not any(part in name for part in given.only):
                continue
            wall, cpu, trust = measure(method, data)
            first = first or (wall, cpu)
            times = f"{wall:7.1f} {cpu:7.1f} {wall / first[0]:6.2f} {cpu / first[1]:9.2f}"
            print(f"{size:>7} {name:<26} {times}  {trust:.4f}", flush=True)


if __name__ == "__main__":
    main()
