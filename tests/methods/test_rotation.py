"""Rotation: its views, what it holds out, its budget, and what must not change its scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from clad_lib.clad.networks import PlainNet
from clad_lib.clad.training import seeded
from clad_lib.config import Settings, make_config
from clad_lib.data.reading import ImageData
from clad_lib.data.scenarios import make_split
from clad_lib.data.split import Scenario
from clad_lib.methods import rotation as module
from clad_lib.methods.rotation import rotation, rotation_network, views
from clad_lib.methods.scorers import NotApplicable, held_out, turned

VIEWS = 4000


@pytest.fixture(scope="module")
def split():
    data = load_digits()
    images = (data.images[:, None] * 255 / 16).round().astype(np.uint8)
    images = images.repeat(2, axis=2).repeat(2, axis=3)
    names = tuple("0123456789")
    tracks = np.arange(len(images))
    train = ImageData(images[:1300], data.target[:1300], tracks[:1300], names)
    test = ImageData(images[1300:], data.target[1300:], tracks[1300:], names)
    return make_split(train, test, Scenario("digits", "x", "x", (4, 7)), seed=0)


def settings_with(**more) -> Settings:
    return Settings.everything(make_config(**more), device=torch.device("cpu"))


def trained(split, seed: int = 0, **more):
    settings = settings_with(seed=seed, **more)
    with seeded(seed):
        return rotation_network(split, settings), settings


@pytest.fixture(scope="module")
def network(split):
    return trained(split, rotation_views=VIEWS)[0]


@pytest.fixture(scope="module")
def scorer(split, network):
    return rotation(split, settings_with(), network)


def test_turns_tell_nothing_of_images_that_may_be_turned(split):
    table = replace(split, scenario=replace(split.scenario, turnable=True))
    with pytest.raises(NotApplicable, match="use Patches"):
        rotation_network(table, settings_with())


def test_four_turns_one_after_the_other():
    images = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4)
    four = turned(images).view(4, 2, 3, 4, 4)
    assert torch.equal(four[0], images)
    assert torch.equal(four[2], images.flip(2, 3))
    assert torch.equal(four[1].transpose(2, 3).flip(3), images)  # turned back by hand
    assert torch.equal(turned(four[3])[2:4], images)


def test_whole_tracks_are_held_out():
    tracks = np.repeat(np.arange(40), 5)
    held = held_out(tracks, seed=0).numpy()
    assert held.sum() == 20
    assert not set(tracks[held]) & set(tracks[~held])
    assert held_out(np.array([7, 7, 8]), seed=0).sum() in (1, 2)
    assert not np.array_equal(held, held_out(tracks, seed=1).numpy())


def test_views_are_those_of_each_turn_alone():
    with seeded(0):
        model = PlainNet(1, 16, classes=12).eval()
    images = torch.rand(3, 1, 16, 16)
    seen = views(model, images)
    with torch.no_grad():
        for turn in range(4):
            batch = torch.stack([torch.rot90(image, turn, (1, 2)) for image in images])
            shares = model(batch).softmax(1)
            right = sum(shares[:, 4 * cluster + turn] for cluster in range(3))
            torch.testing.assert_close(seen[:, turn], right.log(), rtol=0.05, atol=0.05)
        features = [model.features(torch.rot90(images, turn, (2, 3))) for turn in range(4)]
    units = torch.cat([each / each.norm(dim=1, keepdim=True) for each in features], 1)
    torch.testing.assert_close(seen[:, 4:], units, rtol=0.05, atol=0.01)


def test_the_budget_is_a_number_of_views(split, network):
    kept = int((~held_out(split.train_tracks, seed=0)).sum())
    assert len(network.losses) == round(VIEWS / (4 * kept)) > 1
    few, _ = trained(split, rotation_views=400)  # fewer than one epoch of four views
    assert len(few.losses) == 1


def test_a_large_budget_takes_large_steps(split, monkeypatch):
    assert make_config(profile="best").rotation_views >= max(module.BATCHES)
    assert make_config().rotation_views < max(module.BATCHES)
    monkeypatch.setattr(module, "BATCHES", {0: 128, 900: 512})
    for views_asked, largest in ((800, 128), (1000, 512)):
        seen = []
        with monkeypatch.context() as patch:
            forward = PlainNet.forward
            patch.setattr(
                PlainNet,
                "forward",
                lambda self, images, f=forward, s=seen: (s.append(len(images)), f(self, images))[1],
            )
            trained(split, rotation_views=views_asked, rotation_labels="none")
        assert max(seen) == largest


def test_trust_is_that_of_a_short_training_however_long_the_network_is_trained(split, network):
    long = settings_with(rotation_views=VIEWS, trust_views=400)
    few, short = trained(split, rotation_views=400)
    with seeded(0):
        found = rotation(split, long, network)
    assert found.accuracy == rotation(split, short, few).accuracy < 0.7
    assert torch.equal(found.known, rotation(split, settings_with(), network).known)


def test_without_labels_it_names_the_turn_alone(split, network):
    plain, _ = trained(split, rotation_views=400, rotation_labels="none")
    assert plain.model.head.out_features == 4
    assert network.model.head.out_features == 4 * make_config().clusters


def test_turns_of_held_out_normals_are_told_and_anomalies_are_not(split, scorer):
    assert scorer.accuracy > 0.7
    scores, anomaly = scorer(split.test).numpy(), split.answers.test_anomaly
    assert (scores[anomaly][:, None] > scores[~anomaly]).mean() > 0.75
    assert set(scorer.parts(split.test[:5])) == {"turn", "nearest neighbours"}


def test_what_is_remembered_is_drawn_from_the_whole_file(split, network, monkeypatch):
    held = held_out(split.train_tracks, seed=0)
    monkeypatch.setattr(module, "REMEMBERED", 40)
    known = rotation(split, settings_with(), network).known
    all_of_them = views(network.model, split.train[~held])[:, 4:]
    places = [int((all_of_them - one).abs().sum(1).argmin()) for one in known]
    assert len(set(places)) == 40
    assert max(places) > len(all_of_them) // 2  # not the first of a file that is sorted by class


def test_normals_are_the_images_held_out(split, scorer):
    held = held_out(split.train_tracks, seed=0)
    torch.testing.assert_close(scorer(split.train[held]), scorer.normals)


def test_an_image_upside_down_is_anomalous(split, scorer):
    images = split.test[~split.answers.test_anomaly]
    upright, over = (scorer.parts(each)["turn"] for each in (images, images.flip(2, 3)))
    assert (over > upright).float().mean() > 0.8


def test_hidden_classes_change_nothing(split):
    other = replace(
        split, answers=replace(split.answers, train_class=split.answers.train_class[::-1])
    )
    networks = [trained(each, rotation_views=200)[0] for each in (split, other)]
    one, two = (network.model.state_dict() for network in networks)
    assert all(torch.equal(one[name], two[name]) for name in one)
