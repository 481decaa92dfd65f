"""Bounds on the false-alarm rate that hold at all thresholds at once."""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.signal import fftconvolve
from scipy.special import gammaln, xlogy
from scipy.stats import beta

from clad_lib.judge.counting import finite, share

KNOTS = 700  # ranks considered: all up to about 90, then steps of about 1 %


class Band(NamedTuple):
    """upper (G,) bounds the false-alarm rate at each distinct calibration score, thresholds (G,).

    With probability 1 - delta over the draw of n calibration images all bounds hold at once.
    """

    thresholds: np.ndarray
    upper: np.ndarray


def false_alarm_band(calibration: ArrayLike, *, delta: float = 0.1) -> Band:
    """Upper bounds on the false-alarm rate at all thresholds, so that a slider may be moved freely.

    With probability 1 - delta over the draw of calibration scores (n,), the rate of score > t is at
    most b_(1 + #{calibration > t}) at every t, b being `upper_boundary`; any boundary of that level
    is admitted by Bates, Candes, Lei, Romano & Sesia (2023, Annals of Statistics 51, section 3).
    Against the DKW bound with Massart's constant, n = 2,000, delta = 0.1: 0.0028 instead of 0.024
    at the largest score, 0.064 instead of 0.073 where 99 of the 2,000 lie above; DKW is tighter
    only where more than 300 do.

    Raises ValueError for no scores, NaN or infinite ones, and delta outside (0, 1).
    """
    normal = np.sort(finite(calibration, "calibration scores"))
    thresholds = np.unique(normal)
    above = len(normal) - np.searchsorted(normal, thresholds, side="right")  # (G,) scores > t
    return Band(thresholds, upper_boundary(len(normal), delta)[above])


def band_at(band: Band, threshold: ArrayLike) -> np.ndarray:
    """The bound at a threshold or an array of them, in (0, 1]; 1 below all calibration scores."""
    line = np.asarray(threshold, dtype=np.float64)
    if np.isnan(line).any():
        raise ValueError("threshold is NaN: expected a number; inf alarms on nothing")
    return np.append(1.0, band.upper)[np.searchsorted(band.thresholds, line, side="right")]


@cache
def upper_boundary(n: int, delta: float) -> np.ndarray:
    """b (n + 1,), rising, b_(n+1) = 1, with P(V_(k) <= b_k for all k) = 1 - delta; read-only.

    V_(1) <= ... <= V_(n) are n sorted uniforms. Equal local levels (Berk & Jones 1979;
    Gontscharuk, Landwehr & Finner 2016): at each rank k considered b_k is the 1 - gamma quantile of
    V_(k), Beta(k, n - k + 1), with one gamma for all, solved for. A rank between two that are
    considered takes the bound of the next: V_(k) <= V_(next), so the probability is the same.
    """
    ranks = np.unique(np.geomspace(1, n + 0.5, KNOTS).astype(int))  # (I,)

    def bounds(log_level: float) -> np.ndarray:
        return beta.isf(math.exp(log_level), ranks, n - ranks + 1)

    most = math.log(share(delta, "delta"))  # the level of a single rank; the least is Bonferroni's
    level = brentq(
        lambda log_level: crossing_probability(bounds(log_level), ranks, n) - delta,
        most - math.log(len(ranks)) - 1e-6,
        most + 1e-6,
        xtol=1e-7,
    )
    safe = bounds(level - 1e-6)  # a millionth on the safe side
    boundary = np.append(safe[np.searchsorted(ranks, np.arange(1, n + 1))], 1.0)
    boundary.setflags(write=False)
    return boundary


def crossing_probability(bounds: np.ndarray, ranks: np.ndarray, n: int) -> float:
    """P(V_(k_i) > b_i for some i) for n sorted uniforms V; bounds b and ranks k rise, (I,).

    Moscovich & Nadler (2017): N(t), the number of uniforms up to t, is a Poisson process of rate n
    given N(1) = n, and nothing is crossed where N(b_i) >= k_i at all i. The law of N is carried
    from bound to bound and cut below k_i. All terms are positive; tails below 1e-20 are dropped,
    which can only raise the answer. O(I n^(1/2) log n).
    """
    steps = n * np.diff(bounds, prepend=0.0)
    widths, most = _beyond(steps), np.minimum(_beyond(n * bounds), n)
    low, law = 0, np.ones(1)  # P(N = low, low + 1, ...) with nothing crossed so far
    for step, width, rank, high in zip(steps, widths, ranks, most, strict=True):
        convolve = np.convolve if width < 500 else fftconvolve  # the faster of the two
        law = convolve(law, _poisson(np.arange(width + 1), step))[rank - low : high - low + 1]
        low = rank
    kept = law @ _poisson(n - low - np.arange(len(law)), n * (1 - bounds[-1]))
    return float(1 - kept / _poisson(np.array(n), n))


def _beyond(mean: np.ndarray) -> np.ndarray:
    """A count that a Poisson variable exceeds with probability below 1e-20 (Bernstein)."""
    return np.ceil(mean + 10 * np.sqrt(mean) + 40).astype(int)


def _poisson(count: np.ndarray, mean: float) -> np.ndarray:
    return np.exp(xlogy(count, mean) - mean - gammaln(count + 1.0))
