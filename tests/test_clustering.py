"""DEC against hand-computed values, its stopping rule, and a cluster that dies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clad_lib import clustering
from clad_lib.clustering import ClusterWarning, fit_dec, kmeans, purity, self_label, soft_assignment, target_distribution
from clad_lib.models import ConvAutoencoder
from clad_lib.training import seeded


def test_soft_assignment_of_three_points_by_hand():
    latents, centroids = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0]])
    # 1 / (1 + d^2): point 0: 1, 1/5; point 1: 1/2, 1/2; point 3: 1/10, 1/2
    expected = torch.tensor([[5 / 6, 1 / 6], [1 / 2, 1 / 2], [1 / 6, 5 / 6]])
    assert torch.allclose(soft_assignment(latents, centroids), expected)


def test_target_of_three_points_by_hand():
    soft = torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.2, 0.8]])
    # f = (1.5, 1.5): row 0 is (0.64, 0.04) / 0.68
    expected = torch.tensor([[16 / 17, 1 / 17], [0.5, 0.5], [1 / 17, 16 / 17]])
    assert torch.allclose(target_distribution(soft), expected)
    # unequal f: f = (1.2, 0.8); row 0 is (0.81 / 1.2, 0.01 / 0.8) normalised
    soft = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    first = (0.81 / 1.2) / (0.81 / 1.2 + 0.01 / 0.8)
    assert target_distribution(soft)[0, 0].item() == pytest.approx(first)


def blobs(count=60, size=8):
    """Dark, bright and striped images: three groups that any autoencoder separates."""
    random = np.random.default_rng(0)
    base = np.zeros((3, size, size))
    base[1], base[2, ::2] = 200, 200
    images = np.repeat(base, count, axis=0) + random.integers(0, 40, (3 * count, size, size))
    return torch.from_numpy(images.astype(np.uint8))[:, None], np.repeat(np.arange(3), count)


def autoencoder(seed=0):
    with seeded(seed):
        return ConvAutoencoder(1, 8, latent=4, mean=torch.tensor([0.4]), std=torch.tensor([0.3]))


def test_dec_finds_three_groups_and_repeats_bit_for_bit():
    images, hidden = blobs()
    one, two = (fit_dec(autoencoder(), images, clusters=3, epochs=4, batch_size=32, inits=3, progress=False) for _ in "ab")
    assert purity(self_label(one).labels, hidden) == 1
    assert np.array_equal(one.soft, two.soft)
    assert np.array_equal(one.losses, two.losses)
    assert one.source == "dec"


def test_dec_stops_when_labels_stand_still():
    images, _ = blobs()
    result = fit_dec(autoencoder(), images, clusters=3, epochs=50, batch_size=32, inits=3, progress=False)
    assert len(result.churn) < 50
    assert result.churn[-1] < 1e-3


def test_the_target_covers_the_whole_training_set(monkeypatch):
    """Every target that training sees has one row an image, whatever the batch size."""
    images, _ = blobs(20)
    rows = []
    whole = clustering.target_distribution
    monkeypatch.setattr(clustering, "target_distribution", lambda soft: rows.append(len(soft)) or whole(soft))
    fit_dec(autoencoder(), images, clusters=3, epochs=2, batch_size=7, inits=1, tolerance=0, progress=False)
    assert set(rows) == {60}


def test_a_dead_cluster_falls_back_to_kmeans(monkeypatch):
    images, _ = blobs()
    starve = torch.tensor([1.0, 1e-9, 1.0])
    monkeypatch.setattr(
        clustering.DEC, "forward", lambda self, x: _renormalise(soft_assignment(self.encode(x), self.centroids) * starve)
    )
    with pytest.warns(ClusterWarning, match="k-means labels are used"):
        result = fit_dec(autoencoder(), images, clusters=3, epochs=1, batch_size=32, inits=3, progress=False)
    assert result.source == "k-means"
    assert set(result.labels) == {0, 1, 2}


def _renormalise(soft):
    return soft / soft.sum(1, keepdim=True)


def test_labels_without_images_drop_out():
    soft = np.array([[0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.7, 0.1, 0.2]])
    result = clustering.Clustering(None, soft.argmax(1), soft, *(np.zeros(1),) * 3)
    labels, confidence = self_label(result)
    assert labels.tolist() == [0, 1, 0]
    assert confidence.tolist() == [0.9, 0.8, 0.7]
    with pytest.raises(ValueError, match="one cluster"):
        self_label(clustering.Clustering(None, np.zeros(3, int), soft, *(np.zeros(1),) * 3))


def test_health_by_hand():
    soft = np.full((4, 2), 0.5)
    soft[:, 0] += 1e-6
    health = clustering.cluster_health(soft)
    assert health.shares.tolist() == [1, 0]
    assert health.dead == (1,)
    assert health.entropy == pytest.approx(1)
    assert clustering.cluster_health(np.eye(3)).entropy == pytest.approx(0, abs=1e-9)


def test_purity_by_hand():
    assert purity(np.array([0, 0, 0, 1]), np.array([5, 5, 7, 7])) == 0.75


def test_bad_latents():
    with pytest.raises(ValueError, match="2 images for 3 clusters"):
        kmeans(np.zeros((2, 2)), clusters=3, inits=1, seed=0)
    with pytest.raises(ValueError, match="NaN"):
        kmeans(np.full((5, 2), np.nan), clusters=3, inits=1, seed=0)
