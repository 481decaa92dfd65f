"""ODIN and MSP against the formula, finite differences, and what they must leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from torch import nn

from clad_lib import scoring
from clad_lib.models import ResNet18, Standardise
from clad_lib.training import infer, seeded


@pytest.fixture(scope="module")
def classifier():
    with seeded(0):
        model = ResNet18(1, 16, classes=5, mean=torch.tensor([0.3]), std=torch.tensor([0.25]))
        model(torch.rand(64, 1, 16, 16))  # move the batch-norm statistics away from their start
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(23, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_logit_scores_against_scipy():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 4
    values = logits.double().numpy()
    for temperature in (1, 1000):
        expected = -log_softmax(values / temperature, axis=1).max(1)
        assert np.allclose(scoring.msp(logits, temperature=temperature), expected, rtol=1e-12)
        expected = -temperature * logsumexp(values / temperature, axis=1)
        assert np.allclose(scoring.energy(logits, temperature=temperature), expected, rtol=1e-12)
    assert np.allclose(scoring.max_logit(logits), -values.max(1))


def test_odin_at_temperature_one_without_a_step_is_msp(classifier, images):
    plain = infer(classifier, images, batch_size=256, bf16=True)  # the precision that ODIN computes in
    assert torch.equal(scoring.odin(classifier, images, temperature=1, epsilon=0), scoring.msp(plain))


def test_scores_do_not_depend_on_the_batch(classifier, images):
    whole = scoring.odin(classifier, images, temperature=10, epsilon=0.01, batch_size=23)
    single = scoring.odin(classifier, images, temperature=10, epsilon=0.01, batch_size=1)
    assert np.allclose(whole, single, rtol=1e-5)


def test_uint8_and_unit_images_score_alike(classifier):
    grey = torch.randint(0, 256, (9, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(scoring.odin(classifier, grey), scoring.odin(classifier, grey.float() / 255))


class Smooth(nn.Module):
    """A small network in double precision, so that finite differences are exact enough to compare signs."""

    def __init__(self):
        super().__init__()
        self.standardise = Standardise(torch.tensor([0.4]), torch.tensor([0.2]))
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))

    def forward(self, images):
        return self.body(self.standardise(images))


@pytest.mark.parametrize("temperature", [1.0, 50.0])
def test_the_step_follows_the_gradient_by_finite_differences(temperature):
    with seeded(3):
        model = Smooth().double()
    images = torch.rand(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def log_confidence(x):
        return log_softmax(model(x).detach().numpy() / temperature, axis=1).max(1)

    gradient = np.zeros((3, 16))
    for pixel in range(16):
        nudge = torch.zeros(16, dtype=torch.float64)
        nudge[pixel] = 1e-6
        nudge = nudge.view(1, 1, 4, 4)
        gradient[:, pixel] = (log_confidence(images + nudge) - log_confidence(images - nudge)) / 2e-6
    # x' = x - eps sign(-grad) = x + eps sign(grad)
    moved = images + 0.01 * torch.from_numpy(np.sign(gradient)).view(3, 1, 4, 4)
    ours = scoring.odin(model, images, temperature=temperature, epsilon=0.01)
    assert np.allclose(ours, -log_confidence(moved), rtol=1e-9)
    assert (ours.numpy() < -log_confidence(images)).all()


def test_the_published_factor_is_161_standardised_units():
    with seeded(3):
        model = Smooth().double()
    images = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    published = scoring.odin(model, images, epsilon=1e-4, published_factor=True)
    plain = scoring.odin(model, images, epsilon=1e-4 * 161.3924 * 0.2)
    assert np.allclose(published, plain, rtol=1e-6)


def test_odin_leaves_the_classifier_alone(classifier, images):
    classifier.train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    scoring.odin(classifier, images, epsilon=0.01)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert classifier.training
    classifier.eval()


def test_bad_settings(classifier, images):
    with pytest.raises(ValueError, match="temperature is 0"):
        scoring.odin(classifier, images, temperature=0)
    with pytest.raises(ValueError, match="epsilon is -1"):
        scoring.odin(classifier, images, epsilon=-1)
