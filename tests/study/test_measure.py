"""What is measured of scores, with the published defects on, against scikit-learn."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from clad_lib.clad.scores import Scored
from clad_lib.config import make_config
from clad_lib.study.measure import measure


@pytest.fixture
def taken():
    """A split of 40 calibration and 60 test images whose anomalies score lower, and a method's."""
    random = np.random.default_rng(0)
    anomaly = random.permutation(60) < 20
    split = SimpleNamespace(
        train=np.zeros(5),
        calibration_index=np.arange(40),
        calibration_tracks=np.arange(40),
        test_index=np.arange(60),
        test_tracks=np.arange(60),
        answers=SimpleNamespace(
            calibration_class=np.zeros(40, int), test_class=anomaly + 0, test_anomaly=anomaly
        ),
    )
    return split, Scored(random.normal(size=40), random.normal(size=60) - anomaly)


def measured(taken, **settings):
    split, scored = taken
    found = measure(
        make_config(**settings), split, scored, method="SVDD", copies=np.zeros(60, bool)
    )
    return found[1]


def test_auroc_is_turned_around_by_the_switch_alone(taken):
    expected = roc_auc_score(taken[0].answers.test_anomaly, taken[1].test)
    assert expected < 0.5
    assert measured(taken)["auroc"] == pytest.approx(expected)
    assert measured(taken, flip_auroc=True)["auroc"] == pytest.approx(1 - expected)


def test_the_roc_curve_of_decisions_is_that_of_one_threshold(taken):
    truth, tested = taken[0].answers.test_anomaly, taken[1].test
    expected = roc_auc_score(truth, tested > 0)
    assert measured(taken, hard_svdd=True)["auroc"] == pytest.approx(expected)


def test_the_best_f1_looks_at_the_test_set(taken):
    truth, tested = taken[0].answers.test_anomaly, taken[1].test
    every = [f1_score(truth, tested > line) for line in [-np.inf, *tested]]
    assert measured(taken, best_f1=True)["f1"] == pytest.approx(max(every))
    assert measured(taken)["f1"] < max(every)
