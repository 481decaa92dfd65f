"""Fused: p-values and their sum by brute force, and the rule of its weights."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from sklearn.datasets import load_digits

from clad_lib import make_config, open_study
from clad_lib.clad.training import seeded
from clad_lib.config import Settings
from clad_lib.data.reading import ImageData
from clad_lib.data.scenarios import make_split
from clad_lib.data.split import Scenario
from clad_lib.judge.metrics import auroc
from clad_lib.methods.contrastive import contrastive, contrastive_network
from clad_lib.methods.fused import FusedScorer, fused, fused_photographs, trust
from clad_lib.methods.patches import patches
from clad_lib.methods.rotation import rotation, rotation_network
from clad_lib.study.experiments import expert_parts


class Expert:
    """An expert whose score is the first pixel."""

    def __init__(self, normals):
        self.normals = torch.as_tensor(normals, dtype=torch.float32)

    def __call__(self, images):
        return images[:, 0, 0, 0]


def images_of(values) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


def test_the_sum_by_brute_force():
    random = np.random.default_rng(0)
    normals = {"a": random.normal(size=50), "b": random.normal(size=20)}
    values, weights = random.normal(size=30), {"a": 1.0, "b": 0.4}
    scorer = FusedScorer({name: Expert(each) for name, each in normals.items()}, weights)
    by_hand = [
        -sum(
            weights[name] * np.log((1 + sum(n >= v for n in each)) / (len(each) + 1))
            for name, each in normals.items()
        )
        for v in values
    ]
    np.testing.assert_allclose(scorer(images_of(values)), by_hand, rtol=1e-5)


def test_p_values_are_uniform_on_fresh_normals():
    random = np.random.default_rng(1)
    scorer = FusedScorer({"a": Expert(random.normal(size=4000))}, {"a": 1.0})
    p_values = scorer.p_values([random.normal(size=1000)])["a"]
    assert kstest(p_values, "uniform").pvalue > 0.01


@pytest.mark.parametrize("mirror", [False, True])
def test_p_values_of_fitted_experts_are_uniform_on_images_kept_out_of_them(mirror):
    data = load_digits()
    images = (data.images[:, None] * 255 / 16).round().astype(np.uint8)
    images = images.repeat(2, axis=2).repeat(2, axis=3)
    random = np.random.default_rng(0).permutation(len(images))  # writers mixed
    names, tracks = tuple("0123456789"), np.arange(len(images))
    train, fresh = (
        ImageData(images[rows], data.target[rows], tracks[: len(rows)], names)
        for rows in (random[:1300], random[1300:])
    )
    scenario = Scenario("digits", "x", "x", tuple(range(9)), mirror=mirror)
    split = make_split(train, fresh, scenario, seed=0)
    sizes = dict(rotation_views=8000, patch_features=256, contrastive_views=8000)
    settings = Settings.everything(make_config(**sizes), device=torch.device("cpu"))
    with seeded(0):
        turning = rotation(split, settings, rotation_network(split, settings))
        experts = patches(split, settings), turning
        scorer = fused(split, settings, *experts)
        if mirror:
            third = contrastive(split, settings, contrastive_network(split, settings))
            scorer = fused_photographs(split, settings, *experts, third)
    normal = split.test[~split.answers.test_anomaly]
    scores = [expert(normal) for expert in scorer.experts.values()]
    known = scorer.p_values([expert.normals for expert in scorer.experts.values()])
    for name, p_values in scorer.p_values(scores).items():
        apart = kstest(p_values, "uniform").statistic
        noise = 1.63 / np.sqrt(len(p_values)) + 1.63 / np.sqrt(len(scorer.experts[name].normals))
        assert apart < noise, name  # 1.63: of a hundred such statistics, one is larger
        assert ks_2samp(known[name], p_values).pvalue > 0.01, name


def test_an_expert_of_weight_zero_says_nothing():
    normals, values = torch.linspace(-1, 1, 30), images_of([0.5, -0.2, 3.0])
    both = FusedScorer({"a": Expert(normals), "b": Expert(-(normals**2))}, {"a": 1.0, "b": 0.0})
    alone = FusedScorer({"a": Expert(normals)}, {"a": 1.0})
    assert torch.equal(both(values), alone(values))


def test_trust_is_nothing_at_a_quarter_and_one_at_the_top():
    assert trust(0.25) == trust(0.1) == 0
    assert trust(1.0) == pytest.approx(1)
    assert trust(0.625) == pytest.approx(0.5)


def test_weight_of_rotation_is_its_setting_times_a_power_of_its_trust():
    experts = Expert([0.0]), Expert([0.0])
    experts[1].accuracy = 0.625  # half way from chance to the top
    for power, weight in ((1.0, 4.0), (2.0, 2.0)):
        settings = SimpleNamespace(rotation_weight=8.0, trust_power=power)
        assert fused(None, settings, *experts).weights == {"Patches": 1.0, "Rotation": weight}


def test_scores_joined_are_the_scores_of_the_images():
    normals, values = torch.linspace(-1, 1, 30), images_of([0.5, -0.2, 3.0])
    experts = {"a": Expert(normals), "b": Expert(normals / 2)}
    scorer = FusedScorer(experts, {"a": 1.0, "b": 0.3})
    joined = scorer.join([expert(values).double().numpy() for expert in experts.values()])
    assert torch.equal(joined, scorer(values))


def test_fused_taken_apart_agrees_with_the_methods_of_the_study(tmp_path):
    config = make_config("digits", "STR", profile="smoke")
    study = open_study(config, runs=tmp_path, device="cpu", progress=False)
    table, anomaly = expert_parts(study), study.split.answers.test_anomaly
    tested = {name: study[name].test for name in ("Patches", "Rotation", "Fused")}
    for name, part in (("Patches", "together"), ("Rotation", "together"), ("Fused", "as it is")):
        assert table.auroc[name, part] == pytest.approx(study[name].metrics["auroc"], abs=1e-6)
    assert table.auroc["Fused", "scores added"] == pytest.approx(
        auroc(tested["Patches"] + tested["Rotation"], anomaly), abs=1e-6
    )
    normals = {name: study.fit(name).normals.numpy() for name in ("Patches", "Rotation")}
    p_values = [
        (1 + (normals[name] >= tested[name][:, None]).sum(1)) / (len(normals[name]) + 1)
        for name in normals
    ]
    equal = auroc(-np.log(p_values[0] * p_values[1]), anomaly)
    assert table.auroc["Fused", "equal weights"] == pytest.approx(equal, abs=1e-6)
    assert len(table.loc["Patches"]) == 2 * 4 + 1
    assert len(table.loc["Rotation"]) == 2 + 1
    assert table.lead.to_numpy() == pytest.approx(table.auroc["Fused", "as it is"] - table.auroc)
    assert (table.low <= table.lead).all()
    assert (table.lead <= table.high).all()
