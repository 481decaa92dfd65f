"""Metrics against scikit-learn, hand-computed values and the rules that they must obey."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from clad_lib.judge.counting import ConstantScores
from clad_lib.judge.metrics import (
    auroc,
    best_f1,
    bootstrap,
    evaluate,
    f1_at,
    hard_decision_auroc,
    holm,
)


def draw(seed, n=300, *, shift=1.0, ties=None):
    """Scores (n,) and anomaly (n,), 40 % anomalies; `ties` rounds to a few distinct values."""
    generator = np.random.default_rng(seed)
    anomaly = generator.permutation(n) < 0.4 * n
    scores = generator.normal(size=n) + shift * anomaly
    return (np.round(scores * ties) / ties if ties else scores), anomaly


@pytest.mark.parametrize("ties", [None, 1, 4])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 2.0])
def test_metrics_equal_scikit_learn(ties, shift):
    scores, anomaly = draw(1, shift=shift, ties=ties)
    found = evaluate(scores, anomaly)
    assert found.auroc == pytest.approx(sk.roc_auc_score(anomaly, scores), abs=1e-12)
    assert auroc(scores, anomaly) == found.auroc
    precision = sk.average_precision_score(anomaly, scores)
    assert found.aupr_anomaly == pytest.approx(precision, abs=1e-12)
    precision = sk.average_precision_score(~anomaly, -scores)
    assert found.aupr_normal == pytest.approx(precision, abs=1e-12)
    accepted, kept, _ = sk.roc_curve(~anomaly, -scores, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(accepted[np.flatnonzero(kept >= 0.95)[0]], abs=1e-12)


def test_auroc_is_the_midrank_statistic():
    scores, anomaly = draw(2, ties=2)
    ranks, positives = stats.rankdata(scores)[anomaly], anomaly.sum()
    expected = ranks.sum() - positives * (positives + 1) / 2
    assert auroc(scores, anomaly) == pytest.approx(expected / positives / (~anomaly).sum())


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
    scores, anomaly = np.append(scores, 40.0), np.append(anomaly, False)
    assert evaluate(scores, anomaly).fpr95 == pytest.approx(4 / 5)  # ceil(19.95) = 20


def test_constant_scores_are_half_and_say_so():
    with pytest.warns(ConstantScores, match=r"all 10 scores are 3: AUROC is 0.5"):
        found = evaluate(np.full(10, 3.0), np.arange(10) < 4)
    assert found == pytest.approx((0.5, 0.4, 0.6, 1.0))


@pytest.mark.parametrize(
    ("scores", "anomaly", "message"),
    [
        ([1.0, np.nan, 2.0], [0, 1, 0], "scores have shape .* hold 1 NaN or infinite"),
        ([1.0, -np.inf, np.inf], [0, 1, 0], "hold 2 NaN or infinite"),
        ([1.0, 2.0], [0, 1, 1], r"scores are \(2,\), anomaly is \(3,\)"),
        ([1.0, 2.0], [0, 0], "2 normal images and 0 anomalies"),
        ([1.0, 2.0], [1, 1], "0 normal images and 2 anomalies"),
        ([1.0], [1], "0 normal images and 1 anomalies"),
        ([[1.0, 2.0]], [[0, 1]], r"shape \(1, 2\)"),
        ([], [], r"shape \(0,\)"),
        ([1.0, 2.0], [0, 7], r"holds \[0 7\]: expected True for an anomaly"),
    ],
)
@pytest.mark.parametrize("function", [evaluate, auroc, best_f1, lambda s, a: f1_at(s, a, 0.0)])
def test_bad_input_is_named(function, scores, anomaly, message):
    with pytest.raises(ValueError, match=message):
        function(scores, anomaly)


@pytest.mark.parametrize("threshold", [-5.0, 0.0, 0.5, 1.0])
def test_f1_equals_scikit_learn(threshold):
    scores, anomaly = draw(13, ties=2)
    found, alarm = f1_at(scores, anomaly, threshold), scores > threshold
    rates = sk.precision_recall_fscore_support(anomaly, alarm, average="binary")[:3]
    tn, fp, fn, tp = sk.confusion_matrix(anomaly, alarm).ravel()
    assert found == pytest.approx((tp, fp, tn, fn, *rates, fp / (fp + tn)))


def test_f1_takes_a_threshold_that_nothing_reaches():
    scores, anomaly = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True])
    assert f1_at(scores, anomaly, np.inf) == (0, 0, 2, 2, 0, 0, 0, 0)
    with pytest.raises(ValueError, match=r"threshold is NaN: expected a number"):
        f1_at(scores, anomaly, np.nan)


@pytest.mark.parametrize("shift", [-2.0, 1.0])
def test_best_f1_is_the_best_of_all_thresholds(shift):
    scores, anomaly = draw(14, 80, shift=shift, ties=3)
    every = [f1_at(scores, anomaly, line).f1 for line in np.append(scores, -np.inf)]
    assert best_f1(scores, anomaly) == pytest.approx(max(every))
    assert best_f1([1.0, 2.0], [True, False]) == pytest.approx(2 / 3)  # alarms on everything


def test_the_roc_curve_of_decisions_has_one_point():
    scores, anomaly = draw(15, shift=-1.0)
    decisions = np.where(scores > 0.3, 1, -1)
    found = hard_decision_auroc(scores, 0.3, anomaly)
    assert found == pytest.approx(sk.roc_auc_score(anomaly, decisions))
    assert found < 0.5


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and never below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([0.04]) == pytest.approx([0.04])
    with pytest.raises(ValueError, match="p-values"):
        holm([0.1, math.nan])


def test_holm_keeps_the_chance_of_any_false_rejection():
    generator, wrong, found = np.random.default_rng(0), 0, 0
    for _ in range(2000):
        common = generator.normal()  # all comparisons share the best method, so they depend
        z = 0.7 * common + math.sqrt(1 - 0.49) * generator.normal(size=6)
        z[0] += 4.0  # one difference is real
        rejected = holm(2 * stats.norm.sf(abs(z))) < 0.05
        wrong += rejected[1:].any()
        found += rejected[0]
    assert wrong <= stats.binom.ppf(0.999, 2000, 0.05)
    assert wrong > 20  # it is used up
    assert found > 0.8 * 2000


def test_nothing_warns_on_sound_scores():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(*draw(16))
        bootstrap(*draw(16), resamples=50, seed=0)
        bootstrap(*draw(16), resamples=50, seed=0, units=np.arange(300) // 3)
