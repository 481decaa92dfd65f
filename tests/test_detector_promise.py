"""The promise of a detector on real pictures: normal classes, new ones of the same population."""

import os

import numpy as np
import pytest

from clad_lib.data.reading import load_dataset
from clad_lib.data.scenarios import get_scenario
from clad_lib.detector import Detector

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("CLAD_DATA" not in os.environ, reason="needs the files of CLAD_DATA"),
]
LEARNT, NEW, FRAMES, ALPHA = 600, 1000, 4, 0.1


@pytest.mark.parametrize(
    ("dataset", "scenario"), [("mnist", "CUR"), ("cifar10", "THG"), ("gtsrb", "SPDL")]
)
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
