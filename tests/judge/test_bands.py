"""The band against Daniels' theorem, another recursion, Monte Carlo, and its own promise."""

import functools
import math

import numpy as np
import pytest
from scipy import stats

from clad_lib.judge.bands import (
    band_at,
    crossing_probability,
    false_alarm_band,
    upper_boundary,
)
from clad_lib.judge.guarantees import threshold_for


def at_most(count, trials, chance):
    """Whether a count is not above what binomial chance allows (one time in a thousand)."""
    return count <= stats.binom.ppf(0.999, trials, chance)


@functools.cache
def first_crossings(n, bounds):
    """P(some V_(k) > b_k) by first crossings: another recursion, over binomial laws, O(n^2)."""
    first = []
    for k, bound in enumerate(bounds, 1):
        arrive = stats.binom.pmf(k - 1, n, bound)
        for j, crossed in enumerate(first, 1):
            chance = (bound - bounds[j - 1]) / (1 - bounds[j - 1])
            arrive -= crossed * stats.binom.pmf(k - j, n - j + 1, chance)
        first.append(arrive)
    return sum(first)


@pytest.mark.parametrize("n", [1, 3, 50, 2000])
def test_crossing_probability_of_daniels(n):
    ranks = np.arange(1, n + 1)
    for crossing in (0.1, 0.5, 0.9):  # Daniels (1945): the line is crossed with this probability
        bounds = 1 - crossing * (n - ranks + 1) / n
        assert crossing_probability(bounds, ranks, n) == pytest.approx(crossing, abs=1e-9)


def test_crossing_probability_by_another_recursion():
    n = 40
    ranks = np.arange(1, n + 1)
    bounds = stats.beta.isf(0.02, ranks, n - ranks + 1)
    expected = first_crossings(n, tuple(bounds))
    assert crossing_probability(bounds, ranks, n) == pytest.approx(expected, abs=1e-10)
    assert crossing_probability(bounds[[4]], ranks[[4]], n) == pytest.approx(0.02)  # its own level
    two = 1 - (2 * 0.5 * 0.8 - 0.5**2)  # P(V_(1) <= .5, V_(2) <= .8) = 2 (.5)(.8) - .5^2
    found = crossing_probability(np.array([0.5, 0.8]), np.array([1, 2]), 2)
    assert found == pytest.approx(two)


@pytest.mark.parametrize("n", [1, 2, 60, 3000])
def test_boundary_has_the_level_asked_for(n):
    boundary = upper_boundary(n, 0.1)
    assert boundary.shape == (n + 1,)
    assert (np.diff(boundary) >= 0).all()
    assert boundary[-1] == 1
    kept = np.flatnonzero(np.diff(boundary, append=2.0))[:-1]  # the last rank of each step
    kept = kept[kept < n]
    crossing = crossing_probability(boundary[kept], kept + 1, n)
    assert 0.1 - 1e-6 < crossing <= 0.1


@pytest.mark.parametrize("continuous", [True, False])
def test_band_holds_at_all_thresholds_at_once(continuous):
    generator, broken, n = np.random.default_rng(7), 0, 200
    grid = np.linspace(-0.01, 1.01, 2041)

    def draw(size):
        values = generator.random(size)
        return values if continuous else np.round(values, 2)

    truth = np.clip(1 - grid, 0, 1)
    if not continuous:  # rounded to k / 100: the steps of 1 - floor(100 (t + .005)) / 100
        truth = 1 - np.clip(np.floor(100 * grid + 1e-9) / 100 + 0.005, 0, 1)
        truth[grid < 0], truth[grid >= 1 - 1e-9] = 1, 0
    for _ in range(300):
        broken += bool((truth > band_at(false_alarm_band(draw(n), delta=0.1), grid) + 1e-3).any())
    assert at_most(broken, 300, 0.1)
    if continuous:
        assert broken > 10  # near its level: a band that cannot fail would be useless


def test_band_beats_dkw_where_it_matters_and_never_a_single_threshold():
    scores, n = np.arange(2000.0), 2000
    band = false_alarm_band(scores, delta=0.1)
    dkw = (n - 1 - scores) / n + np.sqrt(np.log(1 / 0.1) / 2 / n)
    assert band.upper[-1] == pytest.approx(0.0028, abs=5e-5)
    assert dkw[-1] == pytest.approx(0.024, abs=5e-4)
    assert (band.upper < dkw)[scores >= 0.85 * n].all()
    for alpha in (0.01, 0.05, 0.1):
        single = threshold_for(scores, alpha=alpha).value  # promised alone, so it may be lower
        assert band_at(band, single) > alpha
        assert (band.upper <= alpha).any()


def test_band_between_and_beyond_its_points():
    band = false_alarm_band([1.0, 2.0, 2.0, 3.0], delta=0.2)
    b = upper_boundary(4, 0.2)
    assert band.thresholds.tolist() == [1, 2, 3]
    lines = [0.9, 1, 1.9, 2, 3, 4, -np.inf, np.inf]
    assert band_at(band, lines).tolist() == [1, b[3], b[3], b[1], b[0], b[0], 1, b[0]]
    assert float(band_at(band, 2.5)) == b[1]
    with pytest.raises(ValueError, match="NaN"):
        band_at(band, math.nan)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 5, math.nan])
def test_delta_is_checked(delta):
    with pytest.raises(ValueError, match="delta is"):
        false_alarm_band(np.arange(100.0), delta=delta)
