"""Scores from logits and features, against pytorch-ood, scipy and hand values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood import detector
from scipy.special import log_softmax, logsumexp
from torch import nn

from clad_lib.clad import posthoc
from clad_lib.clad.posthoc import Outputs
from clad_lib.clad.training import seeded


@pytest.fixture(scope="module")
def cloud():
    """Features of four classes with unequal spread, test features, and a last layer."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (600,), generator=random)
    scale = torch.linspace(0.3, 2, 24)
    centres = 3 * torch.randn(4, 24, generator=random)
    known = centres[labels] + scale * torch.randn(600, 24, generator=random)
    near = centres[:2] + scale * torch.randn(2, 24, generator=random)
    new = torch.cat([near, 4 * torch.randn(60, 24, generator=random)])
    with seeded(1):
        head = nn.Linear(24, 4)
    return known, labels, new, head


def outputs_of(features, head):
    return Outputs(head(features).detach(), features)


@pytest.mark.parametrize("k", [1, 7, 50])
def test_knn_against_pytorch_ood(cloud, k):
    known, labels, new, _ = cloud
    other = detector.KNN(None, k=k).fit_features(known, labels).predict_features(new)
    assert np.allclose(posthoc.knn(new, known, k=k), other, atol=1e-5)


def test_knn_against_a_sorted_matrix_and_with_few_images(cloud):
    known, _, new, _ = cloud
    unit = [(part / part.norm(dim=1, keepdim=True)).double().numpy() for part in (new, known)]
    distances = np.sort(np.linalg.norm(unit[0][:, None] - unit[1][None], axis=2), axis=1)
    assert np.allclose(posthoc.knn(new, known, k=3), distances[:, 2], atol=1e-5)
    assert np.allclose(posthoc.knn(new, known), distances[:, 0], atol=1e-5)
    few = np.linalg.norm(unit[0][:, None] - unit[1][None, :2], axis=2).max(1)
    assert np.allclose(posthoc.knn(new, known[:2], k=50), few, atol=1e-5)


def test_mahalanobis_against_pytorch_ood(cloud):
    known, labels, new, _ = cloud
    other = detector.Mahalanobis(None).fit_features(known, labels).predict_features(new)
    ours = posthoc.mahalanobis(new, known, labels)
    # theirs: half the distance, scatter in place of covariance
    assert np.allclose(ours, 2 * len(known) * other, rtol=1e-4)


def test_relative_mahalanobis_against_pytorch_ood(cloud):
    known, labels, new, _ = cloud
    other = detector.RMD(None).fit_features(known, labels).predict_features(new)
    ours = posthoc.mahalanobis(new, known, labels, relative=True)
    assert np.allclose(ours, len(known) * other, rtol=1e-3, atol=1e-3)


def test_vim_against_pytorch_ood(cloud):
    known, labels, new, head = cloud
    other = detector.ViM(None, 12, head.weight.detach(), head.bias.detach())
    other.fit_features(known, labels)
    ours = posthoc.vim(outputs_of(new, head), outputs_of(known, head), head)
    theirs = other.predict_features(new).detach()
    assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_logit_scores_against_pytorch_ood(cloud):
    _, _, new, head = cloud
    logits = head(new).detach()
    energy = detector.EnergyBased(None).predict_logits(logits)
    assert np.allclose(posthoc.energy(logits), energy, rtol=1e-5, atol=1e-5)
    msp = detector.MaxSoftmax(None).predict_logits(logits)
    assert np.allclose(torch.exp(-posthoc.msp(logits)), -msp, atol=1e-6)
    largest = detector.MaxLogit(None).predict_logits(logits)
    assert np.allclose(posthoc.max_logit(logits), largest, atol=1e-6)


def test_logit_scores_against_scipy():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 4
    values = logits.double().numpy()
    for temperature in (1, 1000):
        expected = -log_softmax(values / temperature, axis=1).max(1)
        assert np.allclose(posthoc.msp(logits, temperature=temperature), expected, rtol=1e-12)
        expected = -temperature * logsumexp(values / temperature, axis=1)
        assert np.allclose(posthoc.energy(logits, temperature=temperature), expected, rtol=1e-12)
    assert np.allclose(posthoc.max_logit(logits), -values.max(1))
    with pytest.raises(ValueError, match="temperature is 0"):
        posthoc.msp(logits, temperature=0)


def test_bad_features_are_named(cloud):
    known, labels, new, head = cloud
    broken = new.clone()
    broken[0, 0] = float("nan")
    with pytest.raises(ValueError, match="expected finite numbers"):
        posthoc.knn(broken, known)
    with pytest.raises(ValueError, match="expected finite numbers"):
        posthoc.mahalanobis(new[:0], known, labels)
    with pytest.raises(ValueError, match="expected finite numbers"):
        posthoc.vim(outputs_of(broken, head), outputs_of(known, head), head)


def test_features_without_variance_are_no_error(cloud):
    known, labels, new, _ = cloud
    flat, tested = known.clone(), new.clone()
    flat[:, 3], tested[:, 3] = 1.0, 1.0
    assert torch.isfinite(posthoc.mahalanobis(tested, flat, labels)).all()
    assert torch.isfinite(posthoc.mahalanobis(flat[:1], flat[:1], labels[:1])).all()


def test_features_kept_in_half_precision_score_as_their_float32_values(cloud):
    known, labels, new, head = cloud
    half, full = ([part.half(), part.half().float()] for part in (known, new))
    half, full = (half[0], full[0]), (half[1], full[1])
    for score in (
        lambda z, x: posthoc.knn(z, x),
        lambda z, x: posthoc.mahalanobis(z, x, labels, relative=True),
        lambda z, x: posthoc.vim(Outputs(head(full[1][:62]).detach(), z), Outputs(known, x), head),
    ):
        assert torch.equal(score(half[1], half[0]), score(full[1], full[0]))
