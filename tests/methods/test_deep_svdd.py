"""Deep SVDD: its sphere, its centre and its collapse, by hand and by injected faults."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clad_lib.clad.training import TrainingError
from clad_lib.config import Settings, make_config
from clad_lib.data.reading import load_dataset
from clad_lib.judge.metrics import auroc
from clad_lib.methods import deep_svdd
from clad_lib.methods.scorers import NotApplicable


def fit(images, *, objective="soft", nu=0.1, epochs=2, seed=0):
    """As a method, with the same number of epochs in both trainings."""
    settings = SimpleNamespace(
        nu=nu,
        deep_objective=objective,
        deep_pretraining=epochs,
        deep_training=epochs,
        deep_min_steps=0,
        seed=seed,
        device=None,
        progress=False,
    )
    return deep_svdd.deep_svdd(SimpleNamespace(train=images), settings)


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(deep_svdd, "RATE", 1e-3)


@pytest.fixture(scope="module")
def zeros():
    """Training images of the digit 0, test images of all, and which of these are another digit."""
    train, test = load_dataset("digits")
    normal = torch.from_numpy(train.images[train.labels == 0])
    return normal, torch.from_numpy(test.images), test.labels != 0


def network_of(scorer):
    return scorer.score.args[0]


@pytest.fixture(scope="module")
def hard(zeros):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deep_svdd, "RATE", 1e-3)
        return fit(zeros[0], objective="hard", epochs=20)


def test_it_finds_other_digits(zeros, hard):
    assert auroc(hard(zeros[1]).numpy(), zeros[2]) > 0.9


def test_there_is_no_bias_and_the_centre_is_away_from_zero(hard):
    names = [name for name, _ in network_of(hard).named_parameters()]
    assert names
    assert not [name for name in names if "bias" in name]
    assert (network_of(hard).centre.abs() >= 0.1 - 1e-6).all()


def test_scores_are_distances_to_the_centre(zeros, hard):
    network = network_of(hard)
    with torch.no_grad():
        outputs = network.embed(zeros[1].float() / 255)
    expected = (outputs - network.centre).square().sum(1)
    assert np.allclose(hard(zeros[1]), expected, rtol=1e-3, atol=1e-5)


def test_the_soft_radius_is_the_quantile_of_the_distances(zeros, fast):
    scorer = fit(zeros[0], objective="soft", nu=0.2, epochs=20)
    outside = float((scorer(zeros[0]) > 0).double().mean())
    assert abs(outside - 0.2) <= 1 / len(zeros[0]) + 1e-6
    assert network_of(scorer).squared_radius > 0


def test_a_centre_near_zero_is_moved_away_with_its_sign():
    outputs = torch.tensor([[0.05, -0.01, 0.0, 2.0], [0.01, -0.05, 0.0, 1.0]])
    assert torch.allclose(deep_svdd.centre_of(outputs), torch.tensor([0.1, -0.1, 0.1, 1.5]))


def test_a_collapsed_sphere_is_an_error_and_not_a_result():
    with pytest.raises(TrainingError, match="collapsed"):
        deep_svdd.check_spread(torch.ones(50, 8), torch.ones(8))
    same = torch.full((60, 1, 8, 8), 100, dtype=torch.uint8)
    with pytest.raises(TrainingError, match="collapsed"):
        fit(same)


def test_contrast_is_normalised_to_mean_absolute_deviation_one(zeros):
    images = deep_svdd.contrast_normalise(
        torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    )
    assert torch.allclose(images.mean((1, 2, 3)), torch.zeros(5), atol=1e-6)
    assert torch.allclose(images.abs().mean((1, 2, 3)), torch.ones(5), atol=1e-5)
    network = deep_svdd.DeepSVDDNetwork(zeros[0], widths=(8, 4), latent=4)
    prepared = network.prepare(zeros[0].float() / 255)
    assert np.isclose(prepared.min().item(), 0, atol=1e-6)
    assert np.isclose(prepared.max().item(), 1, atol=1e-6)


def test_the_decoder_gives_images_of_the_same_shape_back():
    for images in (torch.rand(3, 1, 8, 8), torch.rand(3, 3, 16, 16)):
        network = deep_svdd.DeepSVDDNetwork(images, widths=(8, 4), latent=5)
        decoded = network.decoder(network.embed(images))
        assert decoded.shape == images.shape
        assert 0 <= decoded.min() <= decoded.max() <= 1


def test_the_same_seed_gives_the_same_finite_score_an_image(zeros):
    one, two, other = (fit(zeros[0], seed=k)(zeros[1]) for k in (5, 5, 6))
    assert one.shape == (len(zeros[1]),)
    assert torch.isfinite(one).all()
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_third_of_the_epochs_is_at_a_tenth_of_the_rate(zeros, monkeypatch):
    seen = []
    real = deep_svdd.fit

    def spy(network, loss, images, **settings):
        seen.append((settings["epochs"], settings["lr"], settings["seed"]))
        return real(network, loss, images, **settings | {"epochs": 1})

    monkeypatch.setattr(deep_svdd, "fit", spy)
    config = make_config("digits", "CUR", profile="smoke", deep_pretraining=9, deep_training=3)
    split = type("Split", (), {"train": zeros[0]})
    reads = ("nu", "deep_objective", "deep_pretraining", "deep_training", "deep_min_steps")
    deep_svdd.deep_svdd(split, Settings(config, reads, progress=False))
    # 3 epochs of one batch are fewer than deep_min_steps = 4
    assert seen == [(6, 1e-4, 0), (3, 1e-5, 1), (3, 1e-4, 2), (1, 1e-5, 3)]


def test_bad_input_is_named_with_the_cure(zeros):
    train = zeros[0]
    broken = train.float() / 255
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        fit(broken)
    with pytest.raises(ValueError, match="multiple of 4"):
        fit(torch.zeros(9, 1, 18, 18))
    with pytest.raises(ValueError, match="square"):
        fit(torch.zeros(9, 1, 8, 16))
    with pytest.raises(NotApplicable, match="expected 2 or more"):
        fit(train[:1])
    scorer = fit(train)
    with pytest.raises(ValueError, match="resize"):
        scorer(torch.zeros(2, 1, 8, 8))
