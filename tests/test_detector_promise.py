"""The promise of a detector on real pictures, and how well it tells anomalies, as in the study."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clad_lib.config import datasets, make_config
from clad_lib.data.reading import load_dataset
from clad_lib.data.scenarios import get_scenario
from clad_lib.detector import Detector
from clad_lib.judge.metrics import auroc

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("CLAD_DATA" not in os.environ, reason="needs the files of CLAD_DATA"),
]
LEARNT, NEW, FRAMES, ALPHA = 600, 1000, 4, 0.1
MEASURED = Path(__file__).resolve().parents[1] / "results" / "measured.csv"
SCENARIOS = [("tiny_imagenet", "ANML"), ("gtsrb", "SPDL"), ("mnist", "CUR"), ("cifar10", "THG")]


@pytest.mark.parametrize(("dataset", "scenario"), SCENARIOS)
def test_false_alarms_on_new_normal_pictures_stay_within_the_promise(dataset, scenario):
    train, _ = load_dataset(dataset)
    chosen = get_scenario(dataset, scenario, class_names=train.class_names)
    rates = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        rows = random.permutation(np.flatnonzero(np.isin(train.labels, chosen.normal)))
        tracks, place = np.unique(train.tracks[rows], return_inverse=True)
        frames = len(rows) > 2 * len(tracks)  # several pictures show one object
        learnt = random.permutation(len(tracks))[: len(tracks) // 2 if frames else LEARNT]
        old, new = rows[np.isin(place, learnt)], rows[~np.isin(place, learnt)]
        if frames:  # a few of each track to learn from, one of each to judge by
            old = np.concatenate([old[train.tracks[old] == t][:FRAMES] for t in tracks[learnt]])
            new = new[np.unique(train.tracks[new], return_index=True)[1]]
        detector = Detector(alpha=ALPHA, seed=seed)
        detector.fit(train.images[old], tracks=train.tracks[old])
        alarms = detector.predict(train.images[new[:NEW]])
        noise = np.sqrt(ALPHA * (1 - ALPHA) / len(alarms))
        rates.append(alarms.mean())
        print(
            f"{dataset} {scenario}, seed {seed}: {len(old)} learnt from and calibrated with, "
            f"{alarms.sum()} of {len(alarms)} alarm ({noise:.3f})"
        )
    # Each exceeds ALPHA with a probability of at most 0.1 over the draw of calibration pictures.
    assert np.sum(np.array(rates) > ALPHA + 2 * noise) <= 1
    assert np.mean(rates) <= ALPHA + noise
    assert np.mean(rates) > 0.01  # a detector that never alarms keeps every promise


@pytest.mark.parametrize(("dataset", "scenario"), SCENARIOS)
def test_it_tells_anomalies_as_well_as_the_study_did(dataset, scenario):
    table = pd.read_csv(MEASURED)
    chosen = table[(table.dataset == dataset) & (table.scenario == scenario) & (table.seed == 0)]
    (study,) = chosen.auroc[(chosen.method == "Patches") & (chosen.profile == "fast")]
    train, test = load_dataset(dataset)
    normal = get_scenario(dataset, scenario, class_names=train.class_names).normal
    learnt = np.isin(train.labels, normal)
    known = dict(calibration=make_config().calibration, mirror=datasets()[dataset]["mirror"])
    detector = Detector(**known)  # it is told what the study knows
    detector.config = replace(make_config(dataset, scenario), dataset="own images", scenario="ALL")
    detector.fit(train.images[learnt], tracks=train.tracks[learnt])
    found = auroc(detector.score(test.images), ~np.isin(test.labels, normal))
    print(f"{dataset} {scenario}: AUROC {found:.4f}, in the study {study:.4f}")
    assert abs(found - study) < 0.01
