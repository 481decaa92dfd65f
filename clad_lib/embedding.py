"""A map of the latents: t-SNE by MulticoreTSNE, or openTSNE where that is absent, the same bits for the same seed."""

from __future__ import annotations

import ctypes
import functools
import threading
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openTSNE
from openTSNE.affinity import PerplexityBasedNN
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

EXAGGERATION = 12  # van der Maaten (2014); held for the first third of the iterations, 250 at most
MANY = 10_000  # more points than these are drawn faster by openTSNE, see benchmarks/tsne.py
SMALLEST = 4  # fewer points have no neighbourhoods to keep


class Embedding(NamedTuple):
    """points (N, 2) float32; backend "multicore" or "opentsne"; the perplexity used, smaller than asked for small N."""

    points: np.ndarray
    backend: str
    perplexity: float
    seed: int


def tsne(
    latents: np.ndarray,
    *,
    perplexity: float = 30,
    iterations: int = 750,
    seed: int = 0,
    jobs: int = 2,
    backend: str = "auto",
) -> Embedding:
    """Barnes-Hut t-SNE of latents (N, D) in two dimensions (van der Maaten 2014), started from two main components.

    Learning rate max(200, N / 12) and early exaggeration 12 (Belkina et al. 2019). Perplexity is at most (N - 1) / 3.
    backend: "multicore", "opentsne", or "auto": MulticoreTSNE up to 10,000 latents and openTSNE, whose interpolation is
    faster there, for more; openTSNE with a warning where MulticoreTSNE is absent.
    The units of the points mean nothing; the same seed gives the same bits, whatever `jobs` is.

    Raises ValueError for fewer than 4 latents, NaN or infinite values, latents that are all the same, and unknown
    settings; ImportError for backend "multicore" where MulticoreTSNE is absent.
    """
    data = _checked(latents)
    _check_settings(perplexity=perplexity, iterations=iterations, seed=seed, jobs=jobs, backend=backend)
    fit, name = _backend(backend, len(data))
    used = float(min(perplexity, (len(data) - 1) / 3))
    start = _first_components(data)
    rate = max(200.0, len(data) / EXAGGERATION)
    points = fit(data, start, perplexity=used, iterations=iterations, rate=rate, seed=seed, jobs=jobs)
    return Embedding((points - points.mean(0)).astype(np.float32), name, used, seed)


def place(embedding: Embedding, latents: np.ndarray, new: np.ndarray, *, jobs: int = 2) -> np.ndarray:
    """Where new latents (M, D) fall on the map that `tsne` made of `latents` (N, D) -> (M, 2) float32; N stay put.

    Each new point starts at the median of its neighbours and is moved by openTSNE's transform (Policar et al. 2023),
    whichever backend drew the map. Raises ValueError when the shapes of map, latents and new latents do not match.
    """
    old, more = _finite(latents), _finite(new)
    if len(old) != len(embedding.points) or old.shape[1] != more.shape[1]:
        raise ValueError(
            f"got a map of {len(embedding.points)} points, latents {old.shape} and new latents {more.shape}: "
            "expected the latents that the map was made of, and new ones of the same size"
        )
    centre, scale = _centre_and_scale(old)
    near = PerplexityBasedNN(
        (old - centre) / scale, embedding.perplexity, method="exact", n_jobs=jobs, random_state=embedding.seed
    )
    reference = openTSNE.TSNEEmbedding(
        embedding.points.astype(np.float64), near, negative_gradient_method="bh", n_jobs=jobs,
        random_state=embedding.seed,
    )  # fmt: skip
    perplexity = min(5.0, embedding.perplexity)
    return np.asarray(reference.transform((more - centre) / scale, perplexity=perplexity), dtype=np.float32)


def _checked(latents: np.ndarray) -> np.ndarray:
    """Latents that cannot crash either backend, centred and scaled to unit spread, float64."""
    data = _finite(latents)
    if len(data) < SMALLEST:
        raise ValueError(f"got {len(data)} latents: expected at least {SMALLEST} for a map; use more images")
    centre, scale = _centre_and_scale(data)
    return np.ascontiguousarray((data - centre) / scale)


def _finite(latents: np.ndarray) -> np.ndarray:
    data = np.asarray(latents, dtype=np.float64)
    if data.ndim != 2 or not data.size:
        raise ValueError(f"got latents of shape {data.shape}: expected (N, D) with at least one of each")
    bad = ~np.isfinite(data).all(1)
    if bad.any():
        raise ValueError(
            f"{bad.sum()} of {len(data)} latents hold NaN or infinite values: expected finite numbers; "
            "train the autoencoder anew, or leave those images out"
        )
    return data


def _centre_and_scale(data: np.ndarray) -> tuple[np.ndarray, float]:
    centre = data.mean(0)
    with np.errstate(over="ignore"):
        scale = float((data - centre).std())
    if not np.isfinite(scale):
        raise ValueError("the latents are too large to square: expected values below 1e150; train the autoencoder anew")
    if scale <= 1e-12 * np.abs(data).max():
        raise ValueError("the latents are all the same: expected points that differ; train the autoencoder anew")
    return centre, scale


def _check_settings(*, perplexity: float, iterations: int, seed: int, jobs: int, backend: str) -> None:
    if not 1 <= perplexity < float("inf"):
        raise ValueError(f"perplexity is {perplexity!r}: expected a number of at least 1, such as 30")
    if iterations < 1 or jobs < 1:
        raise ValueError(f"iterations is {iterations!r} and jobs is {jobs!r}: expected at least 1 of each")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31:
        raise ValueError(f"seed is {seed!r}: expected an integer from 0 to {2**31 - 1}")
    if backend not in ("auto", "multicore", "opentsne"):
        raise ValueError(f"unknown backend {backend!r}: expected 'auto', 'multicore' or 'opentsne'")


def _first_components(data: np.ndarray) -> np.ndarray:
    """The first two principal components (N, 2), at t-SNE's usual 1e-4, with a little noise to part equal points."""
    with threadpool_limits(1):  # another number of threads would add in another order
        axes = PCA(min(2, *data.shape), svd_solver="full").fit_transform(data)
    points = np.zeros((len(data), 2))
    points[:, : axes.shape[1]] = axes * 1e-4 / axes[:, 0].std()
    return points + np.random.default_rng(0).normal(0, 1e-6, points.shape)


def _backend(name: str, count: int) -> tuple[Callable[..., np.ndarray], str]:
    if name == "opentsne" or (name == "auto" and count > MANY):
        return _opentsne, "opentsne"
    try:
        _multicore_library()
    except (ImportError, OSError, IndexError) as error:
        if name == "multicore":
            raise ImportError(f"no usable MulticoreTSNE ({error}): install it, or use backend='opentsne'") from error
        warnings.warn("MulticoreTSNE is not installed: openTSNE draws the map", UserWarning, stacklevel=3)
        return _opentsne, "opentsne"
    return _multicore, "multicore"


@functools.cache
def _multicore_library() -> tuple[type, ctypes.CDLL]:
    """The class, and its shared library loaded for good: unloaded after a fit, it crashes its own OpenMP threads."""
    module = import_module("MulticoreTSNE")
    library = next(iter(sorted(Path(str(module.__file__)).parent.glob("libtsne*.so"))), None)
    if library is None:
        raise ImportError(f"no libtsne*.so beside {module.__file__}")
    return module.MulticoreTSNE, ctypes.CDLL(str(library))


def _multicore(
    data: np.ndarray, start: np.ndarray, *, perplexity: float, iterations: int, rate: float, seed: int, jobs: int
) -> np.ndarray:
    kind, _ = _multicore_library()
    model = kind(
        perplexity=perplexity, early_exaggeration=EXAGGERATION, learning_rate=rate, n_iter=iterations,
        n_iter_early_exag=min(250, iterations // 3), init=start, random_state=int(seed), n_jobs=jobs,
    )  # fmt: skip

    def fit() -> np.ndarray:
        ctypes.CDLL(None).srand(int(seed))  # its neighbour tree draws before it seeds
        return model.fit_transform(data)

    return _sheltered(fit)


def _sheltered(function: Callable[[], Any]) -> Any:
    """Run in a thread that owns its arrays, so that an interrupt here does not free memory the C code still writes."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if errors:
        raise errors[0]
    return results[0]


def _opentsne(
    data: np.ndarray, start: np.ndarray, *, perplexity: float, iterations: int, rate: float, seed: int, jobs: int
) -> np.ndarray:
    early = min(250, iterations // 3)
    model = openTSNE.TSNE(
        perplexity=perplexity, early_exaggeration=EXAGGERATION, early_exaggeration_iter=early, learning_rate=rate,
        n_iter=iterations - early, initialization=start, neighbors="exact", random_state=int(seed), n_jobs=jobs,
    )  # fmt: skip
    return np.asarray(model.fit(data))
