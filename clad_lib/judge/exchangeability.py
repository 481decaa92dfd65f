"""Signs that new images do not come from the population that a threshold was calibrated on."""

from __future__ import annotations

import math
from typing import NamedTuple

from numpy.typing import ArrayLike
from scipy.stats import mannwhitneyu, norm

from clad_lib.judge.counting import finite, share

SHIFTS = (0.6, 0.7)  # AUROC of new against calibration scores for which the power is told


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
