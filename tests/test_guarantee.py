"""The promise of a threshold, verified on scores of real images: at most delta of many calibration draws may break it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from clad_lib import calibration, plots
from clad_lib.baselines import fit_ocsvm
from clad_lib.config import make_config
from clad_lib.data import load_dataset
from clad_lib.scenarios import load_split

DELTA = 0.1


@pytest.fixture(scope="module")
def normal_scores():
    """OCSVM scores of real images of digits 0, 3 and 8 that it was not trained on, and the digit as their cluster."""
    train, test = load_dataset("digits")
    chosen = np.isin(train.labels, (0, 3, 8))
    images, labels = torch.from_numpy(train.images[chosen]), train.labels[chosen]
    scorer = fit_ocsvm(images[:120])
    held = np.isin(test.labels, (0, 3, 8))
    rest = torch.cat([images[120:], torch.from_numpy(test.images[held])])
    return scorer(rest).numpy(), np.concatenate([labels[120:], test.labels[held]])


def most_broken(draws, delta):
    """The number of broken promises that chance exceeds once in a million."""
    return int(binom.isf(1e-6, draws, delta))


@pytest.mark.parametrize(("alpha", "n"), [(0.01, 300), (0.05, 150), (0.1, 60)])
def test_the_rate_exceeds_alpha_in_at_most_delta_of_the_draws(normal_scores, alpha, n):
    rates = calibration.simulated_rates(normal_scores[0], n=n, alpha=alpha, delta=DELTA, draws=200, seed=0)
    assert (rates > alpha).sum() <= most_broken(200, DELTA)
    assert (rates > 0).any()  # not kept by never alarming


def test_the_mean_of_the_scores_would_break_it(normal_scores):
    """The check can fail: the plain alpha-quantile of the calibration scores promises nothing and breaks the limit."""
    pool, random = normal_scores[0], np.random.default_rng(0)
    rates = [(pool > np.quantile(random.choice(pool, 60), 0.9)).mean() for _ in range(200)]
    assert (np.array(rates) > 0.1).sum() > most_broken(200, DELTA)


def test_within_each_cluster_likewise(normal_scores):
    scores, labels = normal_scores
    random, broken = np.random.default_rng(1), {0: 0, 3: 0, 8: 0}
    for _ in range(200):
        rows = random.integers(0, len(scores), 150)
        lines = calibration.cluster_thresholds(scores[rows], labels[rows], alpha=0.1, delta=DELTA, clusters=(0, 3, 8))
        for name, line in lines.items():
            broken[name] += (scores[labels == name] > line.value).mean() > 0.1
    assert max(broken.values()) <= most_broken(200, DELTA)


def test_the_picture_of_the_check_counts_what_it_shows(normal_scores):
    rates = calibration.simulated_rates(normal_scores[0], n=60, alpha=0.1, delta=DELTA, draws=50, seed=0)
    figure = plots.guarantee_check(rates, alpha=0.1, delta=DELTA, n=60)
    assert f"{(rates > 0.1).mean():.1%}" in figure.layout.title.subtitle.text
    band = calibration.false_alarm_band(normal_scores[0][:100], delta=DELTA)
    curve = plots.false_alarm_curve(band.thresholds, band.upper, normal_scores[0][:100], normals=normal_scores[0][100:])
    bound, counted = curve.data[0], curve.data[1]
    assert np.nanmax(np.array(counted.y) - np.array(bound.y)) <= 0
    assert len(curve.data) == 3
    with pytest.raises(ValueError, match="NaN"):
        plots.guarantee_check(np.array([0.1, np.nan]), alpha=0.1, delta=DELTA, n=60)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_on_mnist(alpha):
    split = load_split(make_config("mnist", "CUR"))
    scores = fit_ocsvm(split.train[:3000])(split.test).numpy()[~split.answers.test_anomaly]
    rates = calibration.simulated_rates(scores, n=1000, alpha=alpha, delta=DELTA, draws=200, seed=0)
    assert (rates > alpha).sum() <= most_broken(200, DELTA)
