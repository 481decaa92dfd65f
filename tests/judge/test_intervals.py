"""Intervals and tests against SciPy, and against their own promise in simulations with seeds."""

import math
import time

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from clad_lib.judge.counting import resampled
from clad_lib.judge.metrics import (
    auroc,
    bootstrap,
    paired_comparison,
)


def draw(seed, n=300, *, shift=1.0, ties=None):
    """Scores (n,) and anomaly (n,), 40 % anomalies; `ties` rounds to a few distinct values."""
    generator = np.random.default_rng(seed)
    anomaly = generator.permutation(n) < 0.4 * n
    scores = generator.normal(size=n) + shift * anomaly
    return (np.round(scores * ties) / ties if ties else scores), anomaly


def tracks(seed, normal, anomalous, *, frames=10, alike=0.8):
    """Scores of frames of tracks, the share `alike` of their variance common to a track."""
    generator = np.random.default_rng(seed)
    units = np.repeat(np.arange(normal + anomalous), frames)
    common = generator.normal(size=normal + anomalous)[units]
    scores = math.sqrt(alike) * common + math.sqrt(1 - alike) * generator.normal(size=len(units))
    anomaly = units >= normal
    return scores + anomaly, anomaly, units


TRUTH = stats.norm.cdf(1 / math.sqrt(2))  # AUROC of N(1, 1) against N(0, 1)


def sk_auroc(normal, anomalous, axis=-1):
    ranks = stats.rankdata(np.concatenate([normal, anomalous], axis), axis=axis)
    n, m = normal.shape[axis], anomalous.shape[axis]
    return (ranks[..., n:].sum(axis) - m * (m + 1) / 2) / (n * m)


@pytest.mark.parametrize("whole", [False, True])
def test_counting_equals_explicit_resampling(whole):
    scores, anomaly = draw(4, 60, ties=2)
    units = np.where(anomaly, 100, 0) + np.random.default_rng(1).integers(0, 7, 60)
    names = units if whole else np.arange(60)
    draws = resampled(scores[None], anomaly, resamples=40, seed=9, units=units if whole else None)[
        1
    ][:, 0]
    generator = np.random.default_rng(9)
    classes = [np.unique(names[part]) for part in (~anomaly, anomaly)]
    drawn = [generator.integers(0, len(c), (40, len(c)), dtype=np.int32) for c in classes]
    for row, value in enumerate(draws):
        chosen = [c[each[row]] for c, each in zip(classes, drawn, strict=True)]
        images = np.concatenate([np.flatnonzero(names == unit) for c in chosen for unit in c])
        assert value == pytest.approx(auroc(scores[images], anomaly[images]), abs=1e-12)


@pytest.mark.parametrize("ties", [None, 2])
def test_bootstrap_agrees_with_scipy(ties):
    scores, anomaly = draw(5, 200, ties=ties)
    ours = bootstrap(scores, anomaly, resamples=20_000, seed=0)
    theirs = stats.bootstrap(
        (scores[~anomaly], scores[anomaly]),
        sk_auroc,
        n_resamples=20_000,
        batch=2_000,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = ours.high - ours.low
    assert ours.value == pytest.approx(sk.roc_auc_score(anomaly, scores))
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.03 * width)


def test_bootstrap_covers_the_truth():
    inside = 0
    for seed in range(300):
        found = bootstrap(*draw(seed, 150), resamples=300, level=0.9, seed=seed)
        inside += found.low <= TRUTH <= found.high
    assert stats.binom.ppf(1e-3, 300, 0.87) <= inside <= stats.binom.ppf(0.999, 300, 0.93)


def test_bootstrap_depends_on_the_seed_alone():
    scores, anomaly = draw(6)
    assert bootstrap(scores, anomaly, seed=1) == bootstrap(scores, anomaly, seed=1)
    assert bootstrap(scores, anomaly, seed=1) != bootstrap(scores, anomaly, seed=2)


def test_bootstrap_is_fast_enough():
    scores, anomaly = draw(7, 10_000)
    for units in (None, np.arange(10_000) // 30 + 1000 * anomaly):
        start = time.process_time()
        bootstrap(scores, anomaly, resamples=2000, seed=0, units=units)
        assert time.process_time() - start < 5


def test_bootstrap_settings_are_checked():
    scores, anomaly = draw(8)
    with pytest.raises(ValueError, match="got 0 resamples"):
        bootstrap(scores, anomaly, seed=0, resamples=0)
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap(scores, anomaly, seed=0, level=95)
    with pytest.raises(
        ValueError, match=r"2 normal and 1 anomalous .*: expected 2 or more of each"
    ):
        bootstrap([1.0, 2.0, 3.0], [0, 0, 1], seed=0)
    with pytest.raises(ValueError, match=r"units are \(299,\)"):
        bootstrap(scores, anomaly, seed=0, units=np.arange(299))
    with pytest.raises(ValueError, match="1 normal and 120 anomalous"):
        bootstrap(scores, anomaly, seed=0, units=np.where(anomaly, np.arange(300), -1))
    with pytest.raises(ValueError, match="shape"):
        bootstrap([scores, scores], anomaly, seed=0)


# tracks


def test_units_of_one_image_are_the_images():
    scores, anomaly = draw(17, ties=3)
    alone = bootstrap(scores, anomaly, seed=4)
    named = bootstrap(scores, anomaly, seed=4, units=[f"{k:03}" for k in range(300)])
    assert named.value == alone.value
    assert named[1:] == pytest.approx(alone[1:], abs=0.02 * (alone.high - alone.low))


def test_copies_do_not_narrow_an_interval_by_units():
    scores, anomaly = draw(18, 80)
    once = bootstrap(scores, anomaly, resamples=4000, seed=0)
    scores, anomaly, units = (np.repeat(each, 20) for each in (scores, anomaly, np.arange(80)))
    again = bootstrap(scores, anomaly, resamples=4000, seed=0, units=units)
    assert again.value == pytest.approx(once.value)
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.1)
    fooled = bootstrap(scores, anomaly, seed=0)
    assert once.high - once.low > 3.5 * (fooled.high - fooled.low)  # 20^(1/2) = 4.5 times


@pytest.mark.parametrize(("normal", "anomalous"), [(12, 60), (5, 60), (40, 40)])
def test_bootstrap_by_track_covers_the_truth(normal, anomalous):
    inside, by_image, trials = 0, 0, 200
    for seed in range(trials):
        scores, anomaly, units = tracks(seed, normal, anomalous, frames=5)
        found = bootstrap(scores, anomaly, resamples=200, level=0.95, seed=seed, units=units)
        inside += found.low <= TRUTH <= found.high
        low, high = bootstrap(scores, anomaly, resamples=60, level=0.95, seed=seed)[1:]
        by_image += low <= TRUTH <= high
    assert inside >= stats.binom.ppf(1e-3, trials, 0.93)
    assert by_image < 0.85 * trials  # what frames taken for independent images give


def test_a_paired_comparison_by_track_seldom_sees_what_is_not_there():
    rejected, by_image, trials = 0, 0, 200
    for seed in range(trials):
        scores, anomaly, units = tracks(seed, 12, 30, frames=5)
        generator = np.random.default_rng(1000 + seed)
        one, other = (
            scores + generator.normal(size=42)[units] + 0.2 * generator.normal(size=len(units))
            for _ in range(2)
        )
        same = dict(resamples=200, seed=seed)
        rejected += paired_comparison(one, other, anomaly, units=units, **same).p_value < 0.05
        by_image += paired_comparison(one, other, anomaly, **same).p_value < 0.05
    assert rejected <= stats.binom.ppf(0.999, trials, 0.06)
    assert by_image > 0.25 * trials


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_p_value_by_track_inverts_the_interval(level):
    for seed in range(40):
        scores, anomaly, units = tracks(seed, 9, 20, frames=5)
        other = scores + np.random.default_rng(seed).normal(0.4, 1.0, 29)[units] * anomaly
        found = paired_comparison(
            scores, other, anomaly, resamples=3000, level=level, seed=0, units=units
        )
        if abs(found.p_value - (1 - level)) > 0.01:  # beyond the steps of the bootstrap
            assert (found.p_value < 1 - level) == (found.low > 0 or found.high < 0)


# two methods


def test_paired_comparison_agrees_with_scipy():
    scores, anomaly = draw(9, 200)
    other = scores + np.random.default_rng(0).normal(size=200)
    ours = paired_comparison(scores, other, anomaly, resamples=20_000, seed=0)

    def difference(normal, anomalous, axis=-1):  # of image numbers: both see the same resample
        first, second = (sk_auroc(s[normal], s[anomalous], axis) for s in (scores, other))
        return first - second

    theirs = stats.bootstrap(
        (np.flatnonzero(~anomaly), np.flatnonzero(anomaly)),
        difference,
        n_resamples=20_000,
        batch=2_000,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = ours.high - ours.low
    assert ours.difference == pytest.approx(auroc(scores, anomaly) - auroc(other, anomaly))
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.04 * width)
    assert (ours.p_value < 0.05) == (ours.low > 0 or ours.high < 0)


def test_paired_comparison_of_equal_and_of_far_methods():
    scores, anomaly = draw(10)
    assert paired_comparison(scores, 2 * scores + 1, anomaly, seed=0) == (0, 0, 0, 1)
    units = np.arange(300) // 3 + 100 * anomaly
    equal = paired_comparison(scores, 2 * scores + 1, anomaly, seed=0, units=units)
    assert equal == (0, 0, 0, 1)
    worse = paired_comparison(-scores, scores, anomaly, seed=0)
    assert worse.high < 0
    assert worse.p_value == pytest.approx(2 / 2001)


@pytest.mark.parametrize("seeds", [1, 3])
def test_paired_comparison_seldom_sees_what_is_not_there(seeds):
    rejected = 0
    for trial in range(200):
        generator = np.random.default_rng(trial)
        anomaly = np.arange(120) < 50
        image = generator.normal(size=120) + anomaly  # what both methods see in an image
        if seeds == 1:
            one, other = (image + generator.normal(size=120) for _ in range(2))
        else:
            one, other = (
                image
                + generator.normal(0.3, 0.4, size=(seeds, 1)) * anomaly
                + generator.normal(size=(seeds, 120))
                for _ in range(2)
            )
        found = paired_comparison(one, other, anomaly, resamples=200, seed=trial)
        rejected += found.p_value < 0.05
    assert rejected <= stats.binom.ppf(0.999, 200, 0.06)


def test_paired_comparison_over_seeds_adds_both_variances():
    scores, anomaly = draw(11, 200)
    noise = np.random.default_rng(0).normal(size=200)
    one, other = np.stack([scores] * 3), np.stack([scores + noise] * 3)  # equal: images alone
    images = paired_comparison(one[0], other[0], anomaly, resamples=4000, seed=0)
    both = paired_comparison(one, other, anomaly, resamples=4000, seed=0)
    assert both.difference == pytest.approx(images.difference)
    assert both.high - both.low == pytest.approx(images.high - images.low, rel=0.1)
    spread = np.stack([scores, scores + noise, scores + 3 * noise])
    wide = paired_comparison(spread, other, anomaly, seed=0)
    assert wide.high - wide.low > 2 * (both.high - both.low)


def test_paired_comparison_refuses_other_shapes():
    scores, anomaly = draw(12)
    with pytest.raises(ValueError, match=r"\(300,\) and \(299,\)"):
        paired_comparison(scores, scores[:-1], anomaly, seed=0)
    with pytest.raises(ValueError, match="anomaly is"):
        paired_comparison(scores, scores, anomaly[:-1], seed=0)
    with pytest.raises(ValueError, match=r"expected both \(N,\), or \(S, N\)"):
        paired_comparison(scores[None, None], scores[None, None], anomaly, seed=0)


# seeds


def test_paired_comparison_without_image_noise_is_the_paired_t_test():
    anomaly = np.arange(40_000) % 2 == 0
    image = np.random.default_rng(0).normal(size=40_000)  # both methods see the same
    one, other = (
        image + np.array(shifts)[:, None] * anomaly
        for shifts in ((0.9, 1.2, 1.0, 1.3), (0.8, 1.0, 1.05, 0.9))
    )
    found = paired_comparison(one, other, anomaly, resamples=100, seed=0)
    pairs = [[auroc(row, anomaly) for row in rows] for rows in (one, other)]
    expected = stats.ttest_rel(*pairs)
    assert found.difference == pytest.approx(np.subtract(*pairs).mean())
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.05)
    assert found[1:3] == pytest.approx(expected.confidence_interval(0.95), abs=0.003)
