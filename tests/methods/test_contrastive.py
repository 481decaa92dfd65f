"""Contrastive: its crops and its loss by hand, its levels, and what must not change its scores."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.covariance import ShrunkCovariance
from sklearn.datasets import load_digits
from torch.nn.functional import one_hot

from clad_lib.clad.networks import PlainNet
from clad_lib.clad.training import seeded
from clad_lib.config import Settings, make_config
from clad_lib.data.reading import ImageData
from clad_lib.data.scenarios import make_split
from clad_lib.data.split import Scenario
from clad_lib.judge.metrics import auroc
from clad_lib.methods.contrastive import (
    CROPS,
    coding_rate,
    contrastive,
    contrastive_network,
    crops,
    levels,
)
from clad_lib.methods.fused import CONTRASTIVE, fused_photographs
from clad_lib.methods.scorers import NotApplicable, held_out
from clad_lib.study.engine import Study
from clad_lib.study.experiments import expert_parts
from clad_lib.study.stages import Places


@pytest.fixture(scope="module")
def split():
    data = load_digits()
    images = (data.images[:, None] * 255 / 16).round().astype(np.uint8)
    images = images.repeat(2, axis=2).repeat(2, axis=3).repeat(3, axis=1)
    names, tracks = tuple("0123456789"), np.arange(len(images))
    train = ImageData(images[:1300], data.target[:1300], tracks[:1300], names)
    test = ImageData(images[1300:], data.target[1300:], tracks[1300:], names)
    return make_split(train, test, Scenario("digits", "x", "x", (0, 8), mirror=True), seed=0)


SETTINGS = Settings.everything(
    make_config(contrastive_views=CROPS * 4 * 600), device=torch.device("cpu")
)


def scorer_of(split):
    with seeded(0):
        return contrastive(split, SETTINGS, contrastive_network(split, SETTINGS))


@pytest.fixture(scope="module")
def scorer(split):
    return scorer_of(split)


def test_a_crop_of_a_ramp_is_a_shorter_ramp_or_its_mirror_image():
    ramp = torch.linspace(0.1, 0.5, 32).expand(400, 3, 32, 32)
    with seeded(0):
        found = crops(ramp)
    assert found.shape == (400, 3, 24, 24)
    assert found.min() >= 0
    assert found.max() <= 1
    inner = found[..., 1:-1]  # the outermost half pixel of an image is reflected
    assert torch.allclose(inner.diff(dim=3).diff(dim=3), torch.zeros(()), atol=1e-5)
    assert torch.allclose(found.diff(dim=2), torch.zeros(()), atol=1e-6)
    slope = inner.diff(dim=3).mean((1, 2, 3))
    assert 120 < int((slope > 0).sum()) < 280
    whole = 0.4 / 31 * 32 / 24  # of the uncut image, between light 0.6 and 1.4, tint 0.8 and 1.2
    assert slope.abs().max() < whole * 1.4 * 1.2
    assert slope.abs().min() > whole * 0.5 * 0.6 * 0.8


def test_coding_rate_by_hand():
    apart = torch.eye(16)
    assert float(coding_rate(apart)) == pytest.approx(8 * math.log(1 + 25), rel=1e-5)
    same = one_hot(torch.zeros(10, dtype=torch.int64), 16).float()
    assert float(coding_rate(same)) == pytest.approx(math.log(1 + 16 * 25) / 2, rel=1e-5)


def test_the_cells_of_the_last_level_have_the_features_as_their_mean():
    with seeded(0):
        model = PlainNet(3, 32, classes=5).eval()
        images = torch.rand(3, 3, 32, 32)
    found = levels(model, images)
    assert [each.shape[1] for each in found] == [4 * 64, 4 * 128, 4 * 256]
    with torch.no_grad():
        features = model.features(images)
    assert torch.allclose(found[2].view(3, 256, 4).mean(2), features, atol=2e-2)  # bfloat16


def test_a_distance_of_the_last_level_is_that_of_a_shrunk_gaussian(split, scorer):
    """By scikit-learn, whose covariance is shrunk towards the same multiple of the identity."""
    seen = split.train[~held_out(split.train_tracks, seed=0)]
    known, new = (levels(scorer.model, each)[2].numpy() for each in (seen, split.test[:50]))
    wanted = ShrunkCovariance(shrinkage=0.1).fit(known).mahalanobis(new)
    found = scorer.distances(split.test[:50])[:, scorer.names.index("Mahalanobis, level 4")]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-2)


def test_crops_of_an_image_lie_nearer_after_training(split, scorer):
    with seeded(1):
        untrained = PlainNet(3, 16, classes=128)
        images = split.train[held_out(split.train_tracks, seed=0)][:16].float() / 255
        pairs = [crops(images) for _ in range(2)]

    def lead(model):
        with torch.no_grad():
            one, two = (torch.nn.functional.normalize(model.eval()(each)) for each in pairs)
        likeness = one @ two.T
        return float(likeness.diagonal().mean() - likeness.mean())

    assert lead(scorer.model) > 2 * lead(untrained)


def test_its_normals_are_images_the_network_did_not_see(split, scorer):
    held = split.train[held_out(split.train_tracks, seed=0)]
    assert torch.allclose(scorer.normals, scorer(held), atol=1e-4)
    assert len(scorer.parts(held[:2])) == 12


def shuffled(split):
    random = np.random.default_rng(0)
    answers = vars(split.answers).items()
    wrong = replace(split.answers, **{name: random.permutation(each) for name, each in answers})
    return replace(split, answers=wrong)


def study_of(split, place):
    more = dict(profile="smoke", contrastive_views=CROPS * 4 * 60)
    config = make_config("digits", "STR", **more)
    places = Places(place, config, "x")
    return Study(config, split, places, torch.device("cpu"), 1, progress=False)


def test_answers_change_no_bit(split, scorer, tmp_path):
    wrong = shuffled(split)
    assert torch.equal(scorer_of(wrong)(split.test), scorer(split.test))
    places = {tmp_path / "right": split, tmp_path / "wrong": wrong}
    found = [study_of(each, to).fit("FusedPhotographs") for to, each in places.items()]
    assert torch.equal(*(each(split.test) for each in found))
    assert len(np.unique(found[0](split.test))) > 100


def test_three_experts_taken_apart(split, tmp_path):
    study = study_of(split, tmp_path)
    table = expert_parts(study, method="FusedPhotographs")
    whole = table.loc["FusedPhotographs"]
    assert list(whole.index) == [
        "scores added", "equal weights", "without Patches", "without Rotation",
        "without Contrastive", "as it is",
    ]  # fmt: skip
    expected = {"as it is": "FusedPhotographs", "without Contrastive": "Fused"}
    for part, method in expected.items():
        values = study.fit(method)(split.test)
        assert whole.auroc[part] == pytest.approx(auroc(values, split.answers.test_anomaly))
    assert list(table.index.unique(0)) == [
        "Patches", "Rotation", "Contrastive", "FusedPhotographs"
    ]  # fmt: skip
    assert whole.lead["as it is"] == 0


def test_only_for_images_that_may_be_mirrored(split):
    plain = replace(split, scenario=replace(split.scenario, mirror=False))
    with pytest.raises(NotApplicable, match="mirror is False"):
        contrastive_network(plain, SETTINGS)


def test_fused_with_it_is_the_sum_of_three(split, scorer):
    normals = torch.linspace(0, 1, 50)
    expert = SimpleNamespace(normals=normals, accuracy=1.0)
    settings = SimpleNamespace(rotation_weight=2.0, trust_power=1.0)
    joined = fused_photographs(split, settings, expert, expert, scorer)
    assert joined.weights == {"Patches": 1.0, "Rotation": 2.0, "Contrastive": CONTRASTIVE}
    scores = [np.array([0.5]), np.array([0.9]), np.array([1e9])]
    p_values = [26 / 51, 6 / 51, 1 / (len(scorer.normals) + 1)]
    wanted = (
        -math.log(p_values[0]) - 2 * math.log(p_values[1]) - CONTRASTIVE * math.log(p_values[2])
    )
    assert float(joined.join(scores)) == pytest.approx(wanted, abs=1e-5)
