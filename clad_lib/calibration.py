"""Thresholds and p-values from normal images alone, with guarantees on the false-alarm rate.

Everything here rests on one assumption: calibration images and future normal images are drawn independently from one
population. Frames of one track are not: `one_per_track` keeps one of each. F(s) is the share of normal images that
score s or less, n the number of calibration images; an alarm is score > threshold, strictly, so that ties only ever
make a bound safer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, betabinom, binom

from clad_lib.bands import Band, band_at, band_threshold, false_alarm_band, upper_boundary
from clad_lib.curves import finite, share

__all__ = [
    "Band", "Threshold", "band_at", "band_threshold", "cluster_thresholds", "conformal_p_values", "false_alarm_band",
    "false_alarm_count", "images_needed", "in_words", "one_per_track", "simulated_rates", "small_clusters", "smallest_alpha",
    "threshold_for", "threshold_of",
]  # fmt: skip

CONDITIONAL, MARGINAL, NONE = "calibration-conditional", "marginal", "none"


class Threshold(NamedTuple):
    """Where to alarm, score > value, and what is promised of it; `note` says what is not.

    expected_per_1000: mean false alarms in 1,000 normal images, over calibration draws. bound_per_1000: the long-run
    number that is exceeded for at most `delta` of the calibration draws. `value` is the `rank`-th largest calibration
    score; with guarantee "none" it is inf, rank 0: nothing ever alarms.
    """

    value: float
    alpha: float
    delta: float
    n: int
    guarantee: str
    expected_per_1000: float
    bound_per_1000: float
    rank: int = 0
    note: str = ""


def conformal_p_values(calibration: ArrayLike, scores: ArrayLike, *, delta: float | None = None) -> np.ndarray:
    """Conformal p-values of "this image is normal": p(s) = (1 + #{calibration >= s}) / (n + 1).

    calibration (n,), scores (m,) -> (m,) in [1 / (n + 1), 1], valid on average over calibration draws (marginally).
    With `delta` they are calibration-conditional (Bates et al. 2023, section 3): with probability 1 - delta over the
    draw, P(p <= t) <= t for all t given the calibration set in hand; p(s) is replaced by the bound b_k of
    `false_alarm_band`, k = (n + 1) p(s). Raises ValueError for no scores, NaN or infinite ones.
    """
    normal, tested = np.sort(finite(calibration, "calibration scores")), finite(scores, "scores")
    above = len(normal) - np.searchsorted(normal, tested, side="left")  # (m,) calibration scores >= s
    if delta is None:
        return (1 + above) / (len(normal) + 1)
    return upper_boundary(len(normal), share(delta, "delta"))[above]


def threshold_for(calibration: ArrayLike, *, alpha: float, delta: float = 0.1, guarantee: str = CONDITIONAL) -> Threshold:
    """The lowest threshold whose false-alarm rate is promised to be at most alpha; calibration scores (n,).

    The false-alarm rate at the k-th largest score is Beta(k, n - k + 1) over calibration draws, or smaller with ties
    (Wilks 1941). "calibration-conditional": the largest k with P(Beta(k, n - k + 1) > alpha) <= delta, exact, so that
    with probability 1 - delta over the draw the long-run rate is at most alpha (Vovk 2012, proposition 2; Bates et al.
    2023 for all alpha at once: see `false_alarm_band`). "marginal": the largest k <= alpha (n + 1), a rate of at most
    alpha on average over draws, as alarming on conformal p-values <= alpha.

    Where n is too small for any k the value is inf, the guarantee "none", and the note says what would do. Raises
    ValueError for no scores, NaN or infinite ones, and alpha or delta outside (0, 1).
    """
    return _threshold(finite(calibration, "calibration scores"), alpha, delta, guarantee)


def in_words(found: Threshold, *, tracks: bool = False) -> str:
    """What a threshold promises, of normal images or of one image a track, or why it promises nothing."""
    if found.guarantee == NONE:
        return f"No threshold: {found.note}."
    unit, of = ("tracks, one image of each", "tracks") if tracks else ("normal images", "images")
    certain = found.guarantee == CONDITIONAL
    odds = f"With probability {1 - found.delta:g}" if certain else "On average over calibration draws"
    bound = found.bound_per_1000 if certain else found.expected_per_1000
    return f"{odds}, at most {bound:.0f} false alarms in 1,000 {unit}, in the long run, from {found.n:,} calibration {of}"


def smallest_alpha(n: int, delta: float = 0.1) -> float:
    """The smallest false-alarm rate n calibration images can promise, their maximum as threshold: 1 - delta^(1/n)."""
    if n < 1:
        raise ValueError(f"got {n} calibration images: expected 1 or more; set some normal training images aside")
    return -math.expm1(math.log(share(delta, "delta")) / n)


def images_needed(alpha: float, delta: float = 0.1) -> int:
    """The fewest calibration images that can promise alpha: the least n with (1 - alpha)^n <= delta."""
    return math.ceil(math.log(share(delta, "delta")) / math.log1p(-share(alpha, "alpha")) - 1e-9)


def false_alarm_count(threshold: Threshold, images: int = 1000, *, level: float = 0.95) -> tuple[float, int]:
    """Expected false alarms in the next `images` normal images, and the number not exceeded with probability `level`.

    Over calibration draw and images together: a beta-binomial of `images`, k and n - k + 1; (0.0, 0) with value inf.
    """
    if not threshold.rank:
        return 0.0, 0
    law = betabinom(images, threshold.rank, threshold.n - threshold.rank + 1)
    return float(law.mean()), int(law.ppf(share(level, "level")))


def cluster_thresholds(
    calibration: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: float,
    delta: float = 0.1,
    clusters: int | Sequence[int],
    pool: Sequence[int] = (),
    simultaneous: bool = False,
    guarantee: str = CONDITIONAL,
) -> dict[int, Threshold]:
    """One threshold a cluster (Mondrian; Vovk, Lindsay, Nouretdinov & Gammerman 2003) from its own calibration scores.

    calibration (n,), labels (n,) the clusters that the model gives these images, `clusters` their number or names.
    Promised, for each cluster by itself: with probability 1 - delta over the draw, at most alpha of the normal images
    that the model puts there alarm. With `simultaneous` this holds for all clusters at once, and so for all images,
    each cluster at delta / clusters. A cluster with too few images, or none, gets value inf and the guarantee "none":
    it never alarms, and the note says so. Clusters in `pool` share one threshold, promised for their union; choose them
    without the calibration set, as `small_clusters` does. "marginal" asks for fewer images and promises less.

    Raises ValueError as `threshold_for`, for lengths that differ and for labels outside `clusters`.
    """
    names = _names(clusters)
    scores, places = finite(calibration, "calibration scores"), _labels(labels, names)
    if len(scores) != len(places):
        raise ValueError(f"got {len(scores)} calibration scores and {len(places)} labels: expected one label a score")
    shared = tuple(int(name) for name in pool)
    _labels(shared, names)
    groups = [(name,) for name in names if name not in shared] + ([shared] if shared else [])
    each = delta / len(groups) if simultaneous else delta
    found: dict[int, Threshold] = {}
    for group in groups:
        threshold = _threshold(scores[np.isin(places, group)], alpha, each, guarantee)
        together = f"shared by clusters {', '.join(map(str, group))}. " if len(group) > 1 else ""
        found |= dict.fromkeys(group, threshold._replace(note=together + threshold.note))
    return {name: found[name] for name in names}


def small_clusters(
    train_labels: ArrayLike,
    *,
    n: int,
    alpha: float,
    delta: float = 0.1,
    clusters: int | Sequence[int],
    risk: float = 0.05,
) -> tuple[int, ...]:
    """Clusters worth pooling: by their share of the TRAINING images, n calibration images bring too few for alpha.

    Those where fewer than `images_needed(alpha, delta)` would fall with a probability above `risk`. Training images are
    not calibration images, so the choice leaves the promises of `cluster_thresholds` intact.
    """
    names = _names(clusters)
    places = _labels(train_labels, names)
    shares = np.array([(places == name).mean() for name in names])
    lacking = binom.cdf(images_needed(alpha, delta) - 1, n, shares)
    return tuple(name for name, chance in zip(names, lacking, strict=True) if chance > risk)


def threshold_of(labels: ArrayLike, thresholds: Mapping[int, Threshold]) -> np.ndarray:
    """The threshold of each image's cluster: labels (m,) -> (m,), for `scores > threshold_of(...)` and `f1_at`."""
    names = tuple(sorted(thresholds))
    places = _labels(labels, names)
    return np.array([thresholds[name].value for name in names])[np.searchsorted(names, places)]


def one_per_track(scores: ArrayLike, tracks: ArrayLike, *, seed: int) -> np.ndarray:
    """One score of each track at random, (T,): independent where the images of a track are not.

    The promises then count tracks: they are about one image of each future normal track. scores, tracks (n,).
    """
    values, groups = finite(scores, "calibration scores"), np.asarray(tracks)
    if groups.shape != values.shape:
        raise ValueError(f"scores are {values.shape}, tracks are {groups.shape}: expected one track number a score")
    order = np.random.default_rng(seed).permutation(len(values))
    return values[order[np.unique(groups[order], return_index=True)[1]]]


def simulated_rates(pool: ArrayLike, *, n: int, alpha: float, delta: float = 0.1, draws: int = 200, seed: int) -> np.ndarray:
    """The guarantee put to the test: false-alarm rates (draws,) of thresholds from calibration sets out of `pool`.

    The pool (N,) of normal scores is the population: n are drawn with replacement, the rate is over all N. At most
    delta of the rates may exceed alpha, beyond binomial chance.
    """
    population, generator = np.sort(finite(pool, "scores of the pool")), np.random.default_rng(seed)
    lines = [threshold_for(generator.choice(population, n), alpha=alpha, delta=delta).value for _ in range(draws)]
    return (len(population) - np.searchsorted(population, lines, side="right")) / len(population)


@cache
def _rank(n: int, alpha: float, delta: float) -> int:
    """The largest k with P(Beta(k, n - k + 1) > alpha) = P(Binomial(n, alpha) < k) <= delta, or 0."""
    tails = binom.cdf(np.arange(n), n, alpha)  # (n,) of k - 1
    return int(np.searchsorted(tails, delta * (1 + 1e-9), side="right"))  # 1e-9: alpha = smallest_alpha(n) is enough


def _marginal_rank(n: int, alpha: float) -> int:
    near = round(alpha * (n + 1))
    return max(k for k in (0, near - 1, near) if k / (n + 1) <= alpha)  # as the p-values compare, rounding and all


def _threshold(scores: np.ndarray, alpha: float, delta: float, guarantee: str) -> Threshold:
    share(alpha, "alpha"), share(delta, "delta")
    if guarantee not in (CONDITIONAL, MARGINAL):
        raise ValueError(f"unknown guarantee {guarantee!r}: expected {CONDITIONAL!r} or {MARGINAL!r}")
    n = len(scores)
    rank = _rank(n, alpha, delta) if guarantee == CONDITIONAL else _marginal_rank(n, alpha)
    if not rank:
        return Threshold(math.inf, alpha, delta, n, NONE, 0.0, 0.0, 0, _too_few(n, alpha, delta, guarantee))
    value, note = float(np.partition(scores, n - rank)[n - rank]), ""
    expected, bound = 1000 * rank / (n + 1), 1000 * float(beta.isf(delta, rank, n - rank + 1))
    if (tied := int((scores == value).sum())) > 1:
        note = f"{tied} of {n} calibration scores equal the threshold and do not alarm: the rates are upper bounds"
    return Threshold(value, alpha, delta, n, guarantee, expected, bound, rank, note)


def _too_few(n: int, alpha: float, delta: float, guarantee: str) -> str:
    needed = images_needed(alpha, delta) if guarantee == CONDITIONAL else math.ceil(1 / alpha - 1e-9) - 1
    least = smallest_alpha(n, delta) if guarantee == CONDITIONAL and n else 1 / (n + 1)
    can = f"can promise alpha = {least:.3g} at best" if n else "promise nothing"
    return f"{n} calibration images {can}: {alpha:g} needs {needed}. Nothing alarms: every anomaly would be missed"


def _names(clusters: int | Sequence[int]) -> tuple[int, ...]:
    names = tuple(range(clusters)) if isinstance(clusters, int | np.integer) else tuple(int(name) for name in clusters)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"clusters are {clusters!r}: expected how many there are, or their labels, each once")
    return names


def _labels(labels: ArrayLike, names: tuple[int, ...]) -> np.ndarray:
    places = np.asarray(labels)
    if places.ndim != 1 or (len(places) and not np.isin(places, names).all()):
        odd = np.unique(places[~np.isin(places, names)])[:5] if places.ndim == 1 else f"shape {places.shape}"
        raise ValueError(f"labels hold {odd}: expected (n,), each one of the clusters {names}; use the same clustering")
    return places
