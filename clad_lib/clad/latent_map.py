"""A map of the latents: t-SNE by MulticoreTSNE or openTSNE, the same bits for the same seed."""

import contextlib
import ctypes
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from clad_lib.clad.networks import Trained
from clad_lib.clad.training import infer
from clad_lib.config import Settings
from clad_lib.data.split import Split

EXAGGERATION = 12  # van der Maaten (2014); held for the first third of the iterations, 250 at most
MANY = 10_000  # more points than these are drawn faster by openTSNE, see benchmarks/tsne.py
SMALLEST = 4  # fewer points have no neighbourhoods to keep


class LatentMap(NamedTuple):
    """A map of latents; its units mean nothing."""

    points: np.ndarray  # (n, 2) float32
    rows: np.ndarray  # (n,), which images these are
    backend: str  # "multicore" or "opentsne"
    perplexity: float  # smaller than was asked for where there are few points
    seed: int


def latent_map(
    split: Split, settings: Settings, autoencoder: Trained, *, limit: int = 10_000
) -> LatentMap:
    """The map of at most `limit` training images, drawn at random; reads no setting."""
    rows = np.sort(np.random.default_rng(settings.seed).permutation(len(split.train))[:limit])
    model: Any = autoencoder.model
    latents = infer(model, split.train[rows], function=model.encode)
    return tsne(latents.numpy(), seed=settings.seed)._replace(rows=rows)


def tsne(
    latents: np.ndarray,
    *,
    perplexity: float = 30,
    iterations: int = 750,
    seed: int = 0,
    jobs: int = 2,
) -> LatentMap:
    """Barnes-Hut t-SNE of latents (N, D) (van der Maaten 2014), started from two main components.

    Learning rate max(200, N / 12) and early exaggeration 12 (Belkina et al. 2019); perplexity at
    most (N - 1) / 3. Up to 10,000 latents are drawn by MulticoreTSNE, more of them by openTSNE,
    whose interpolation is faster there; openTSNE stands in, with a warning, where the other is not
    installed. The same seed gives the same bits, whatever `jobs` is.

    Raises ValueError for fewer than 4 latents, for values that are not finite or all the same (they
    would end the process in MulticoreTSNE), and for settings out of range.
    """
    if not (1 <= perplexity < np.inf and iterations > 0 < jobs and 0 <= seed < 2**31):
        raise ValueError(
            f"got perplexity {perplexity}, iterations {iterations}, jobs {jobs} and seed {seed}: "
            f"expected 1 or more of each, the seed from 0 to {2**31 - 1}"
        )
    data = _scaled(latents)
    if len(data) < SMALLEST:
        raise ValueError(f"got {len(data)} latents: expected {SMALLEST} or more; use more images")
    used, early = float(min(perplexity, (len(data) - 1) / 3)), min(250, iterations // 3)
    options: dict[str, Any] = dict(
        perplexity=used,
        early_exaggeration=EXAGGERATION,
        learning_rate=max(200.0, len(data) / EXAGGERATION),
        random_state=int(seed),
        n_jobs=jobs,
    )
    start, kind = _start(data), _multicore(seed) if len(data) <= MANY else None
    if kind is not None:
        model = kind(**options, n_iter=iterations, n_iter_early_exag=early, init=start)
        # a thread of its own, so that an interrupt here frees no memory that the C code writes
        points = ThreadPoolExecutor(1).submit(model.fit_transform, data).result()
    else:
        from openTSNE import TSNE

        model = TSNE(
            **options,
            n_iter=iterations - early,
            early_exaggeration_iter=early,
            initialization=start,
            neighbors="exact",
        )
        points = np.asarray(model.fit(data))
    points, rows = (points - points.mean(0)).astype(np.float32), np.arange(len(data))
    return LatentMap(points, rows, "multicore" if kind else "opentsne", used, seed)


def _scaled(latents: np.ndarray) -> np.ndarray:
    """Latents centred and scaled to unit spread, float64."""
    data = np.asarray(latents, dtype=np.float64)
    if data.ndim != 2 or not data.size or not np.isfinite(data).all():
        raise ValueError(
            f"got latents {data.shape}, {np.isnan(data).sum()} values NaN: expected finite numbers "
            "(N, D); train the autoencoder again, or leave those images out"
        )
    centred = data - data.mean(0)
    if not 1e-12 * np.abs(data).max() < centred.std() < np.inf:
        raise ValueError(
            "latents are all the same, or too large: expected finite points that differ"
        )
    return np.ascontiguousarray(centred / centred.std())


def _start(data: np.ndarray) -> np.ndarray:
    """Two main components (N, 2) at t-SNE's usual 1e-4, with some noise to part equal points."""
    with threadpool_limits(1):  # another number of threads would add in another order
        axes = PCA(min(2, *data.shape), svd_solver="full").fit_transform(data)
    points = np.random.default_rng(0).normal(0, 1e-6, (len(data), 2))
    points[:, : axes.shape[1]] += axes * 1e-4 / axes[:, 0].std()
    return points


def _multicore(seed: int) -> Any:
    """The class of MulticoreTSNE, ready to draw; None, with a warning, where it is missing."""
    with contextlib.suppress(ImportError, OSError, StopIteration):
        module = import_module("MulticoreTSNE")
        library = next(Path(str(module.__file__)).parent.glob("libtsne*.so"))
        ctypes.CDLL(str(library))  # loaded for good: unloaded after a fit, it crashes its threads
        ctypes.CDLL(None).srand(seed)  # its neighbour tree draws before it seeds
        return module.MulticoreTSNE
    warnings.warn("MulticoreTSNE is not installed: openTSNE draws the map", stacklevel=3)
    return None
