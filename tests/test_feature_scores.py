"""kNN, Mahalanobis, ViM, energy and the rest from cached outputs, against pytorch-ood and against hand values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood import detector
from torch import nn

from clad_lib import scoring
from clad_lib.models import ResNet18
from clad_lib.training import infer, seeded


@pytest.fixture(scope="module")
def cloud():
    """Features of four classes with unequal spread, test features, and a last layer."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (600,), generator=random)
    scale = torch.linspace(0.3, 2, 24)
    centres = 3 * torch.randn(4, 24, generator=random)
    known = centres[labels] + scale * torch.randn(600, 24, generator=random)
    new = torch.cat([centres[:2] + scale * torch.randn(2, 24, generator=random), 4 * torch.randn(60, 24, generator=random)])
    with seeded(1):
        head = nn.Linear(24, 4)
    return known, labels, new, head


def outputs_of(features, head):
    return scoring.Outputs(head(features).detach(), features)


@pytest.mark.parametrize("k", [1, 7, 50])
def test_knn_against_pytorch_ood(cloud, k):
    known, labels, new, _ = cloud
    other = detector.KNN(None, k=k).fit_features(known, labels).predict_features(new)
    assert np.allclose(scoring.knn(new, known, k=k), other, atol=1e-5)


def test_knn_against_a_sorted_matrix_and_with_few_images(cloud):
    known, _, new, _ = cloud
    unit = [(part / part.norm(dim=1, keepdim=True)).double().numpy() for part in (new, known)]
    distances = np.sort(np.linalg.norm(unit[0][:, None] - unit[1][None], axis=2), axis=1)
    assert np.allclose(scoring.knn(new, known, k=3), distances[:, 2], atol=1e-5)
    assert np.allclose(scoring.knn(new, known[:2], k=50).shape, len(new))


def test_mahalanobis_against_pytorch_ood(cloud):
    known, labels, new, _ = cloud
    other = detector.Mahalanobis(None).fit_features(known, labels).predict_features(new)
    ours = scoring.mahalanobis(new, known, labels)  # theirs: half the distance, scatter in place of covariance
    assert np.allclose(ours, 2 * len(known) * other, rtol=1e-4)


def test_relative_mahalanobis_against_pytorch_ood(cloud):
    known, labels, new, _ = cloud
    other = detector.RMD(None).fit_features(known, labels).predict_features(new)
    assert np.allclose(scoring.mahalanobis(new, known, labels, relative=True), len(known) * other, rtol=1e-3, atol=1e-3)


def test_vim_against_pytorch_ood(cloud):
    known, labels, new, head = cloud
    other = detector.ViM(None, 10, head.weight.detach(), head.bias.detach()).fit_features(known, labels)
    ours = scoring.vim(outputs_of(new, head), outputs_of(known, head), head, principal=10)
    assert np.allclose(ours, other.predict_features(new).detach(), rtol=1e-3, atol=1e-3)


def test_logit_scores_against_pytorch_ood(cloud):
    _, _, new, head = cloud
    logits = head(new).detach()
    energy = detector.EnergyBased(None).predict_logits(logits)
    assert np.allclose(scoring.energy(logits), energy, rtol=1e-5, atol=1e-5)
    assert np.allclose(torch.exp(-scoring.msp(logits)), -detector.MaxSoftmax(None).predict_logits(logits), atol=1e-6)
    assert np.allclose(scoring.max_logit(logits), detector.MaxLogit(None).predict_logits(logits), atol=1e-6)


def test_rank_average_by_hand():
    reference = {"a": np.array([1.0, 2, 3, 4]), "b": np.array([10.0, 10, 20, 30])}
    scores = {"a": np.array([0.0, 2, 9]), "b": np.array([10.0, 25, 99])}
    assert np.allclose(scoring.rank_average(scores, reference), [(0 + 0.25) / 2, (0.375 + 0.75) / 2, 1.0])


def test_one_pass_gives_the_logits_of_the_classifier():
    with seeded(0):
        model = ResNet18(1, 16, classes=3, mean=torch.tensor([0.3]), std=torch.tensor([0.25])).eval()
    images = torch.randint(0, 256, (40, 1, 16, 16), dtype=torch.uint8)
    both = scoring.outputs(model, images)
    assert torch.equal(both.logits, infer(model, images, batch_size=256, bf16=True))
    assert both.features.shape == (40, 512)


def test_the_grid_is_odin_at_each_point():
    with seeded(0):
        model = ResNet18(1, 16, classes=3, mean=torch.tensor([0.3]), std=torch.tensor([0.25])).eval()
    images = torch.rand(20, 1, 16, 16)
    grid = scoring.odin_grid(model, images, temperatures=(1, 1000), epsilons=(0, 0.01))
    for i, temperature in enumerate((1, 1000)):
        for j, epsilon in enumerate((0, 0.01)):
            one = scoring.odin(model, images, temperature=temperature, epsilon=epsilon)
            assert np.allclose(grid[i, j], one, rtol=1e-9)


def test_bad_input_is_named(cloud):
    known, labels, new, head = cloud
    broken = new.clone()
    broken[0, 0] = float("nan")
    with pytest.raises(ValueError, match="expected finite numbers"):
        scoring.knn(broken, known)
    with pytest.raises(ValueError, match="expected finite numbers"):
        scoring.vim(outputs_of(broken, head), outputs_of(known, head), head)
    with pytest.raises(ValueError, match="one label a feature"):
        scoring.mahalanobis(new, known, labels[:-1])
    with pytest.raises(ValueError, match="principal is 24"):
        scoring.vim(outputs_of(new, head), outputs_of(known, head), head, principal=24)
    with pytest.raises(ValueError, match="no reference scores for a"):
        scoring.rank_average({"a": np.ones(2)}, {"a": np.ones(0)})
    with pytest.raises(ValueError, match="one for each score"):
        scoring.rank_average({"a": np.ones(2)}, {"b": np.ones(1)})


def test_features_without_variance_are_no_error(cloud):
    known, labels, new, _ = cloud
    flat, tested = known.clone(), new.clone()
    flat[:, 3], tested[:, 3] = 1.0, 1.0
    assert torch.isfinite(scoring.mahalanobis(tested, flat, labels)).all()
    assert torch.isfinite(scoring.mahalanobis(flat[:1], flat[:1], labels[:1])).all()
