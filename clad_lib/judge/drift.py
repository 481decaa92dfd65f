"""Signs that new scores do not come from the population that a threshold was calibrated on.

`exchangeability` compares a batch of scores with the calibration scores. `drift` watches a stream,
by a conformal test martingale: capital that bets against "all scores so far are exchangeable".
Nobody can expect to win against what is true, so that a large capital is evidence of a change.
"""

import math
from bisect import bisect_left, bisect_right
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from scipy.stats import mannwhitneyu, norm

from clad_lib.judge.counting import finite, share

SHIFTS = (0.6, 0.7)  # AUROC of new against calibration scores for which the power is told
JUMPS = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])[:, None]  # rates at which a bettor changes its bet
BETS = np.array([-1.0, 0.0, 1.0])  # on small p-values, on nothing, on large ones


class Exchangeability(NamedTuple):
    """Whether new normal scores are larger than calibration scores, and what could be noticed.

    p_value is small if they are; power maps the AUROC of new against calibration scores that a
    shift would give to the chance that it is noticed; text says both in words.
    """

    p_value: float
    power: dict[float, float]
    text: str


def exchangeability(
    calibration: ArrayLike, new: ArrayLike, *, level: float = 0.05
) -> Exchangeability:
    """Signs that new normal images are not exchangeable with the calibration images.

    One-sided Mann-Whitney test that new scores (m,) are larger than calibration scores (n,), the
    direction that breaks promises: exact up to 8 images without ties, else the normal approximation
    with corrections for ties and continuity. Both want independent scores: one image a track. The
    power against a shift with AUROC a, the chance that a new score exceeds a calibration score, is
    Phi((a - 1/2) (12 n m / (n + m + 1))^(1/2) - z_(1 - level)) (Noether 1987), within 0.04 of
    simulations from 3 images each; 0 where so few images cannot reject.
    """
    normal, fresh = finite(calibration, "calibration scores"), finite(new, "new scores")
    n, m = len(normal), len(fresh)
    limit = norm.isf(share(level, "level"))
    if math.comb(n + m, n) < 1 / level:
        limit = math.inf
    noise = math.sqrt((n + m + 1) / (12 * n * m))
    power = {shift: float(norm.cdf((shift - 0.5) / noise - limit)) for shift in SHIFTS}
    statistic, p_value = mannwhitneyu(fresh, normal, alternative="greater")
    sign = "No sign was found" if p_value > level else "Do not rely on a promise: there are signs"
    noticed = " and ".join(f"{shift} in {100 * each:.0f} %" for shift, each in power.items())
    text = (
        f"{sign} that the {m:,} new normal scores are larger than the {n:,} calibration scores "
        f"(AUROC {statistic / (n * m):.2f}, one-sided Mann-Whitney test, p = {p_value:.2g}, level "
        f"{level:g}). With so many images a shift to AUROC {noticed} of draws would be noticed."
    )
    return Exchangeability(float(p_value), power, text)


class Drift(NamedTuple):
    """The capital after each score of a stream, and the first at which it says: not the same.

    capital (m,) in powers of ten, from 0; alarm the place of that score in the stream, from 0, or
    None; no stream without a change raises an alarm with a probability above `level`.
    """

    capital: np.ndarray
    alarm: int | None
    level: float
    text: str


def online_p_values(calibration: ArrayLike, stream: ArrayLike, *, seed: int) -> np.ndarray:
    """Smoothed conformal p-values (m,) of each score of a stream among all that came before it.

    p_t = (#{s_i > s_t} + u_t #{s_i = s_t}) / (n + t) over the n calibration scores and the first t
    of the stream, u_t uniform: independent and uniform on [0, 1] if all are exchangeable (Vovk,
    Gammerman & Shafer 2005). Raises ValueError for no scores, NaN or infinite ones.
    """
    known = sorted(finite(calibration, "calibration scores").tolist())
    generator, found = np.random.default_rng(seed), list[float]()
    for score in finite(stream, "scores of the stream").tolist():
        left, right = bisect_left(known, score), bisect_right(known, score)
        # Those above it, and a random share of those equal to it, which it is itself.
        found.append(
            (len(known) - right + generator.random() * (right - left + 1)) / (len(known) + 1)
        )
        known.insert(right, score)
    return np.array(found)


def drift(
    calibration: ArrayLike, stream: ArrayLike, *, level: float = 0.01, seed: int = 0
) -> Drift:
    """Bet against a stream (m,) being exchangeable with the calibration scores (n,), in its order.

    The composite jumper martingale (Vovk, Petej, Nouretdinov, Ahlberg, Carlsson & Gammerman 2021,
    "Retrain or not retrain"): the mean over JUMPS of a capital that is multiplied by 1 + b (p -
    1/2) at each of the `online_p_values`, its parts moving between BETS. By Ville's inequality it
    reaches 1 / level with a probability of at most `level` unless something changed. Scores of one
    object are no independent evidence: give one a track.
    """
    parts, gains = np.full((len(JUMPS), len(BETS)), 1 / len(BETS)), []
    for p in online_p_values(calibration, stream, seed=seed):
        parts = ((1 - JUMPS) * parts + JUMPS / len(BETS)) * (1 + BETS * (p - 0.5))
        gains.append(parts.sum(1))
        parts /= gains[-1][:, None]
    total = logsumexp(np.cumsum(np.log(gains), axis=0), axis=1)  # (m,) over the jumps
    capital = (total - math.log(len(JUMPS))) / math.log(10)
    passed = np.flatnonzero(capital >= -math.log10(share(level, "level")))
    alarm = next(iter(passed.tolist()), None)
    what = (
        f"No drift was noticed in {len(capital):,} images in the order in which they came"
        if alarm is None
        else f"Drift: at image {alarm + 1:,} of {len(capital):,} it was clear that the images had "
        "changed since calibration, or that their order is not that of chance"
    )
    text = (
        f"{what} (conformal test martingale, largest capital {10 ** min(capital.max(), 300):.3g}, "
        f"alarm at {1 / level:g}, false in at most {level:g} of streams)."
    )
    return Drift(capital, alarm, level, text)
