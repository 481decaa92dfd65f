"""DEC against hand-computed values, its stopping rule, and a cluster that dies."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from clad_lib.clad import dec
from clad_lib.clad.dec import (
    cluster_health,
    clusters,
    kmeans,
    purity,
    soft_assignment,
    target_distribution,
)
from clad_lib.clad.networks import ConvAutoencoder, Trained
from clad_lib.clad.training import infer, seeded
from clad_lib.config import Settings, make_config


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


def autoencoder(seed=0, **shape):
    with seeded(seed):
        statistics = dict(mean=torch.tensor([0.4]), std=torch.tensor([0.3]))
        return ConvAutoencoder(1, 8, latent=4, **shape, **statistics)


def fit_dec(model, images, **settings):
    """The stage with settings under their short names."""
    options = dict(epochs=4, batch=32, lr=0.01, optimizer="sgd", tolerance=1e-3) | settings
    renamed = {f"dec_{name}": options.pop(name) for name in "epochs batch lr optimizer".split()}
    renamed["dec_tolerance"] = options.pop("tolerance")
    plain = dict(clusters=3, kmeans_inits=3, min_steps=0, batch_target=False, seed=0)
    view = SimpleNamespace(**plain | options | renamed, progress=False)
    return clusters(SimpleNamespace(train=images), view, Trained(model, np.zeros(1)))


def fitted(images, **changes):
    return fit_dec(autoencoder(), images, **changes)


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.01), ("adam", 3e-4)])
def test_dec_finds_three_groups_and_repeats_bit_for_bit(optimizer, lr):
    images, hidden = blobs()
    one, two = (fitted(images, optimizer=optimizer, lr=lr) for _ in "ab")
    assert purity(one.labels, hidden) == 1
    assert np.array_equal(one.soft, two.soft)
    assert np.array_equal(one.losses, two.losses)
    assert one.source == "dec"
    assert np.array_equal(one.labels, one.soft.argmax(1))
    assert np.array_equal(one.confidence, one.soft.max(1))
    other = fitted(images, optimizer="adam" if optimizer == "sgd" else "sgd", lr=lr / 10)
    assert not np.array_equal(one.soft, other.soft)


def test_dec_stops_when_labels_stand_still_and_says_whether_it_converged():
    images, _ = blobs()
    result = fitted(images, epochs=50)
    assert len(result.churn) == len(result.losses) == len(result.entropy) < 50
    assert result.churn[-1] < 1e-3
    assert result.converged
    never = fitted(images, epochs=2, tolerance=0)
    assert len(never.churn) == 2
    assert not never.converged
    assert not fitted(images, epochs=0).converged


def test_the_entropy_of_each_epoch_is_that_of_the_soft_assignment():
    result = fitted(blobs()[0])
    q = result.soft.astype(np.float64)
    by_hand = -(q * np.log(q)).sum(1).mean() / np.log(3)
    assert result.entropy[-1] == pytest.approx(by_hand, rel=1e-5)


def test_the_autoencoder_stays_as_it_is():
    images, _ = blobs(20)
    model = autoencoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit_dec(model, images, epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def targets_seen(monkeypatch, **changes):
    """How many rows each target has that DEC computes."""
    rows, whole = [], dec.target_distribution
    monkeypatch.setattr(dec, "target_distribution", lambda q: rows.append(len(q)) or whole(q))
    fitted(blobs(20)[0], epochs=2, batch=7, kmeans_inits=1, tolerance=0, **changes)
    return rows


def test_the_target_covers_the_whole_training_set(monkeypatch):
    assert set(targets_seen(monkeypatch)) == {60}


def test_the_published_defect_takes_the_target_from_each_batch_in_fixed_order(monkeypatch):
    orders, plain = [], dec.fit

    def spy(*args, **options):
        orders.append(options["shuffle"])
        return plain(*args, **options)

    monkeypatch.setattr(dec, "fit", spy)
    rows = targets_seen(monkeypatch, batch_target=True)
    assert [count for count in rows if count < 60] == 2 * [7, 7, 7, 7, 7, 7, 7, 7, 4]
    targets_seen(monkeypatch)
    assert orders == [False, True]


def test_each_epoch_trains_towards_the_latest_soft_assignment(monkeypatch):
    """The target of an epoch is that of the soft assignment after the epoch before."""
    seen, softs, plain = [], [], dec.fit

    def spy(model, loss, images, target, **options):
        softs.append(infer(model, images))

        def watched(model, batch, part):
            seen.append(part.clone())
            return loss(model, batch, part)

        hook = options.pop("on_epoch_end")

        def end(epoch, mean):
            softs.append(infer(model, images))
            return hook(epoch, mean)

        options |= dict(shuffle=False, on_epoch_end=end)
        return plain(model, watched, images, target, **options)

    monkeypatch.setattr(dec, "fit", spy)
    fitted(blobs(20)[0], epochs=3, batch=60, tolerance=0)
    assert len(seen) == 3
    for target, soft in zip(seen, softs, strict=False):
        assert torch.equal(target, target_distribution(soft))
    assert not torch.equal(seen[0], seen[1])


def test_a_dead_cluster_falls_back_to_kmeans_with_its_own_confidence_and_health(monkeypatch):
    images, hidden = blobs()
    starve = torch.tensor([1.0, 1e-9, 1.0])

    def forward(self, x):
        soft = soft_assignment(self.autoencoder.encode(x), self.centroids) * starve
        return soft / soft.sum(1, keepdim=True)

    monkeypatch.setattr(dec.DEC, "forward", forward)
    with pytest.warns(UserWarning, match="DEC left 1 of 3 clusters empty: k-means' are kept"):
        result = fitted(images, epochs=1)
    assert result.source == "k-means"
    assert not result.converged
    assert normalized_mutual_info_score(result.labels, hidden) == pytest.approx(1)
    model = autoencoder()
    latents = infer(model, images, function=model.encode)
    start = kmeans(latents.numpy(), clusters=3, inits=3, seed=0)
    assert np.array_equal(result.labels, start.labels_)
    assert np.array_equal(result.latents, latents.numpy())
    soft = soft_assignment(latents, torch.from_numpy(start.cluster_centers_)).numpy()
    assert np.allclose(result.soft, soft)
    assert np.array_equal(result.confidence, result.soft.max(1))
    assert cluster_health(result.soft).dead == ()


def test_clusters_without_images_drop_out():
    images = torch.tensor([0, 200], dtype=torch.uint8).repeat(30)[:, None, None, None]
    images = images.expand(60, 1, 8, 8)  # two kinds of images, asked for four clusters
    with pytest.warns(UserWarning, match="empty"):
        result = fitted(images, clusters=4, epochs=1)
    assert result.soft.shape == (60, 4)
    assert set(result.labels) == {0, 1}
    assert np.array_equal(result.labels == result.labels[0], np.arange(60) % 2 == 0)


def test_images_that_all_fall_into_one_cluster_are_refused():
    alike = torch.full((20, 1, 8, 8), 7, dtype=torch.uint8)
    with pytest.warns(UserWarning, match="empty"), pytest.raises(ValueError, match="one cluster"):
        fitted(alike, clusters=2, epochs=1)


def test_health_by_hand():
    soft = np.full((4, 2), 0.5)
    soft[:, 0] += 1e-6
    health = cluster_health(soft)
    assert health.shares.tolist() == [1, 0]
    assert health.dead == (1,)
    assert health.entropy == pytest.approx(1)
    assert cluster_health(np.eye(3)).entropy == pytest.approx(0, abs=1e-9)


def test_a_cluster_is_dead_below_a_twentieth_of_an_even_share():
    for few, dead in ((2, (1,)), (3, ())):  # of 100 images in 2 clusters: below 2.5
        assert cluster_health(np.eye(2)[np.repeat([0, 1], [100 - few, few])]).dead == dead


def test_purity_by_hand():
    assert purity(np.array([0, 0, 0, 1]), np.array([5, 5, 7, 7])) == 0.75


def test_bad_latents():
    with pytest.raises(ValueError, match="2 images for 3 clusters"):
        kmeans(np.zeros((2, 2)), clusters=3, inits=1, seed=0)
    with pytest.raises(ValueError, match="NaN"):
        kmeans(np.full((5, 2), np.nan), clusters=3, inits=1, seed=0)


def test_the_stage_reads_what_it_declares_and_trains_as_configured():
    reads = "clusters kmeans_inits dec_epochs dec_lr dec_optimizer dec_batch dec_tolerance"
    images, _ = blobs(20)
    overrides = dict(clusters=3, dec_optimizer="adam", dec_lr=1e-3, dec_batch=16, dec_epochs=2)
    config = make_config("digits", "CUR", **overrides, dec_tolerance=0, min_steps=0)
    settings = Settings(config, [*reads.split(), "min_steps", "batch_target"], progress=False)
    split = SimpleNamespace(train=images)
    found = clusters(split, settings, Trained(autoencoder(), np.zeros(1)))
    options = dict(optimizer="adam", lr=1e-3, batch=16, epochs=2, tolerance=0, kmeans_inits=20)
    same = fit_dec(autoencoder(), images, **options)
    assert np.array_equal(found.soft, same.soft)
    assert len(found.losses) == 2


@pytest.mark.parametrize("noisy", [False, True])
def test_a_last_image_alone_trains_the_large_encoder(noisy):
    images = blobs(22)[0][:65]
    model = autoencoder(encoder="large", noisy=noisy)
    options = dict(clusters=2, epochs=1, batch=64, lr=1e-4, optimizer="adam")
    assert np.isfinite(fit_dec(model, images, **options).soft).all()
