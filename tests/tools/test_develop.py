"""Development scenarios: none of the study's, and the same facts of a data set as in the study."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from clad_lib.config import datasets
from clad_lib.data.reading import ImageData
from clad_lib.data.scenarios import get_scenario

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import develop


@pytest.mark.parametrize("dataset", develop.DATASETS)
def test_three_groupings_of_which_none_is_a_scenario_of_the_study(dataset):
    found = develop.groupings(dataset)
    known = [tuple(row["normal"]) for row in datasets()[dataset]["scenarios"].values()]
    assert len({*found}) == 3
    assert not {*found} & {*known}
    assert found == develop.groupings(dataset)


@pytest.mark.parametrize("dataset", develop.DATASETS)
def test_the_split_has_the_facts_of_the_study_and_training_images_alone(dataset, monkeypatch):
    random = np.random.default_rng(0)
    names = tuple(datasets()[dataset]["classes"])
    images = random.integers(0, 256, (800, 3, 8, 8), dtype=np.uint8)
    train = ImageData(images, np.arange(800) % len(names), np.arange(800) // 2, names)
    monkeypatch.setattr(develop, "load_dataset", lambda name: (train, None))
    normal = develop.groupings(dataset)[0]
    split = develop.development_split(dataset, normal, max_train=300, max_test=300)
    scenario = next(iter(datasets()[dataset]["scenarios"]))
    assert split.scenario.mirror == get_scenario(dataset, scenario).mirror
    shown = {each.tobytes() for each in split.train.numpy()}
    assert not shown & {each.tobytes() for each in split.test.numpy()}
    assert set(np.unique(split.answers.train_class)) <= set(normal)
