"""Thresholds, p-values and the band against brute force, hand values, another recursion, and their own promise."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from clad_lib.bands import crossing_probability, upper_boundary
from clad_lib.calibration import (
    band_at,
    band_threshold,
    cluster_thresholds,
    conformal_p_values,
    false_alarm_band,
    false_alarm_count,
    images_needed,
    in_words,
    one_per_track,
    simulated_rates,
    small_clusters,
    smallest_alpha,
    threshold_for,
    threshold_of,
)

ALPHAS = [0.01, 0.05, 0.1]


def at_most(count: int, trials: int, chance: float) -> bool:
    """Whether a count is not above what binomial chance allows (one time in a thousand)."""
    return count <= stats.binom.ppf(0.999, trials, chance)


@functools.cache
def digit_scores() -> np.ndarray:
    """Real scores (1408,): distance of digit images to the nearest of 449 others; 60 are doubled, to have ties."""
    images = load_digits().data
    nearest = NearestNeighbors(n_neighbors=1).fit(images[:449]).kneighbors(images[449:])[0][:, 0]
    return np.concatenate([nearest, nearest[:60]])


@functools.cache
def skewed_scores() -> np.ndarray:
    """A finite pool (5000,) as classifier scores are: most near 0, a long tail, rounded so that many are equal."""
    return np.round(np.random.default_rng(0).lognormal(-3, 1.5, 5000), 3)


# conformal p-values


def test_p_values_by_brute_force():
    generator = np.random.default_rng(0)
    calibration, scores = generator.integers(0, 9, 30) / 2, generator.integers(-2, 12, 50) / 2  # ties everywhere
    expected = [(1 + sum(c >= s for c in calibration)) / 31 for s in scores]
    assert conformal_p_values(calibration, scores) == pytest.approx(expected, abs=0)


def test_p_values_are_valid_on_average():
    generator = np.random.default_rng(1)
    values = np.concatenate([conformal_p_values(generator.random(19), generator.random(20)) for _ in range(400)])
    for alpha in (0.05, 0.2, 0.5):  # multiples of 1 / 20: the marginal rate is exactly alpha
        assert (values <= alpha).mean() == pytest.approx(alpha, abs=0.02)


def test_conditional_p_values_hold_at_all_levels_at_once():
    generator, broken, n = np.random.default_rng(2), 0, 80
    for _ in range(300):
        calibration = np.sort(generator.random(n))
        points = np.append(calibration, 1.0)  # p falls just above each calibration score: the worst case is there
        p = conformal_p_values(calibration, np.nextafter(points, 2), delta=0.1)
        broken += bool((1 - points > p + 1e-12).any())  # P(p(S) <= p(s)) = P(S >= s) = 1 - s for uniform scores
    assert at_most(broken, 300, 0.1)
    assert broken >= stats.binom.ppf(0.001, 300, 0.1)  # exact, so not needlessly wide either


# one threshold


def test_threshold_of_ten_images_by_hand():
    ten = np.arange(1.0, 11.0)
    # P(Beta(1, 10) > alpha) = (1 - alpha)^10: 0.0282 at 0.3, 0.107 at 0.2; P(Beta(2, 9) > 0.3) = 0.0282 + 0.1211
    found = threshold_for(ten, alpha=0.3, delta=0.1)
    assert (found.value, found.rank, found.n, found.guarantee) == (10.0, 1, 10, "calibration-conditional")
    assert found.expected_per_1000 == pytest.approx(1000 / 11)
    assert found.bound_per_1000 == pytest.approx(1000 * (1 - 0.1 ** (1 / 10)))
    assert found.bound_per_1000 <= 300
    assert threshold_for(ten, alpha=0.3, delta=0.15)[0] == 9.0
    nothing = threshold_for(ten, alpha=0.2, delta=0.1)
    assert (nothing.value, nothing.guarantee, nothing.expected_per_1000) == (math.inf, "none", 0.0)
    assert "10 calibration images can promise alpha = 0.206 at best: 0.2 needs 11" in nothing.note


def test_marginal_threshold_is_the_p_value_rule():
    generator = np.random.default_rng(3)
    calibration, scores = generator.integers(0, 40, 60) / 4, generator.integers(0, 44, 200) / 4
    for alpha in np.append(np.arange(1, 60) / 61, [0.01, 0.05, 0.1, 0.29]):
        found = threshold_for(calibration, alpha=alpha, guarantee="marginal")
        assert ((scores > found.value) == (conformal_p_values(calibration, scores) <= alpha)).all()
    with pytest.raises(ValueError, match="sometimes"):
        threshold_for(calibration, alpha=0.1, guarantee="sometimes")
    assert "0.01 needs 99" in threshold_for(calibration, alpha=0.01, guarantee="marginal").note


@pytest.mark.parametrize("n", [1, 10, 44, 45, 500])
@pytest.mark.parametrize("delta", [0.01, 0.1])
def test_smallest_alpha_is_where_a_threshold_begins(n, delta):
    scores, least = np.arange(n, dtype=float), smallest_alpha(n, delta)
    assert (1 - least) ** n == pytest.approx(delta)
    assert threshold_for(scores, alpha=least, delta=delta).value == n - 1
    assert threshold_for(scores, alpha=0.999 * least, delta=delta).guarantee == "none"
    assert images_needed(least, delta) == n


def test_images_needed_by_hand():
    assert [images_needed(alpha) for alpha in (0.05, 0.01)] == [45, 230]  # 0.95^45 = 0.0994, 0.99^230 = 0.0991


def test_duplicates_are_safe_and_noted():
    calibration = np.repeat([1.0, 2.0, 3.0], 100)
    found = threshold_for(calibration, alpha=0.2)
    assert found.value == 3.0
    assert found.note.startswith("100 of 300 calibration scores equal the threshold")
    assert threshold_for(np.full(50, 7.0), alpha=0.1).value == 7.0  # constant: equal scores never alarm


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 5, math.nan])
def test_alpha_and_delta_are_checked(alpha):
    for settings in ({"alpha": alpha}, {"alpha": 0.1, "delta": alpha}):
        with pytest.raises(ValueError, match="expected a number strictly between 0 and 1"):
            threshold_for(np.arange(100.0), **settings)
    with pytest.raises(ValueError, match="delta is"):
        false_alarm_band(np.arange(100.0), delta=alpha)


@pytest.mark.parametrize(("bad", "message"), [([], r"shape \(0,\)"), ([1, np.nan], "1 NaN"), ([[1.0]], r"\(1, 1\)")])
def test_bad_calibration_scores_are_named(bad, message):
    functions: list[Callable[..., Any]] = [
        false_alarm_band,
        lambda scores: threshold_for(scores, alpha=0.1),
        lambda scores: conformal_p_values(scores, [1]),
        lambda scores: cluster_thresholds(scores, np.zeros(len(scores), int), alpha=0.1, clusters=2),
    ]
    for function in functions:
        with pytest.raises(ValueError, match=f"calibration scores .*{message}"):
            function(bad)
    with pytest.raises(ValueError, match="0 calibration images"):
        smallest_alpha(0)


# the guarantee, simulated


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_guarantee_is_kept_and_exact_on_continuous_scores(alpha, delta):
    generator, n, draws = np.random.default_rng(4), 600, 400
    rank = threshold_for(np.arange(600.0), alpha=alpha, delta=delta).rank
    found = [threshold_for(generator.random(n), alpha=alpha, delta=delta) for _ in range(draws)]
    rates = np.array([1 - threshold.value for threshold in found])
    broken, exact = int((rates > alpha).sum()), stats.beta.sf(alpha, rank, n - rank + 1)
    assert exact <= delta < stats.beta.sf(alpha, rank + 1, n - rank)  # one rank lower would break the promise
    assert stats.binom.ppf(1e-3, draws, exact) <= broken <= stats.binom.ppf(0.999, draws, exact)
    error = 4 * np.sqrt(alpha / n / draws)
    assert rates.mean() == pytest.approx(found[0].expected_per_1000 / 1000, abs=error)
    assert at_most(int((rates > found[0].bound_per_1000 / 1000).sum()), draws, delta)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("pool", [skewed_scores, digit_scores])
def test_guarantee_is_kept_on_finite_pools_with_ties(alpha, pool):
    rates = simulated_rates(pool(), n=500, alpha=alpha, delta=0.1, draws=400, seed=5)
    assert at_most(int((rates > alpha).sum()), 400, 0.1)
    assert rates.mean() > alpha / 3  # no empty promise: it does alarm


def test_simulated_rates_see_a_threshold_that_is_too_low():
    pool = np.arange(1000.0)
    assert simulated_rates(pool, n=1000, alpha=0.999, draws=1, seed=0)[0] > 0.9
    naive = [np.quantile(np.random.default_rng(seed).choice(pool, 500), 0.95) for seed in range(400)]
    rates = np.array([(pool > line).mean() for line in naive])
    assert not at_most(int((rates > 0.05).sum()), 400, 0.1)  # the plain quantile breaks the promise half the time


def test_false_alarm_count_is_the_count_of_the_next_images():
    threshold, generator = threshold_for(np.arange(300.0), alpha=0.05), np.random.default_rng(6)
    expected, high = false_alarm_count(threshold, 200, level=0.9)
    calibration = np.sort(generator.random((4000, 300)), 1)[:, 300 - threshold.rank]
    alarms = (generator.random((4000, 200)) > calibration[:, None]).sum(1)
    assert expected == pytest.approx(alarms.mean(), rel=0.05)
    assert (alarms <= high).mean() >= 0.89 > (alarms <= high - 1).mean() - 0.02
    assert false_alarm_count(threshold_for([1.0], alpha=0.05)) == (0.0, 0)


# the band


@functools.cache
def first_crossings(n: int, bounds: tuple[float, ...]) -> float:
    """P(some V_(k) > b_k) by first crossings: another recursion, over binomial laws, O(n^2), for all ranks."""
    first: list[float] = []
    for k, bound in enumerate(bounds, 1):
        arrive = stats.binom.pmf(k - 1, n, bound)
        for j, crossed in enumerate(first, 1):
            chance = (bound - bounds[j - 1]) / (1 - bounds[j - 1])
            arrive -= crossed * stats.binom.pmf(k - j, n - j + 1, chance)
        first.append(arrive)
    return sum(first)


def test_crossing_probability_of_daniels():
    for n in (
        1,
        3,
        50,
        2000,
    ):  # Daniels (1945): sorted uniforms cross the line 1 - c (n - k + 1) / n with probability c
        for crossing in (0.1, 0.5, 0.9):
            ranks = np.arange(1, n + 1)
            bounds = 1 - crossing * (n - ranks + 1) / n
            assert crossing_probability(bounds, ranks, n) == pytest.approx(crossing, abs=1e-9)


def test_crossing_probability_by_another_recursion():
    n = 40
    ranks = np.arange(1, n + 1)
    bounds = stats.beta.isf(0.02, ranks, n - ranks + 1)
    assert crossing_probability(bounds, ranks, n) == pytest.approx(first_crossings(n, tuple(bounds)), abs=1e-10)
    assert crossing_probability(bounds[[4]], ranks[[4]], n) == pytest.approx(0.02)  # one rank: its own level
    two = 1 - (2 * 0.5 * 0.8 - 0.5**2)  # P(V_(1) <= .5, V_(2) <= .8) = 2 (.5)(.8) - .5^2
    assert crossing_probability(np.array([0.5, 0.8]), np.array([1, 2]), 2) == pytest.approx(two)


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


@pytest.mark.parametrize("draw", [np.random.Generator.random, lambda g, n: np.round(g.random(n), 2)])
def test_band_holds_at_all_thresholds_at_once(draw):
    generator, broken, n = np.random.default_rng(7), 0, 200
    grid = np.linspace(-0.01, 1.01, 2041)
    rates = draw(generator, 200_000)
    rates = 1 - np.searchsorted(np.sort(rates), grid, side="right") / len(rates)
    truth = np.clip(1 - grid, 0, 1) if draw is np.random.Generator.random else rates
    for _ in range(300):
        broken += bool((truth > band_at(false_alarm_band(draw(generator, n), delta=0.1), grid) + 1e-3).any())
    assert at_most(broken, 300, 0.1)
    if draw is np.random.Generator.random:
        assert broken > 10  # near its level: a band that cannot fail would be useless


def test_band_beats_dkw_where_it_matters_and_never_a_single_threshold():
    scores, n = np.arange(2000.0), 2000
    band = false_alarm_band(scores, delta=0.1)
    dkw = (n - 1 - scores) / n + np.sqrt(np.log(1 / 0.1) / 2 / n)
    assert band.upper[-1] == pytest.approx(0.0028, abs=5e-5)
    assert dkw[-1] == pytest.approx(0.024, abs=5e-4)
    assert (band.upper < dkw)[scores >= 0.85 * n].all()
    for alpha in ALPHAS:
        assert band_threshold(band, alpha) > threshold_for(scores, alpha=alpha).value
        assert band_at(band, band_threshold(band, alpha)) <= alpha
        assert band_at(band, band_threshold(band, alpha) - 1) > alpha


def test_band_between_and_beyond_its_points():
    band = false_alarm_band([1.0, 2.0, 2.0, 3.0], delta=0.2)
    boundary = upper_boundary(4, 0.2)
    assert band.thresholds.tolist() == [1, 2, 3]
    expected = [1, boundary[3], boundary[3], boundary[1], boundary[0], boundary[0], 1, boundary[0]]
    assert band_at(band, [0.9, 1, 1.9, 2, 3, 4, -np.inf, np.inf]).tolist() == expected
    assert float(band_at(band, 2.5)) == boundary[1]
    assert band_threshold(band, 1e-6) == math.inf
    with pytest.raises(ValueError, match="NaN"):
        band_at(band, math.nan)


# one threshold a cluster


def test_cluster_thresholds_are_those_of_their_own_scores():
    generator = np.random.default_rng(8)
    scores, labels = generator.random(400), generator.integers(0, 3, 400)
    found = cluster_thresholds(scores, labels, alpha=0.1, clusters=5)
    assert list(found) == [0, 1, 2, 3, 4]
    for name in range(3):
        assert found[name] == threshold_for(scores[labels == name], alpha=0.1)
    for name in (3, 4):  # a cluster without calibration images never alarms, and says so
        assert (found[name].value, found[name].guarantee, found[name].n) == (math.inf, "none", 0)
        assert "0 calibration images promise nothing: 0.1 needs 22" in found[name].note
    lines = threshold_of([2, 0, 3], found)
    assert lines.tolist() == [found[2].value, found[0].value, math.inf]


def test_pooled_clusters_share_one_threshold():
    generator = np.random.default_rng(9)
    scores, labels = generator.random(300), generator.choice(4, 300, p=[0.5, 0.4, 0.05, 0.05])
    found = cluster_thresholds(scores, labels, alpha=0.1, clusters=4, pool=(2, 3))
    union = threshold_for(scores[labels >= 2], alpha=0.1)
    assert found[2] == found[3] == union._replace(note="shared by clusters 2, 3. " + union.note)
    assert found[0] == threshold_for(scores[labels == 0], alpha=0.1)
    strict = cluster_thresholds(scores, labels, alpha=0.1, delta=0.09, clusters=4, pool=(2, 3), simultaneous=True)
    assert strict[0].delta == pytest.approx(0.03)
    assert strict[0].value >= found[0].value


def test_small_clusters_are_those_that_would_get_too_few():
    labels = np.repeat([0, 1, 2], [900, 80, 20])  # of 300 calibration images about 270, 24 and 6; alpha = 0.1 needs 22
    assert small_clusters(labels, n=300, alpha=0.1, clusters=4) == (1, 2, 3)
    assert small_clusters(labels, n=600, alpha=0.1, clusters=4) == (2, 3)
    assert small_clusters(labels, n=100_000, alpha=0.1, clusters=3) == ()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_guarantee_is_kept_in_each_cluster(alpha):
    generator, draws, delta, n = np.random.default_rng(10), 200, 0.1, 1500
    broken, any_broken, silent = np.zeros(3, int), 0, 0
    for _ in range(draws):
        labels = generator.choice(3, n, p=[0.6, 0.35, 0.05])
        scores = generator.exponential(1 + labels)  # P(S > t | cluster c) = exp(-t / (1 + c))
        each = cluster_thresholds(scores, labels, alpha=alpha, delta=delta, clusters=3)
        rates = np.exp(-np.array([each[name].value for name in range(3)]) / (1 + np.arange(3)))
        broken += rates > alpha
        silent += each[2].guarantee == "none"
        sure = cluster_thresholds(scores, labels, alpha=alpha, delta=delta, clusters=3, simultaneous=True)
        any_broken += any(math.exp(-sure[name].value / (1 + name)) > alpha for name in range(3))
    assert all(at_most(int(count), draws, delta) for count in broken)
    assert broken[:2].min() > 0  # it is used up where there are images
    assert at_most(any_broken, draws, delta)
    assert (silent == draws) == (alpha == 0.01)  # about 75 images cannot promise 1 %, and always say so


def test_cluster_input_is_checked():
    scores = np.arange(30.0)
    cases: list[tuple[np.ndarray, Any, str]] = [
        (np.zeros(29, int), 3, "30 calibration scores and 29 labels"),
        (np.full(30, 3), 3, r"labels hold \[3\]"),
        (np.zeros((30, 1), int), 3, "shape"),
        (np.zeros(30, int), (0, 0), "each once"),
        (np.zeros(30, int), 0, "how many"),
    ]
    for labels, clusters, message in cases:
        with pytest.raises(ValueError, match=message):
            cluster_thresholds(scores, labels, alpha=0.1, clusters=clusters)
    with pytest.raises(ValueError, match="9"):
        cluster_thresholds(scores, np.zeros(30, int), alpha=0.1, clusters=3, pool=(9,))
    with pytest.raises(ValueError, match="7"):
        threshold_of([7], cluster_thresholds(scores, np.zeros(30, int), alpha=0.1, clusters=3))


# images that belong together


def test_one_per_track_keeps_the_promise_that_frames_break():
    generator, naive, fair = np.random.default_rng(11), 0, 0
    tracks = np.repeat(np.arange(100), 30)
    for trial in range(200):
        scores = np.repeat(generator.random(100), 30) + 1e-9 * generator.random(3000)  # 30 frames alike
        naive += 1 - threshold_for(scores, alpha=0.1).value > 0.1
        kept = one_per_track(scores, tracks, seed=trial)
        assert len(kept) == 100
        assert (np.sort(np.searchsorted(np.sort(scores), kept) // 30) == np.arange(100)).all()  # one of each track
        fair += 1 - threshold_for(kept, alpha=0.1).value > 0.1
    assert at_most(fair, 200, 0.1)
    assert not at_most(naive, 200, 0.1)
    with pytest.raises(ValueError, match="one track number a score"):
        one_per_track(scores, tracks[:-1], seed=0)


def test_a_threshold_in_words():
    scores = np.arange(200.0)
    found = threshold_for(scores, alpha=0.1, delta=0.1)
    assert in_words(found) == (
        f"With probability 0.9, at most {found.bound_per_1000:.0f} false alarms in 1,000 normal images, in the long run, "
        "from 200 calibration images")  # fmt: skip
    assert "tracks, one image of each" in in_words(found, tracks=True)
    marginal = threshold_for(scores, alpha=0.1, guarantee="marginal")
    assert in_words(marginal).startswith(f"On average over calibration draws, at most {marginal.expected_per_1000:.0f}")
    assert "0.1 needs 22" in in_words(threshold_for(scores[:10], alpha=0.1))
