"""Metrics against scikit-learn, intervals against SciPy and against their own promise, in simulation."""

import time
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from clad_lib import curves
from clad_lib.evaluation import (
    auroc,
    best_f1,
    bootstrap,
    evaluate,
    f1_at,
    flipped_auroc,
    hard_decision_auroc,
    over_seeds,
    paired_comparison,
    paired_over_seeds,
)


def draw(seed: int, n: int = 300, *, shift: float = 1.0, ties: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,) and anomaly (n,), 40 % anomalies; `ties` rounds the scores to a few distinct values."""
    generator = np.random.default_rng(seed)
    anomaly = generator.permutation(n) < 0.4 * n
    scores = generator.normal(size=n) + shift * anomaly
    return (np.round(scores * ties) / ties if ties else scores), anomaly


@pytest.mark.parametrize("ties", [None, 1, 4])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 2.0])
def test_metrics_equal_scikit_learn(ties, shift):
    scores, anomaly = draw(1, shift=shift, ties=ties)
    measured = evaluate(scores, anomaly)
    assert measured.auroc == pytest.approx(sk.roc_auc_score(anomaly, scores), abs=1e-12)
    assert measured.aupr_anomaly == pytest.approx(sk.average_precision_score(anomaly, scores), abs=1e-12)
    assert measured.aupr_normal == pytest.approx(sk.average_precision_score(~anomaly, -scores), abs=1e-12)
    accepted, kept, _ = sk.roc_curve(~anomaly, -scores, drop_intermediate=False)  # normal images as positives
    assert measured.fpr95 == pytest.approx(accepted[np.flatnonzero(kept >= 0.95)[0]], abs=1e-12)


def test_auroc_is_the_midrank_statistic():
    scores, anomaly = draw(2, ties=2)
    ranks, positives = stats.rankdata(scores)[anomaly], anomaly.sum()
    expected = (ranks.sum() - positives * (positives + 1) / 2) / (positives * (~anomaly).sum())
    assert auroc(scores, anomaly) == pytest.approx(expected, abs=1e-12)


def test_auroc_is_never_flipped():
    scores, anomaly = draw(3, shift=1.5, ties=3)
    assert auroc(-scores, anomaly) == pytest.approx(1 - auroc(scores, anomaly), abs=1e-12)
    assert auroc(-scores, anomaly) < 0.5
    assert auroc([0.0, 1.0], [True, False]) == 0.0


def test_fpr95_by_hand():
    normal = np.arange(20.0)  # 19 of 20 are accepted up to 18, ties included
    anomalies = np.array([-1.0, 18.0, 18.5, 19.0, 30.0])
    scores, anomaly = np.concatenate([normal, anomalies]), np.arange(25) >= 20
    assert evaluate(scores, anomaly).fpr95 == pytest.approx(2 / 5)
    assert evaluate(np.append(scores, 40.0), np.append(anomaly, False)).fpr95 == pytest.approx(4 / 5)  # ceil(19.95)


def test_constant_scores_are_half_and_say_so():
    with pytest.warns(curves.ConstantScores, match=r"all 10 scores are 3: AUROC is 0.5"):
        measured = evaluate(np.full(10, 3.0), np.arange(10) < 4)
    assert measured == pytest.approx((0.5, 0.4, 0.6, 1.0))


@pytest.mark.parametrize(
    ("scores", "anomaly", "message"),
    [
        ([1.0, np.nan, 2.0], [0, 1, 0], "1 NaN or infinite of 3"),
        ([1.0, -np.inf, np.inf], [0, 1, 0], "2 NaN or infinite of 3"),
        ([1.0, 2.0], [0, 1, 1], r"scores are \(2,\), anomaly is \(3,\)"),
        ([1.0, 2.0], [0, 0], "2 normal images and 0 anomalies"),
        ([1.0, 2.0], [1, 1], "0 normal images and 2 anomalies"),
        ([1.0], [1], "0 normal images and 1 anomalies"),
        ([[1.0, 2.0]], [[0, 1]], r"shape \(1, 2\)"),
        ([], [], r"shape \(0,\)"),
        ([1.0, 2.0], [0, 7], "anomaly holds"),
    ],
)
@pytest.mark.parametrize("function", [evaluate, auroc, best_f1, lambda s, a: f1_at(s, a, 0.0)])
def test_bad_input_is_named(function, scores, anomaly, message):
    with pytest.raises(ValueError, match=message):
        function(scores, anomaly)


@pytest.mark.parametrize("metric", sorted(curves.METRICS))
def test_counting_equals_explicit_resampling(metric):
    scores, anomaly = draw(4, 60, ties=2)
    counted = np.concatenate(list(curves.resampled([scores], anomaly, resamples=40, seed=9, metric=metric)))[:, 0]
    generator = np.random.default_rng(9)
    drawn = [part[generator.integers(0, len(part), (40, len(part)), dtype=np.int32)]
             for part in (np.flatnonzero(~anomaly), np.flatnonzero(anomaly))]  # fmt: skip
    for row, value in enumerate(counted):
        images = np.concatenate([drawn[0][row], drawn[1][row]])
        assert value == pytest.approx(getattr(evaluate(scores[images], anomaly[images]), metric), abs=1e-12)


def sk_auroc(normal: np.ndarray, anomalous: np.ndarray, axis: int = -1) -> np.ndarray:
    ranks = stats.rankdata(np.concatenate([normal, anomalous], axis), axis=axis)
    n, m = normal.shape[axis], anomalous.shape[axis]
    return (ranks[..., n:].sum(axis) - m * (m + 1) / 2) / (n * m)


@pytest.mark.parametrize("ties", [None, 2])
def test_bootstrap_agrees_with_scipy(ties):
    scores, anomaly = draw(5, 200, ties=ties)
    ours = bootstrap(scores, anomaly, resamples=20_000, seed=0)
    theirs = stats.bootstrap(
        (scores[~anomaly], scores[anomaly]), sk_auroc, n_resamples=20_000, batch=2_000, vectorized=True,
        method="percentile", rng=np.random.default_rng(1),
    )  # fmt: skip
    width = ours.high - ours.low
    assert ours.estimate == pytest.approx(sk.roc_auc_score(anomaly, scores))
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


def test_bootstrap_covers_the_truth():
    truth = stats.norm.cdf(1 / np.sqrt(2))  # AUROC of N(1, 1) against N(0, 1)
    inside = 0
    for seed in range(300):
        interval = bootstrap(*draw(seed, 150), resamples=300, level=0.9, seed=seed)
        inside += interval.low <= truth <= interval.high
    assert stats.binom.ppf(1e-3, 300, 0.87) <= inside <= stats.binom.ppf(0.999, 300, 0.93)


def test_bootstrap_depends_on_the_seed_alone():
    scores, anomaly = draw(6)
    assert bootstrap(scores, anomaly, seed=1) == bootstrap(scores, anomaly, seed=1)
    assert bootstrap(scores, anomaly, seed=1) != bootstrap(scores, anomaly, seed=2)


def test_bootstrap_is_fast_enough():
    scores, anomaly = draw(7, 10_000)
    start = time.process_time()
    bootstrap(scores, anomaly, resamples=2000, seed=0)
    assert time.process_time() - start < 5


def test_bootstrap_settings_are_checked():
    scores, anomaly = draw(8)
    with pytest.raises(ValueError, match="0 resamples"):
        bootstrap(scores, anomaly, seed=0, resamples=0)
    with pytest.raises(ValueError, match="level 95"):
        bootstrap(scores, anomaly, seed=0, level=95)
    with pytest.raises(ValueError, match="unknown metric 'f1': expected one of auroc"):
        bootstrap(scores, anomaly, seed=0, metric="f1")
    with pytest.raises(ValueError, match="2 or more of each"):
        bootstrap([1.0, 2.0, 3.0], [0, 0, 1], seed=0)


def test_paired_comparison_agrees_with_scipy():
    scores, anomaly = draw(9, 200)
    other = scores + np.random.default_rng(0).normal(size=200)
    ours = paired_comparison(scores, other, anomaly, resamples=20_000, seed=0)

    def difference(normal, anomalous, axis=-1):  # of image numbers, so that both methods see the same resample
        return sk_auroc(scores[normal], scores[anomalous], axis) - sk_auroc(other[normal], other[anomalous], axis)

    theirs = stats.bootstrap(
        (np.flatnonzero(~anomaly), np.flatnonzero(anomaly)), difference, n_resamples=20_000, batch=2_000,
        vectorized=True, method="percentile", rng=np.random.default_rng(1),
    )  # fmt: skip
    width = ours.high - ours.low
    assert ours.difference == pytest.approx(auroc(scores, anomaly) - auroc(other, anomaly))
    assert (ours.low, ours.high) == pytest.approx(theirs.confidence_interval, abs=0.04 * width)
    assert (ours.p_value < 0.05) == (ours.low > 0 or ours.high < 0)


def test_paired_comparison_of_equal_and_of_far_methods():
    scores, anomaly = draw(10)
    assert paired_comparison(scores, 2 * scores + 1, anomaly, seed=0) == (0, 0, 0, 1)
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
        one, other = (
            image + generator.normal(0.3, 0.4, size=(seeds, 1)) * anomaly + generator.normal(size=(seeds, 120)) for _ in range(2)
        )
        if seeds == 1:
            one, other = image + generator.normal(size=120), image + generator.normal(size=120)
        rejected += paired_comparison(one, other, anomaly, resamples=200, seed=trial).p_value < 0.05
    assert rejected <= stats.binom.ppf(0.999, 200, 0.06)


def test_paired_comparison_over_seeds_adds_both_variances():
    scores, anomaly = draw(11, 200)
    noise = np.random.default_rng(0).normal(size=200)
    one, other = np.stack([scores] * 3), np.stack([scores + noise] * 3)  # three equal seeds: the images alone count
    images = paired_comparison(one[0], other[0], anomaly, resamples=4000, seed=0)
    both = paired_comparison(one, other, anomaly, resamples=4000, seed=0)
    assert both.difference == pytest.approx(images.difference)
    assert both.high - both.low == pytest.approx(images.high - images.low, rel=0.1)
    spread = np.stack([scores, scores + noise, scores + 3 * noise])
    assert np.ptp(paired_comparison(spread, other, anomaly, seed=0)[1:3]) > 2 * (both.high - both.low)


def test_paired_comparison_refuses_other_shapes():
    scores, anomaly = draw(12)
    with pytest.raises(ValueError, match=r"\(300,\) and \(299,\)"):
        paired_comparison(scores, scores[:-1], anomaly, seed=0)
    with pytest.raises(ValueError, match="anomaly is"):
        paired_comparison(scores, scores, anomaly[:-1], seed=0)


def test_over_seeds_is_students_interval():
    values = [0.91, 0.94, 0.90]
    spread = over_seeds(values)
    assert spread[:3] == pytest.approx((np.mean(values), np.std(values, ddof=1), 3))
    assert spread[3:] == pytest.approx(stats.t.interval(0.95, 2, np.mean(values), stats.sem(values)))
    alone = over_seeds([0.9])
    assert alone[::2] == (0.9, 1, pytest.approx(np.nan, nan_ok=True))
    with pytest.raises(ValueError, match="values over seeds hold 1 NaN"):
        over_seeds([0.9, np.nan])


def test_paired_over_seeds_is_the_paired_t_test():
    one, other = np.array([0.91, 0.94, 0.90, 0.95]), np.array([0.88, 0.93, 0.91, 0.90])
    expected = stats.ttest_rel(one, other)
    compared = paired_over_seeds(one, other)
    assert compared.difference == pytest.approx((one - other).mean())
    assert compared.p_value == pytest.approx(expected.pvalue)
    assert compared[1:3] == pytest.approx(expected.confidence_interval(0.95))
    assert paired_over_seeds(one, one) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="the same seeds"):
        paired_over_seeds(one, other[:3])
    with pytest.raises(ValueError, match="two or more"):
        paired_over_seeds([0.9], [0.8])


@pytest.mark.parametrize("threshold", [-5.0, 0.0, 0.5, 1.0])
def test_f1_equals_scikit_learn(threshold):
    scores, anomaly = draw(13, ties=2)
    found, alarm = f1_at(scores, anomaly, threshold), scores > threshold
    precision, recall, f1, _ = sk.precision_recall_fscore_support(anomaly, alarm, average="binary")
    tn, fp, fn, tp = sk.confusion_matrix(anomaly, alarm).ravel()
    assert found == pytest.approx((tp, fp, tn, fn, precision, recall, f1, fp / (fp + tn)))


def test_f1_takes_one_threshold_an_image_and_none_that_alarms():
    scores, anomaly = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True])
    assert f1_at(scores, anomaly, [0.0, 9.0, 2.0, np.inf])[:4] == (1, 1, 1, 1)
    assert f1_at(scores, anomaly, np.inf) == (0, 0, 2, 2, 0, 0, 0, 0)
    for wrong in (np.nan, [1.0, 2.0]):
        with pytest.raises(ValueError, match="threshold"):
            f1_at(scores, anomaly, wrong)


@pytest.mark.parametrize("shift", [-2.0, 1.0])
def test_best_f1_is_the_best_of_all_thresholds(shift):
    scores, anomaly = draw(14, 80, shift=shift, ties=3)
    best = best_f1(scores, anomaly)
    every = [f1_at(scores, anomaly, line).f1 for line in np.append(scores, -np.inf)]
    assert best.f1 == pytest.approx(max(every))
    assert f1_at(scores, anomaly, best.threshold).f1 == pytest.approx(best.f1)


def test_published_defects():
    scores, anomaly = draw(15, shift=-1.0)
    decisions = np.where(scores > 0.3, 1, -1)
    assert hard_decision_auroc(scores, 0.3, anomaly) == pytest.approx(sk.roc_auc_score(anomaly, decisions))
    assert hard_decision_auroc(scores, 0.3, anomaly) < 0.5
    assert flipped_auroc(0.25) == flipped_auroc(0.75) == 0.75
    with pytest.raises(ValueError, match=r"94.0"):
        flipped_auroc(94.0)


def test_nothing_warns_on_sound_scores():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(*draw(16))
        bootstrap(*draw(16), resamples=50, seed=0)
        over_seeds([0.9])
