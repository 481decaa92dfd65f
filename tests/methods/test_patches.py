"""Patches against plain loops, scikit-learn, and what must not change its scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.covariance import ShrunkCovariance
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from test_dictionary import digits, plain_features

from clad_lib.config import Settings, make_config
from clad_lib.data.scenarios import make_split
from clad_lib.data.split import Scenario
from clad_lib.methods import distances
from clad_lib.methods.dictionary import encode, maps_of
from clad_lib.methods.patches import PatchScorer, fit_patches, patches
from clad_lib.methods.rotation import patch_clusters
from clad_lib.methods.scorers import NotApplicable


@pytest.fixture(scope="module")
def ones_and_fours() -> torch.Tensor:
    return digits(1, 4)


@pytest.fixture(scope="module")
def scorer(ones_and_fours) -> PatchScorer:
    return fit_patches(ones_and_fours[:250], cells=4, centroids=16, clusters=3)


def points_and_groups(count: int = 120, width: int = 6, tracks: int = 30):
    generator = torch.Generator().manual_seed(3)
    groups = torch.arange(count) % tracks
    centres = torch.randn(tracks, width, generator=generator)
    return centres[groups] + 0.3 * torch.randn(count, width, generator=generator), groups


def test_the_second_layer_reads_the_maps_of_the_first():
    images = digits(0, 1, 2)[:60]
    scorer = fit_patches(images, cells=2, centroids=12, clusters=3, layers=2)
    first = scorer.views[-1][0].source
    largest = plain_features(images, first, 6, 1, 8).max()  # (60, 8 8 64)
    few = images[:20]
    plain = plain_features(few, first, 6, 1, 8).reshape(20, 8, 8, 64) / largest
    plain = torch.from_numpy(plain.transpose(0, 3, 1, 2))
    torch.testing.assert_close(maps_of(few, first).double(), plain, rtol=0, atol=1e-4)
    for side, (dictionary, memory) in zip((2, 3), scorer.views[2:], strict=True):
        raw = plain_features(255 * plain, dictionary, side, 1, 2)
        points = (torch.from_numpy(raw) - dictionary.mean) * dictionary.scale
        near = torch.cdist(points, memory.points.double()).sort(1).values[:, :5].mean(1)
        found = scorer.distances(few)[:, 4 * side]
        torch.testing.assert_close(found.double(), near, rtol=5e-3, atol=5e-3)
    assert scorer.shape == (1, 16, 16)
    assert scorer.names[7:9] == [
        "Mahalanobis of a cluster, 8 pixels",
        "nearest neighbours, 2 cells",
    ]
    assert scorer.names[-1] == "Mahalanobis of a cluster, 3 cells"
    assert scorer.map(few).shape == (20, 2, 2)


def test_the_second_layer_leaves_the_first_as_it_is(ones_and_fours, scorer):
    both = fit_patches(ones_and_fours[:250], cells=4, centroids=16, clusters=3, layers=2)
    few = ones_and_fours[250:270]
    assert torch.equal(both.distances(few)[:, :8], scorer.distances(few))


def direct_distances(seen: np.ndarray, new: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The four distances of seen points (n, D), each left out, then of new ones (m, D)."""
    near = NearestNeighbors(n_neighbors=5).fit(seen)
    local = LocalOutlierFactor(n_neighbors=20).fit(seen)
    fresh = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(seen)
    left_out = [near.kneighbors()[0].mean(1), -local.negative_outlier_factor_]
    others = [near.kneighbors(new)[0].mean(1), -fresh.score_samples(new)]
    for middles in (seen.mean(0)[None], centres):
        own = np.linalg.norm(seen[:, None] - middles, axis=2).argmin(1)
        covariance = ShrunkCovariance(shrinkage=0.1, assume_centered=True).fit(seen - middles[own])
        far, other = (
            np.min([covariance.mahalanobis(points - middle) for middle in middles], 0)
            for points in (seen, new)
        )
        left_out.append(far / (1 - 0.9 * far / len(seen)))
        others.append(other)
    return np.concatenate([np.stack(left_out, 1), np.stack(others, 1)])


def test_scores_of_50_images_are_those_of_a_direct_version():
    train, tested = digits(1, 4)[:120], digits(0, 1, 4)[-50:]
    scorer = fit_patches(train, cells=2, centroids=12, clusters=3)
    found = []
    for side, (dictionary, memory) in zip((4, 8), scorer.views, strict=True):
        seen, new = (plain_features(each, dictionary, side, 1, 2) for each in (train, tested))
        scale = np.tile(seen.var(0, ddof=1).reshape(4, -1).mean(0) ** -0.5, 4)
        points = [(each - seen.mean(0)) * scale for each in (seen, new)]
        found.append(direct_distances(*points, memory.centres[1].double().numpy()))
    own, new = np.split(np.concatenate(found, 1), [len(train)])
    torch.testing.assert_close(
        scorer.distances(tested).double(), torch.from_numpy(new), rtol=1e-3, atol=0
    )
    logs = torch.from_numpy(np.log(own))
    middle = logs.median(0).values
    spread = (logs - middle).abs().median(0).values
    scores = ((torch.from_numpy(np.log(new)) - middle) / spread).mean(1)
    torch.testing.assert_close(scorer(tested).double(), scores, rtol=1e-3, atol=1e-3)


def test_neighbours_and_local_density_are_scikit_learns():
    points, _ = points_and_groups()
    tested = points[:20] + 0.1
    memory, _ = distances.remember(points, torch.arange(len(points)), clusters=3, seed=0)
    scores = distances.distances(memory, tested)
    near = NearestNeighbors(n_neighbors=5).fit(points).kneighbors(tested)[0].mean(1)
    factor = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(points)
    np.testing.assert_allclose(scores[:, 0], near, rtol=1e-4)
    np.testing.assert_allclose(scores[:, 1], -factor.score_samples(tested), rtol=1e-4)


def test_own_scores_without_groups_are_scikit_learns_too():
    points, _ = points_and_groups()
    _, own = distances.remember(points, torch.arange(len(points)), clusters=3, seed=0)
    factor = LocalOutlierFactor(n_neighbors=20).fit(points)
    np.testing.assert_allclose(own[:, 1], -factor.negative_outlier_factor_, rtol=1e-4)


def test_mahalanobis_is_scikit_learns():
    points, _ = points_and_groups()
    memory, _ = distances.remember(points, torch.arange(len(points)), clusters=3, seed=0)
    scores = distances.distances(memory, points + 0.5)
    whole = ShrunkCovariance(shrinkage=0.1).fit(points)
    np.testing.assert_allclose(scores[:, 2], whole.mahalanobis(points + 0.5), rtol=1e-3)
    centres = memory.centres[1]
    own = torch.cdist(points, centres).argmin(1)
    within = ShrunkCovariance(shrinkage=0.1, assume_centered=True).fit(
        (points - centres[own]).numpy()
    )
    gaps = ((points + 0.5)[:, None] - centres).numpy()
    nearest = np.einsum("nkd,de,nke->nk", gaps, within.precision_, gaps).min(1)
    np.testing.assert_allclose(scores[:, 3], nearest, rtol=1e-3)


def test_own_scores_leave_the_whole_group_out():
    points, groups = points_and_groups()
    _, own = distances.remember(points, groups, clusters=3, seed=0)
    residuals = (points - points.mean(0)).double()
    shrunk = ShrunkCovariance(shrinkage=0.1, assume_centered=True).fit(residuals).covariance_
    for place in (0, 7, 60):
        others = groups != groups[place]
        near = (points[others] - points[place]).norm(dim=1).sort().values[:5].mean()
        assert own[place, 0] == pytest.approx(float(near), rel=1e-4)
        group = residuals[~others].numpy()
        rest = shrunk - 0.9 * group.T @ group / len(points)
        left = residuals[place].numpy() @ np.linalg.solve(rest, residuals[place].numpy())
        assert own[place, 2] == pytest.approx(left, rel=1e-3)


def test_frames_of_one_object_do_not_make_it_look_normal():
    points, groups = points_and_groups()
    _, alone = distances.remember(points, torch.arange(len(points)), clusters=3, seed=0)
    _, apart = distances.remember(points, groups, clusters=3, seed=0)
    assert (apart[:, 0] > alone[:, 0]).all()


def test_one_group_falls_back_to_single_images():
    points, groups = points_and_groups()
    _, one = distances.remember(points, torch.zeros_like(groups), clusters=3, seed=0)
    _, alone = distances.remember(points, torch.arange(len(points)), clusters=3, seed=0)
    torch.testing.assert_close(one, alone)


def test_scores_separate_and_fresh_normals_look_like_the_normals_left_out(ones_and_fours, scorer):
    fresh, strange = scorer(ones_and_fours[250:]), scorer(digits(0, 5)[:100])
    assert (strange[:, None] > fresh).float().mean() > 0.97
    ranks = (scorer.normals >= fresh[:, None]).float().mean(1)  # p-values: uniform on normals
    assert 0.4 < ranks.mean() < 0.6
    assert (ranks <= 0.1).float().mean() < 0.25


@pytest.mark.parametrize(("layers", "cells", "place"), [(1, 4, (2, 1)), (2, 2, (1, 0))])
def test_the_map_is_hottest_where_a_patch_was_pasted(layers, cells, place):
    images = digits(1, 4, size=32)
    scorer = fit_patches(images[:150], centroids=16, clusters=3, layers=layers, cells=cells)
    pasted, noise = images[150:170].clone(), torch.Generator().manual_seed(0)
    pasted[:, :, 16:24, 8:16] = torch.randint(0, 256, (8, 8), generator=noise, dtype=torch.uint8)
    hottest = scorer.map(pasted).flatten(1).argmax(1)
    assert (hottest == np.ravel_multi_index(place, (cells, cells))).all()
    assert (scorer.map(pasted)[:, *place] > scorer.map(images[150:170])[:, *place]).all()


def test_the_map_adds_up_to_the_distances(ones_and_fours, scorer):
    images = ones_and_fours[250:260]
    total = torch.zeros(10)
    for dictionary, memory in scorer.views:
        gaps = torch.cdist(encode(images, dictionary), memory.points)
        total += gaps.sort(1).values[:, :5].square().mean(1)
    torch.testing.assert_close(scorer.map(images).sum((1, 2)), total, rtol=1e-3, atol=1e-3)


def test_parts_are_four_scores_a_patch_size_and_the_score_is_their_mean(ones_and_fours, scorer):
    parts = scorer.parts(ones_and_fours[250:])
    assert len(parts) == 8
    assert "local density, 8 pixels" in parts
    torch.testing.assert_close(
        scorer(ones_and_fours[250:]), torch.stack(list(parts.values())).mean(0)
    )


def test_blocks_and_kinds_of_pixels_do_not_matter(ones_and_fours, scorer):
    images = ones_and_fours[250:]
    single = torch.cat([scorer(image[None]) for image in images[:10]])
    torch.testing.assert_close(scorer(images)[:10], single, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scorer(images / 255), scorer(images), rtol=1e-3, atol=1e-3)


def test_dictionaries_and_points_that_do_not_fit_are_refused(scorer):
    (first, memory), (other, _) = scorer.views
    wrong = [(other, memory._replace(points=memory.points[:, 1:])), (other, memory)]
    sizes = other._replace(layout=other.layout + torch.tensor([0, 0, 0, 0, 1]))
    for views in (wrong[:1], wrong, [(first, memory), (sizes, memory)]):
        with pytest.raises(ValueError, match="do not fit"):
            PatchScorer(views, scorer.own)
    deeper = other._replace(source=first)  # no maps of 16 pixels, of one channel
    with pytest.raises(ValueError, match="do not fit"):
        PatchScorer([(deeper, memory)], scorer.own)


def test_maps_of_many_cells_or_of_other_maps_are_refused(ones_and_fours):
    scorer = fit_patches(ones_and_fours[:60], cells=2, centroids=8, clusters=3, layers=2)
    deep, memory = scorer.views[-1]
    fine = deep.source._replace(layout=torch.tensor([6, 1, 500, 1, 16]))
    above = deep._replace(layout=torch.tensor([3, 1, 2, 64, 500]), source=fine)  # fill the memory
    nested = deep._replace(source=deep.source._replace(source=deep.source))
    for wrong in (above, nested):
        with pytest.raises(ValueError, match="do not fit"):
            PatchScorer([(wrong, memory)], scorer.own)


def test_at_most_so_many_images_are_distances(ones_and_fours):
    small = fit_patches(ones_and_fours, keep=60, centroids=8, clusters=3)
    assert [len(memory.points) for _, memory in small.views] == [60, 60]
    assert len(small.normals) == 60


def test_small_images_and_few_of_them():
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    equal = torch.full((12, 1, 16, 16), 7, dtype=torch.uint8)
    for layers in (1, 2):
        small = [images[..., :side, :side] for side in (4, 5, 6, 7)]
        for some in (images, *small, images.repeat(1, 1, 2, 2)[..., :12, :12], equal):
            scorer = fit_patches(some, centroids=4, cells=2, layers=layers)
            assert torch.isfinite(scorer(some)).all()
            assert len({*scorer.names}) == len(scorer.names)
            torch.testing.assert_close(scorer.look(some)[0], scorer(some))
    with pytest.raises(NotApplicable, match="got 7 training"):
        fit_patches(images[:7])
    with pytest.raises(ValueError, match="resize"):
        fit_patches(images, centroids=4)(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


def test_hidden_classes_and_test_labels_change_nothing(make_data):
    data = make_data(np.arange(120) % 4, size=16)
    split = make_split(data, data, Scenario("digits", "x", "x", (0, 1)), seed=0)
    settings = Settings.everything(make_config(profile="smoke"))
    answers = split.answers
    hidden = replace(
        answers, train_class=answers.train_class[::-1], test_anomaly=~answers.test_anomaly
    )
    one, other = (
        patches(each, settings)(split.test) for each in (split, replace(split, answers=hidden))
    )
    assert torch.equal(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_scores(ones_and_fours, scorer):
    there = fit_patches(ones_and_fours[:250], centroids=16, clusters=3, device="cuda")
    torch.testing.assert_close(there(ones_and_fours), scorer(ones_and_fours), rtol=0.02, atol=0.02)
    both = dict(cells=2, centroids=16, clusters=3, layers=2)
    here, there = (fit_patches(ones_and_fours[:250], **both, device=d) for d in ("cpu", "cuda"))
    torch.testing.assert_close(there(ones_and_fours), here(ones_and_fours), rtol=0.05, atol=0.05)


def test_clusters_of_patches_are_the_digits():
    images, truth = torch.cat([digits(0), digits(1)]), [0] * len(digits(0)) + [1] * len(digits(1))
    assert adjusted_rand_score(truth, patch_clusters(images, clusters=2, seed=0)) > 0.9
