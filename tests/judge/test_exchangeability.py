"""The check of exchangeability: its level, its power, its words, and writers it has not seen."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from clad_lib.judge.guarantees import exchangeability


def fires(draw, trials, seed=0):
    """Share of draws (calibration, new) in which the check is below its 5 % level."""
    generator = np.random.default_rng(seed)
    return sum(exchangeability(*draw(generator)).p_value <= 0.05 for _ in range(trials)) / trials


@pytest.mark.parametrize(("n", "m"), [(3, 3), (5, 40), (40, 130), (300, 60)])
@pytest.mark.parametrize("digits", [None, 1, 0])
def test_it_seldom_fires_without_a_shift(n, m, digits):
    def draw(generator):
        scores = generator.normal(size=n + m)
        scores = scores if digits is None else np.round(scores, digits)  # ties
        return scores[:n], scores[n:]

    assert fires(draw, 300) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (10, 10), (5, 50), (40, 150), (150, 40)])
@pytest.mark.parametrize("shift", [0.6, 0.7])
def test_its_power_is_what_it_says(n, m, shift):
    told = exchangeability(np.arange(float(n)), np.arange(float(m))).power[shift]
    generator, scale = np.random.default_rng(0), shift / (1 - shift)
    normal = generator.normal(size=(4000, n)), generator.normal(size=(4000, m))
    exponential = generator.exponential(size=(4000, n)), generator.exponential(size=(4000, m))
    for calibration, new in (  # two laws that give this AUROC
        (normal[0], normal[1] + math.sqrt(2) * stats.norm.ppf(shift)),
        (exponential[0], exponential[1] * scale),
    ):
        found = stats.mannwhitneyu(new, calibration, alternative="greater", axis=1).pvalue
        assert told == pytest.approx((found <= 0.05).mean(), abs=0.04 + 0.01)


def test_it_is_the_one_sided_mann_whitney_test():
    generator = np.random.default_rng(0)
    for digits in (0, 1, 8):
        calibration = np.round(generator.normal(size=30), digits)
        new = np.round(generator.normal(0.4, size=50), digits)
        expected = stats.mannwhitneyu(new, calibration, alternative="greater")
        assert exchangeability(calibration, new).p_value == pytest.approx(expected.pvalue)
    # all 3 new scores above all 4: one of C(7, 3) = 35 orders
    assert exchangeability([1, 2, 3, 4], [5, 6, 7]).p_value == pytest.approx(1 / 35)
    assert exchangeability([5, 6, 7], [1, 2, 3, 4]).p_value == pytest.approx(1)
    assert exchangeability(np.ones(9), np.ones(5)).p_value == 1


def test_too_few_images_to_reject_have_no_power():
    found = exchangeability([1.0, 2.0], [3.0, 4.0])  # the best p-value is 1 / C(4, 2)
    assert found.p_value == pytest.approx(1 / 6)
    assert found.power == {0.6: 0.0, 0.7: 0.0}


def test_its_words_follow_from_its_numbers():
    generator = np.random.default_rng(1)
    calibration = generator.normal(size=40)
    alike = exchangeability(calibration, generator.normal(size=130))
    assert alike.text.startswith("No sign was found that the 130 new normal scores are larger")
    assert f"p = {alike.p_value:.2g}, level 0.05" in alike.text
    told = " and ".join(f"{shift} in {100 * each:.0f} %" for shift, each in alike.power.items())
    assert f"a shift to AUROC {told} of draws" in alike.text
    new = generator.normal(1.5, size=130)
    shifted = exchangeability(calibration, new)
    assert shifted.text.startswith("Do not rely on a promise: there are signs that the 130")
    assert f"AUROC {(new[:, None] > calibration).mean():.2f}," in shifted.text
    strict = exchangeability(calibration, new, level=shifted.p_value / 2)
    assert strict.text.startswith("No sign")
    assert strict.power[0.6] < shifted.power[0.6]


def test_its_input_is_checked():
    with pytest.raises(ValueError, match="calibration scores"):
        exchangeability([], [1.0])
    with pytest.raises(ValueError, match="new scores"):
        exchangeability([1.0], [math.nan])
    with pytest.raises(ValueError, match="level is 5"):
        exchangeability([1.0], [1.0], level=5)


NORMAL = {"CUR": (0, 3, 8), "STR": (1, 4, 7), "MIX": (2, 5, 6, 9)}
POWER = {"CUR": 0.76, "STR": 0.57, "MIX": 0.96}  # of the one-sided Mann-Whitney test


@pytest.mark.parametrize("scenario", NORMAL)
def test_it_notices_digits_of_other_writers(scenario):
    """About 40 calibration images against digits that were written by other people."""
    data = load_digits()
    normal = np.flatnonzero(np.isin(data.target, NORMAL[scenario]))
    same, other = normal[normal < 1347], normal[normal >= 1347]
    count, generator, noticed, false = len(same) // 10, np.random.default_rng(0), 0, 0
    for _ in range(100):
        order = generator.permutation(same)
        held, fresh, fitted = np.split(order, [count, 2 * count])
        finder = NearestNeighbors(n_neighbors=1).fit(data.data[fitted])
        scores = [finder.kneighbors(data.data[r])[0][:, 0] for r in (held, fresh, other)]
        false += exchangeability(scores[0], scores[1]).p_value <= 0.05
        noticed += exchangeability(scores[0], scores[2]).p_value <= 0.05
    assert noticed / 100 >= POWER[scenario] - 3 * math.sqrt(0.25 / 100)
    assert false / 100 <= 0.07 + 3 * math.sqrt(0.07 / 100)
