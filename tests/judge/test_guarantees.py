"""Thresholds and p-values against brute force, hand values, exact laws, and their own promise."""

import functools
import math
import re

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from clad_lib.judge.guarantees import (
    CONDITIONAL,
    MARGINAL,
    NONE,
    Threshold,
    cluster_thresholds,
    conformal_p_values,
    images_needed,
    in_words,
    one_per_track,
    simulated_rates,
    small_clusters,
    smallest_alpha,
    threshold_for,
)

ALPHAS = [0.01, 0.05, 0.1]


def at_most(count, trials, chance):
    """Whether a count is not above what binomial chance allows (one time in a thousand)."""
    return count <= stats.binom.ppf(0.999, trials, chance)


@functools.cache
def digit_scores():
    """Real scores (1408,): distance of digits to the nearest of 449 others; 60 doubled, as ties."""
    images = load_digits().data
    finder = NearestNeighbors(n_neighbors=1).fit(images[:449])
    nearest = finder.kneighbors(images[449:])[0][:, 0]
    return np.concatenate([nearest, nearest[:60]])


@functools.cache
def skewed_scores():
    """A pool (5000,) as classifier scores are: near 0, a long tail, rounded so that many tie."""
    return np.round(np.random.default_rng(0).lognormal(-3, 1.5, 5000), 3)


# conformal p-values


def test_p_values_by_brute_force():
    generator = np.random.default_rng(0)
    calibration, scores = generator.integers(0, 9, 30) / 2, generator.integers(-2, 12, 50) / 2
    expected = [(1 + sum(c >= s for c in calibration)) / 31 for s in scores]
    assert conformal_p_values(calibration, scores) == pytest.approx(expected, abs=0)


def test_p_values_are_valid_on_average():
    generator = np.random.default_rng(1)
    values = np.concatenate(
        [conformal_p_values(generator.random(19), generator.random(20)) for _ in range(400)]
    )
    for alpha in (0.05, 0.2, 0.5):  # multiples of 1 / 20: the marginal rate is exactly alpha
        assert (values <= alpha).mean() == pytest.approx(alpha, abs=0.02)


# one threshold


def test_threshold_of_ten_images_by_hand():
    ten = np.arange(1.0, 11.0)
    # P(Beta(1, 10) > a) = (1 - a)^10: .0282 at .3, .107 at .2; P(Beta(2, 9) > .3) = .0282 + .1211
    found = threshold_for(ten, alpha=0.3, delta=0.1)
    assert (found.value, found.rank, found.n, found.guarantee) == (10.0, 1, 10, CONDITIONAL)
    assert found.expected_per_1000 == pytest.approx(1000 / 11)
    assert found.bound_per_1000 == pytest.approx(1000 * (1 - 0.1 ** (1 / 10)))
    assert found.bound_per_1000 <= 300
    assert threshold_for(ten, alpha=0.3, delta=0.15)[0] == 9.0
    nothing = threshold_for(ten, alpha=0.2, delta=0.1)
    assert (nothing.value, nothing.guarantee, nothing.expected_per_1000) == (math.inf, NONE, 0.0)
    assert "10 calibration images can promise alpha = 0.206 at best: 0.2 needs 11" in nothing.note


def test_marginal_threshold_is_the_p_value_rule():
    generator = np.random.default_rng(3)
    calibration, scores = generator.integers(0, 40, 60) / 4, generator.integers(0, 44, 200) / 4
    for alpha in np.append(np.arange(1, 60) / 61, [0.01, 0.05, 0.1, 0.29]):
        found = threshold_for(calibration, alpha=alpha, guarantee=MARGINAL)
        p_values = conformal_p_values(calibration, scores)
        assert ((scores > found.value) == (p_values <= alpha)).all()
    with pytest.raises(ValueError, match="sometimes"):
        threshold_for(calibration, alpha=0.1, guarantee="sometimes")
    assert "0.01 needs 99" in threshold_for(calibration, alpha=0.01, guarantee=MARGINAL).note


@pytest.mark.parametrize("n", [1, 10, 44, 45, 500])
@pytest.mark.parametrize("delta", [0.01, 0.1])
def test_smallest_alpha_is_where_a_threshold_begins(n, delta):
    scores, least = np.arange(n, dtype=float), smallest_alpha(n, delta)
    assert (1 - least) ** n == pytest.approx(delta)
    assert threshold_for(scores, alpha=least, delta=delta).value == n - 1
    assert threshold_for(scores, alpha=0.999 * least, delta=delta).guarantee == NONE
    assert images_needed(least, delta) == n


def test_images_needed_by_hand():
    assert [images_needed(alpha) for alpha in (0.05, 0.01)] == [45, 230]  # .95^45 = .0994


def test_duplicates_are_safe_and_noted():
    calibration = np.repeat([1.0, 2.0, 3.0], 100)
    found = threshold_for(calibration, alpha=0.2)
    assert found.value == 3.0
    assert found.note.startswith("100 of 300 calibration scores equal the threshold")
    assert threshold_for(np.full(50, 7.0), alpha=0.1).value == 7.0  # equal scores never alarm


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 5, math.nan])
def test_alpha_and_delta_are_checked(alpha):
    for settings in ({"alpha": alpha}, {"alpha": 0.1, "delta": alpha}):
        with pytest.raises(ValueError, match="expected a number strictly between 0 and 1"):
            threshold_for(np.arange(100.0), **settings)


@pytest.mark.parametrize(
    ("bad", "message"), [([], r"shape \(0,\)"), ([1, np.nan], "1 NaN"), ([[1.0]], r"\(1, 1\)")]
)
def test_bad_calibration_scores_are_named(bad, message):
    functions = [
        lambda scores: threshold_for(scores, alpha=0.1),
        lambda scores: conformal_p_values(scores, [1]),
        lambda scores: cluster_thresholds(scores, [0] * len(scores), alpha=0.1, clusters=2),
        lambda scores: one_per_track(scores, [0] * len(scores), seed=0),
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
    assert exact <= delta < stats.beta.sf(alpha, rank + 1, n - rank)  # one lower would break it
    low, high = stats.binom.ppf([1e-3, 0.999], draws, exact)
    assert low <= broken <= high
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
    samples = [np.random.default_rng(seed).choice(pool, 500) for seed in range(400)]
    rates = np.array([(pool > np.quantile(sample, 0.95)).mean() for sample in samples])
    assert not at_most(int((rates > 0.05).sum()), 400, 0.1)  # the plain quantile breaks half


NORMAL = {"CUR": (0, 3, 8), "STR": (1, 4, 7), "MIX": (2, 5, 6, 9)}


@pytest.mark.parametrize("scenario", NORMAL)
def test_the_promise_holds_on_independent_digits(scenario):
    """Calibration and test drawn anew from digits that the score has not seen."""
    data, generator = load_digits(), np.random.default_rng(0)
    normal = generator.permutation(np.flatnonzero(np.isin(data.target, NORMAL[scenario])))
    finder = NearestNeighbors(n_neighbors=1).fit(data.data[normal[:150]])
    scores = finder.kneighbors(data.data[normal[150:]])[0][:, 0]
    n, draws, broken = 45, 400, 0
    rank, m = threshold_for(np.arange(45.0), alpha=0.1).rank, len(scores) - n
    for _ in range(draws):
        order = generator.permutation(scores)
        found = threshold_for(order[:n], alpha=0.1)
        assert found.guarantee == CONDITIONAL  # no draw promises nothing
        broken += (order[n:] > found.value).mean() > 0.1
    exact = stats.betabinom.sf(math.floor(0.1 * m), m, rank, n - rank + 1)
    assert broken / draws <= exact + 3 * math.sqrt(exact * (1 - exact) / draws)
    assert broken > 0


def test_the_promise_on_copies_is_broken_and_by_unit_it_is_not():
    generator, fooled, kept, draws = np.random.default_rng(12), 0, 0, 300
    for seed in range(draws):
        forty = generator.random(40)
        ten_times, units = np.repeat(forty, 10), np.repeat(np.arange(40), 10)
        fooled += 1 - threshold_for(ten_times, alpha=0.1).value > 0.1
        once = one_per_track(ten_times, units, seed=seed)
        assert sorted(once) == sorted(forty)
        kept += 1 - threshold_for(once, alpha=0.1).value > 0.1
    assert at_most(kept, draws, 0.1)
    assert not at_most(fooled, draws, 0.2)


# one threshold a cluster


def test_cluster_thresholds_are_those_of_their_own_scores():
    generator = np.random.default_rng(8)
    scores, labels = generator.random(400), generator.integers(0, 3, 400)
    found = cluster_thresholds(scores, labels, alpha=0.1, clusters=5)
    assert list(found) == [0, 1, 2, 3, 4]
    for name in range(3):
        own = threshold_for(scores[labels == name], alpha=0.1)
        assert found[name] == own._replace(place=f" in cluster {name}")
    for name in (3, 4):  # a cluster without calibration images never alarms, and says so
        assert (found[name].value, found[name].guarantee, found[name].n) == (math.inf, NONE, 0)
        assert "0 calibration images promise nothing: 0.1 needs 22" in found[name].note


def test_pooled_clusters_share_one_threshold():
    generator = np.random.default_rng(9)
    scores, labels = generator.random(300), generator.choice(4, 300, p=[0.5, 0.4, 0.05, 0.05])
    found = cluster_thresholds(scores, labels, alpha=0.1, clusters=4, pool=(2, 3))
    union = threshold_for(scores[labels >= 2], alpha=0.1)
    assert found[2] == found[3] == union._replace(place=" in clusters 2, 3")
    own = threshold_for(scores[labels == 0], alpha=0.1)
    assert found[0] == own._replace(place=" in cluster 0")
    strict = cluster_thresholds(
        scores, labels, alpha=0.1, delta=0.09, clusters=4, pool=(2, 3), simultaneous=True
    )
    assert strict[0].delta == pytest.approx(0.03)
    assert strict[0].value >= found[0].value


def test_small_clusters_are_those_that_would_get_too_few():
    labels = np.repeat([0, 1, 2], [900, 80, 20])  # of 300 about 270, 24 and 6; 0.1 needs 22
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
        settings = dict(alpha=alpha, delta=delta, clusters=3)
        each = cluster_thresholds(scores, labels, **settings)
        rates = np.exp(-np.array([each[name].value for name in range(3)]) / (1 + np.arange(3)))
        broken += rates > alpha
        silent += each[2].guarantee == NONE
        sure = cluster_thresholds(scores, labels, simultaneous=True, **settings)
        any_broken += any(math.exp(-sure[c].value / (1 + c)) > alpha for c in range(3))
    assert all(at_most(int(count), draws, delta) for count in broken)
    assert broken[:2].min() > 0  # it is used up where there are images
    assert at_most(any_broken, draws, delta)
    assert (silent == draws) == (alpha == 0.01)  # about 75 images cannot promise 1 %: always said


def test_cluster_input_is_checked():
    scores = np.arange(30.0)
    for labels, clusters, pool in (
        (np.zeros(29, int), 3, ()),
        (np.full(30, 3), 3, ()),
        (np.full(30, -1), 3, ()),
        (np.zeros((30, 1), int), 3, ()),
        (np.zeros(30, int), 3, (9,)),
    ):
        with pytest.raises(ValueError, match=r"got 30 calibration scores.* a label in \[0, 3\)"):
            cluster_thresholds(scores, labels, alpha=0.1, clusters=clusters, pool=pool)


# images that belong together


def test_one_per_track_keeps_the_promise_that_frames_break():
    generator, naive, fair = np.random.default_rng(11), 0, 0
    tracks = np.repeat(np.arange(100), 30)
    for trial in range(200):
        scores = np.repeat(generator.random(100), 30) + 1e-9 * generator.random(3000)
        naive += 1 - threshold_for(scores, alpha=0.1).value > 0.1
        kept = one_per_track(scores, tracks, seed=trial)
        assert len(kept) == 100
        frames = np.searchsorted(np.sort(scores), kept) // 30
        assert (np.sort(frames) == np.arange(100)).all()  # one of each track
        fair += 1 - threshold_for(kept, alpha=0.1).value > 0.1
    assert at_most(fair, 200, 0.1)
    assert not at_most(naive, 200, 0.1)
    with pytest.raises(ValueError, match="one track a score"):
        one_per_track(scores, tracks[:-1], seed=0)


# the promise in words


def test_a_threshold_in_words():
    found = threshold_for(np.arange(200.0), alpha=0.1, delta=0.1)
    assert in_words(found) == (
        "With probability 0.9 or more over the draw of the 200 calibration images, at most 99.1 of "
        "1,000 new normal images raise a false alarm in the long run. This rests on new normal "
        "images being exchangeable with the calibration images: drawn from the same population, "
        "independently of each other."
    )
    text = in_words(found, tracks=True)
    assert (
        "the 200 calibration tracks, at most 99.1 of 1,000 new normal images, one of each" in text
    )
    assert "new normal tracks being exchangeable with the calibration tracks" in text
    marginal = threshold_for(np.arange(200.0), alpha=0.1, guarantee=MARGINAL)
    start = "On average over the draw of the 200 calibration images, at most 99.6 of 1,000 new"
    assert in_words(marginal).startswith(start)
    nothing = threshold_for(np.arange(10.0), alpha=0.1)
    assert in_words(nothing) == (
        "Nothing is promised. 10 calibration images can promise alpha = 0.206 at best: 0.1 needs "
        "22. With fewer nothing alarms, and every anomaly would be missed."
    )
    assert "10 calibration tracks can promise" in in_words(nothing, tracks=True)
    assert "images" not in in_words(nothing, tracks=True)


@pytest.mark.parametrize("guarantee", [CONDITIONAL, MARGINAL])
@pytest.mark.parametrize("delta", [0.1, 0.05, 1 / 30, 0.1 / 7, 1e-7])
def test_the_words_are_true_of_every_threshold(guarantee, delta):
    for n in (1, 21, 22, 29, 40, 137, 1000):
        for alpha in (0.004, 0.0123, 0.05, 0.1, 0.3333):
            found = threshold_for(
                np.arange(float(n)), alpha=alpha, delta=delta, guarantee=guarantee
            )
            text = in_words(found)
            if found.guarantee == NONE:
                least, needed = re.findall(r"alpha = (\S+) at best: \S+ needs (\d+)", text)[0]
                settings = dict(delta=delta, guarantee=guarantee)
                best = threshold_for(np.arange(n), alpha=min(float(least), 1 - 1e-9), **settings)
                assert best.guarantee == guarantee
                enough = threshold_for(np.arange(int(needed)), alpha=alpha, **settings)
                short = threshold_for(np.arange(int(needed) - 1), alpha=alpha, **settings)
                assert (enough.guarantee, short.guarantee) == (guarantee, NONE)
                continue
            bound = float(re.findall(r"at most (\S+) of 1,000", text)[0]) / 1000
            law = stats.beta(found.rank, n - found.rank + 1)  # of the rate, over draws
            if guarantee == MARGINAL:
                assert law.mean() <= bound <= 1.01 * law.mean() + 1e-9
                assert law.mean() <= alpha
            else:
                certain = float(re.findall(r"probability (\S+) or more", text)[0])
                assert 1 - delta - 0.001 < certain <= 1 - delta + 1e-12
                assert law.cdf(bound) >= certain - 1e-9
                assert bound <= alpha * 1.01


def test_the_words_of_a_cluster_name_it():
    generator = np.random.default_rng(13)
    scores, labels = generator.random(300), generator.choice(4, 300, p=[0.5, 0.4, 0.07, 0.03])
    found = cluster_thresholds(scores, labels, alpha=0.1, clusters=4, pool=(2, 3))
    n = int((labels == 1).sum())
    assert f"draw of the {n} calibration images in cluster 1, at most" in in_words(found[1])
    assert "of 1,000 new normal images in cluster 1 raise" in in_words(found[1])
    assert "in clusters 2, 3" in in_words(found[3])
    few = cluster_thresholds(scores, labels, alpha=0.1, clusters=4)[3]
    assert in_words(few).startswith("Nothing is promised in cluster 3. ")


def test_a_threshold_survives_json():
    found = threshold_for(np.arange(200.0), alpha=0.1)
    assert in_words(Threshold(**found._asdict())) == in_words(found)
