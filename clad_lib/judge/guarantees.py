"""Thresholds and p-values from normal images alone, with guarantees on the false-alarm rate.

All rests on one assumption: calibration images and future normal images are drawn independently
from one population. Frames of one track are not: `one_per_track` keeps one of each.
`exchangeability` looks for signs that the assumption fails. An alarm is score > threshold,
strictly, so that ties only ever make a bound safer.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, binom

from clad_lib.judge.bands import (  # noqa: F401  what `guarantees` offers too
    Band,
    band_at,
    false_alarm_band,
)
from clad_lib.judge.counting import finite, share
from clad_lib.judge.drift import Exchangeability, exchangeability  # noqa: F401

CONDITIONAL, MARGINAL, NONE = "calibration-conditional", "marginal", "none"
RISK = 0.05  # of too few calibration images, from which on a cluster is pooled


class Threshold(NamedTuple):
    """Where to alarm, score > value, and what is promised of it; `note` says what is not.

    expected_per_1000: mean false alarms in 1,000 normal images, over calibration draws.
    bound_per_1000: the long-run number that is exceeded for at most `delta` of the draws. `value`
    is the `rank`-th largest calibration score; with guarantee "none" it is inf, rank 0: nothing
    ever alarms. `place` is empty, or names the clusters whose images the promise is about.
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
    place: str = ""


def conformal_p_values(calibration: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Conformal p-values of "this image is normal": p(s) = (1 + #{calibration >= s}) / (n + 1).

    calibration (n,), scores (m,) -> (m,) in [1 / (n + 1), 1], valid on average over calibration
    draws.
    """
    normal = np.sort(finite(calibration, "calibration scores"))
    above = len(normal) - np.searchsorted(normal, finite(scores, "scores"), side="left")  # (m,)
    return (1 + above) / (len(normal) + 1)


def threshold_for(
    calibration: ArrayLike, *, alpha: float, delta: float = 0.1, guarantee: str = CONDITIONAL
) -> Threshold:
    """The lowest threshold whose false-alarm rate is promised to be at most alpha.

    The false-alarm rate at the k-th largest of the calibration scores (n,) is Beta(k, n - k + 1)
    over calibration draws, or smaller with ties (Wilks 1941). "calibration-conditional": the
    largest k with P(Beta(k, n - k + 1) > alpha) <= delta, so that with probability 1 - delta over
    the draw the long-run rate is at most alpha (Vovk 2012, proposition 2). "marginal": the largest
    k <= alpha (n + 1), a rate of at most alpha on average over draws, as alarming on conformal
    p-values <= alpha. Where n is too small the guarantee is "none"; the note says what would do.

    Raises ValueError for no scores, NaN or infinite ones, alpha or delta outside (0, 1).
    """
    return _threshold(finite(calibration, "calibration scores"), alpha, delta, guarantee)


def in_words(threshold: Threshold, *, tracks: bool = False) -> str:
    """What a threshold promises, of which images, and what that rests on; or that it is nothing.

    `tracks`: the calibration scores were those of one image a track. Bounds are rounded up.
    """
    note, delta = threshold.note, _rounded_up(threshold.delta)
    if threshold.guarantee == NONE:
        note = note.replace("images", "tracks") if tracks else note
        return f"Nothing is promised{threshold.place}. {note}."
    what = "tracks" if tracks else "images"
    drawn = f"the draw of the {threshold.n:,} calibration {what}{threshold.place}"
    odds, bound = f"With probability {1 - delta:.9g} or more over {drawn}", threshold.bound_per_1000
    if threshold.guarantee == MARGINAL:
        odds, bound = f"On average over {drawn}", threshold.expected_per_1000
    new = f"new normal images{threshold.place}{', one of each track,' if tracks else ''}"
    return (
        f"{odds}, at most {_rounded_up(bound):g} of 1,000 {new} raise a false alarm in the long "
        f"run. This rests on new normal {what} being exchangeable with the calibration {what}: "
        "drawn from the same population, independently of each other."
    )


def smallest_alpha(n: int, delta: float = 0.1) -> float:
    """The smallest rate that n calibration images can promise: 1 - delta^(1/n), at the largest."""
    if n < 1:
        raise ValueError(f"got {n} calibration images: expected 1 or more; set some aside")
    return -math.expm1(math.log(share(delta, "delta")) / n)


def images_needed(alpha: float, delta: float = 0.1) -> int:
    """The fewest calibration images that can promise alpha: least n, (1 - alpha)^n <= delta."""
    return math.ceil(math.log(share(delta, "delta")) / math.log1p(-share(alpha, "alpha")) - 1e-9)


def cluster_thresholds(
    calibration: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: float,
    delta: float = 0.1,
    clusters: int,
    pool: Sequence[int] = (),
    guarantee: str = CONDITIONAL,
) -> dict[int, Threshold]:
    """One threshold a cluster from its own calibration scores (Mondrian; Vovk et al. 2003).

    calibration (n,), labels (n,) in [0, clusters), the clusters that the model gives these images.
    Promised, for each cluster by itself: with probability 1 - delta over the draw, at most alpha of
    the normal images that the model puts there alarm; for all K at once, take delta / K. A cluster
    with too few images never alarms. Clusters in `pool` share one threshold, promised for their
    union; choose them without the calibration set, as `small_clusters` does.
    """
    scores, places = finite(calibration, "calibration scores"), np.asarray(labels)
    if scores.shape != places.shape or not np.isin([*places, *pool], range(clusters)).all():
        raise ValueError(
            f"got {len(scores)} calibration scores, {places.size} labels {np.unique(places)}, pool "
            f"{pool}: expected a label in [0, {clusters}) for each score"
        )
    alone = [[name] for name in range(clusters) if name not in pool]
    groups, found = alone + [list(pool)] * bool(pool), {}
    for group in groups:
        chosen = _threshold(scores[np.isin(places, group)], alpha, delta, guarantee)
        place = f" in cluster{'s' * (len(group) > 1)} {', '.join(map(str, group))}"
        found.update(dict.fromkeys(group, chosen._replace(place=place)))
    return dict(sorted(found.items()))


def small_clusters(
    train_labels: ArrayLike,
    *,
    n: int,
    alpha: float,
    delta: float = 0.1,
    clusters: int,
) -> tuple[int, ...]:
    """Clusters worth pooling: n calibration images will probably bring too few of them for alpha.

    By their share of the TRAINING images, fewer than `images_needed(alpha, delta)` would fall there
    with a probability above RISK. The choice leaves the promises of `cluster_thresholds` intact.
    """
    shares = np.bincount(np.asarray(train_labels), minlength=clusters) / np.size(train_labels)
    lacking = binom.cdf(images_needed(alpha, delta) - 1, n, shares)
    return tuple(np.flatnonzero(lacking > RISK).tolist())


def one_per_track(scores: ArrayLike, tracks: ArrayLike, *, seed: int) -> np.ndarray:
    """One score of each track at random, (T,): promises are then about one image of each track."""
    values, groups = finite(scores, "calibration scores"), np.asarray(tracks)
    if groups.shape != values.shape:
        raise ValueError(
            f"scores are {values.shape}, tracks are {groups.shape}: expected one track a score"
        )
    order = np.random.default_rng(seed).permutation(len(values))
    return values[order[np.unique(groups[order], return_index=True)[1]]]


def simulated_rates(
    pool: ArrayLike, *, n: int, alpha: float, delta: float = 0.1, draws: int = 200, seed: int
) -> np.ndarray:
    """False-alarm rates (draws,) of thresholds from n scores drawn from `pool`, with replacement.

    The pool (N,) of normal scores is the population: at most delta of the rates may exceed alpha.
    """
    population, generator = np.sort(finite(pool, "scores")), np.random.default_rng(seed)
    samples = (generator.choice(population, n) for _ in range(draws))
    lines = [threshold_for(sample, alpha=alpha, delta=delta).value for sample in samples]
    return (len(population) - np.searchsorted(population, lines, "right")) / len(population)


@cache
def _rank(n: int, alpha: float, delta: float, guarantee: str) -> int:
    """The largest k that keeps the promise, or 0."""
    if guarantee == MARGINAL:
        near = round(alpha * (n + 1))
        return max(k for k in (0, near - 1, near) if k / (n + 1) <= alpha)  # as p <= alpha does
    tails = binom.cdf(np.arange(n), n, alpha)  # (n,) P(Beta(k, n - k + 1) > alpha), k from 1
    return int(np.searchsorted(tails, delta * (1 + 1e-9), side="right"))  # smallest_alpha(n) does


def _threshold(scores: np.ndarray, alpha: float, delta: float, guarantee: str) -> Threshold:
    if guarantee not in (CONDITIONAL, MARGINAL):
        raise ValueError(f"guarantee is {guarantee!r}: expected {CONDITIONAL!r} or {MARGINAL!r}")
    n = len(scores)
    rank = _rank(n, share(alpha, "alpha"), share(delta, "delta"), guarantee)
    if not rank:
        note = _too_few(n, alpha, delta, guarantee)
        return Threshold(math.inf, alpha, delta, n, NONE, 0.0, 0.0, 0, note)
    value, note = float(np.partition(scores, n - rank)[n - rank]), ""
    expected, bound = 1000 * rank / (n + 1), 1000 * float(beta.isf(delta, rank, n - rank + 1))
    if (tied := int((scores == value).sum())) > 1:
        note = f"{tied} of {n} calibration scores equal the threshold and do not alarm"
    return Threshold(value, alpha, delta, n, guarantee, expected, bound, rank, note)


def _too_few(n: int, alpha: float, delta: float, guarantee: str) -> str:
    needed, least = math.ceil(1 / alpha - 1e-9) - 1, 1 / (n + 1)
    if guarantee == CONDITIONAL:
        needed, least = images_needed(alpha, delta), smallest_alpha(n, delta) if n else 1.0
    can = f"can promise alpha = {_rounded_up(least):g} at best" if n else "promise nothing"
    lost = "nothing alarms, and every anomaly would be missed"
    return f"{n} calibration images {can}: {alpha:g} needs {needed}. With fewer {lost}"


def _rounded_up(value: float) -> float:
    """A positive number rounded up to three significant digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / unit - 1e-9) * unit
