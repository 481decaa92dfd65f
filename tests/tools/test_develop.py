"""Development scenarios: none of the study's, and the same facts of a data set as in the study."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clad_lib.config import datasets
from clad_lib.data.reading import ImageData
from clad_lib.data.scenarios import get_scenario
from clad_lib.methods.fused import FusedScorer
from clad_lib.methods.patches import fit_patches

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


def test_each_layer_of_patches_is_the_mean_of_its_parts():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 16, 16), generator=generator, dtype=torch.uint8)
    scorer, new = fit_patches(images[:40], centroids=8, clusters=2, layers=2), images[40:]
    parts = torch.stack([*scorer.parts(new).values()])
    wanted = {"": parts, ", first layer": parts[:8], ", second layer": parts[8:]}
    found = develop.layers_of(scorer)
    assert found.keys() == wanted.keys()
    for layer, each in wanted.items():
        torch.testing.assert_close(found[layer](new), each.mean(0), rtol=1e-4, atol=1e-4)
    split = type("Split", (), {"test": new})
    joined = develop.with_layers(split, FusedScorer({"Patches": scorer}, {"Patches": 1.0}))
    assert [*joined] == ["Fused", "Fused, first layer", "Fused, second layer"]
    rank = (found[", second layer"].normals >= found[", second layer"](new)[:, None]).sum(1)
    p_values = (1 + rank) / (1 + len(scorer.normals))
    expected = -torch.log(p_values.double())
    torch.testing.assert_close(joined["Fused, second layer"].double(), expected, atol=1e-5, rtol=0)
    assert develop.layers_of(fit_patches(images[:40], centroids=8, clusters=2)) == {}
