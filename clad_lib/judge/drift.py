"""Does a stream of scores still come from the population that the calibration scores came from?

A conformal test martingale: capital that bets against "all scores so far are exchangeable". Nobody
can expect to win against what is true, so that a large capital is evidence of a change.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from clad_lib.judge.counting import finite, share

JUMPS = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])[:, None]  # rates at which a bettor changes its bet
BETS = np.array([-1.0, 0.0, 1.0])  # on small p-values, on nothing, on large ones


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
    generator, found = np.random.default_rng(seed), []
    known = sorted(finite(calibration, "calibration scores").tolist())
    for score in finite(stream, "scores of the stream").tolist():
        left, right = bisect_left(known, score), bisect_right(known, score)
        above, equal = len(known) - right, right - left + 1  # it equals itself
        found.append((above + generator.random() * equal) / (len(known) + 1))
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
    logs = np.cumsum(np.log(gains), axis=0)  # (m, jumps)
    capital = (logsumexp(logs, axis=1) - math.log(len(JUMPS))) / math.log(10)
    passed = np.flatnonzero(capital >= -math.log10(share(level, "level"))).tolist()
    alarm = passed[0] if passed else None
    what = (
        f"No drift was noticed in {len(capital):,} images in the order in which they came"
        if alarm is None
        else f"Drift: at image {alarm + 1:,} of {len(capital):,} it was clear that the images had "
        "changed since calibration, or that their order is not that of chance"
    )
    text = (
        f"{what} (conformal test martingale, largest capital {10 ** min(capital.max(), 300):.3g}, "
        f"alarm at {1 / level:g}, false alarms in at most {level:g} of streams)."
    )
    return Drift(capital, alarm, level, text)
