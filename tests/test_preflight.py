"""The check before training: brute force, a scenario made to be the wrong way round, and a fair one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clad_lib import preflight
from clad_lib.baselines import fit_ocsvm
from clad_lib.evaluation import auroc
from clad_lib.scenarios import get_scenario, make_split


def split_of(make_data, *, wrong_way):
    """Normal images are noise of many levels; anomalies are the plain grey in their middle, or far away from them all."""
    random = np.random.default_rng(0)
    parts = []
    for count in (200, 100):
        labels = np.repeat([0, 1], [count, 0 if count == 200 else count])
        data = make_data(labels, size=8)
        noise = 128 + 60 * random.standard_normal((len(labels), 1, 8, 8))
        level = 128 + random.integers(-3, 4, (len(labels), 1, 8, 8)) if wrong_way else np.full((len(labels), 1, 8, 8), 250)
        data.images[:] = np.clip(np.where(labels[:, None, None, None] == 0, noise, level), 0, 255).astype(np.uint8)
        parts.append(data)
    return make_split(*parts, get_scenario("made", "c0", class_names=("c0", "c1")), seed=0)


def test_distances_by_brute_force(make_data):
    split = split_of(make_data, wrong_way=False)
    found = preflight.neighbours(split)
    flat = [part.flatten(1).double() / 255 for part in (split.train, split.test)]
    every = torch.cdist(flat[1], flat[0])
    assert np.allclose(found.distance, every.amin(1), atol=1e-3)
    assert np.allclose(every[np.arange(len(every)), found.nearest], every.amin(1), atol=1e-3)


def test_anomalies_that_are_the_most_normal_images_are_foreseen_and_not_flipped(make_data):
    split = split_of(make_data, wrong_way=True)
    anomaly = split.answers.test_anomaly
    found = preflight.verdict(preflight.neighbours(split), anomaly)
    assert found.warns
    assert found.high < 0.5
    assert "below 0.5" in found.text
    scores = fit_ocsvm(split.train)(split.test).numpy()
    assert auroc(scores, anomaly) < 0.5  # what was foreseen, and left as it is


def test_a_fair_scenario_gets_no_warning(make_data):
    split = split_of(make_data, wrong_way=False)
    found = preflight.verdict(preflight.neighbours(split), split.answers.test_anomaly)
    assert not found.warns
    assert found.low > 0.5


def test_the_closest_anomalies_come_first_with_their_neighbours(make_data):
    split = split_of(make_data, wrong_way=True)
    found, anomaly = preflight.neighbours(split), split.answers.test_anomaly
    rows, near = preflight.most_normal_anomalies(found, anomaly, count=5)
    assert anomaly[rows].all()
    assert found.distance[anomaly].min() == found.distance[rows[0]]
    assert near.max() < len(split.train)


def test_a_cap_keeps_rows_of_the_whole_split(make_data):
    split = split_of(make_data, wrong_way=True)
    found = preflight.neighbours(split, limit=20)
    assert len(found.rows) == 20
    assert found.rows.max() > 20


def test_one_kind_only_is_refused(make_data):
    split = split_of(make_data, wrong_way=True)
    with pytest.raises(ValueError, match="0 anomalies"):
        preflight.verdict(preflight.neighbours(split), np.zeros(len(split.test), dtype=bool))
