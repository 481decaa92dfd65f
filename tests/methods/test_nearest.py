"""The controls by brute force and by hand, and the check before training on scenarios made for it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import LocalOutlierFactor

from clad_lib.clad.networks import ConvAutoencoder, Trained
from clad_lib.config import Settings, make_config
from clad_lib.data.scenarios import get_scenario, make_split
from clad_lib.judge.metrics import auroc
from clad_lib.methods import nearest
from clad_lib.methods.kernel import fit_boundary
from clad_lib.methods.scorers import NotApplicable

NOTHING = Settings(make_config("digits", "CUR"), ())  # refuses every setting


def split_of(make_data, *, wrong_way):
    """Normal images are noise; anomalies are the plain grey in their middle, or far from them all."""
    random = np.random.default_rng(0)
    parts = []
    for count in (200, 100):
        labels = np.repeat([0, 1], [count, 0 if count == 200 else count])
        data = make_data(labels, size=8)
        shape = (len(labels), 1, 8, 8)
        noise = 128 + 60 * random.standard_normal(shape)
        level = (128 if wrong_way else 240) + random.integers(-3, 4, shape)
        images = np.where(labels[:, None, None, None] == 0, noise, level)
        data.images[:] = np.clip(images, 0, 255).astype(np.uint8)
        parts.append(data)
    return make_split(*parts, get_scenario("made", "c0", class_names=("c0", "c1")), seed=0)


def flat(images):
    return images.flatten(1).double().numpy() / 255


def test_the_nearest_image_by_brute_force(make_data):
    split = split_of(make_data, wrong_way=False)
    every = np.linalg.norm(flat(split.test)[:, None] - flat(split.train)[None], axis=2)
    distance, place = nearest.nearest(split.test, split.train)
    assert np.allclose(distance, every.min(1), atol=1e-5)
    assert np.array_equal(place, every.argmin(1))
    assert np.allclose(nearest.nearest_image(split, NOTHING)(split.test), every.min(1), atol=1e-5)


def test_blocks_of_images_change_nothing():
    random = torch.Generator().manual_seed(0)
    known = torch.randint(0, 256, (9000, 1, 4, 4), dtype=torch.uint8, generator=random)
    images = known[torch.randperm(9000, generator=random)[:1100]] // 2
    distance, place = nearest.nearest(images, known)
    every = torch.cdist(*(torch.from_numpy(flat(each)) for each in (images, known)))
    assert torch.allclose(distance.double(), every.amin(1), atol=1e-6)
    assert torch.allclose(every[torch.arange(1100), place], every.amin(1), atol=1e-6)


def test_a_copy_has_distance_zero(make_data):
    split = split_of(make_data, wrong_way=False)
    distance, place = nearest.nearest(split.train, split.train)
    assert (distance == 0).all()
    assert np.array_equal(place, np.arange(len(split.train)))


def test_pixel_lof_is_scikit_learns_and_has_an_answer_for_few_images(make_data):
    split = split_of(make_data, wrong_way=False)
    known, tested = flat(split.train), flat(split.test)
    expected = -LocalOutlierFactor(20, novelty=True).fit(known).score_samples(tested)
    scores = nearest.pixel_lof(split, NOTHING)(split.test)
    assert np.allclose(scores, expected, rtol=1e-4)
    assert auroc(scores.numpy(), split.answers.test_anomaly) > 0.99
    few = type("Split", (), {"train": split.train[:3]})
    assert torch.isfinite(nearest.pixel_lof(few, NOTHING)(split.test)).all()
    with pytest.raises(NotApplicable, match="got 1 training image"):
        nearest.pixel_lof(type("Split", (), {"train": split.train[:1]}), NOTHING)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_bytes_are_the_length_of_a_png(channels):
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (20, channels, 16, 16), dtype=np.uint8)
    images = torch.from_numpy(np.concatenate([noise, np.full_like(noise, 7)]))
    split = type("Split", (), {"train": images})
    scores = nearest.image_bytes(split, NOTHING)(images)
    assert torch.equal(scores, nearest.image_bytes(split, NOTHING)(images.float() / 255))
    assert scores[:20].min() > scores[20:].max()
    for image, size in zip(images, scores, strict=True):
        file = io.BytesIO()
        array = image.permute(1, 2, 0).numpy()
        Image.fromarray(array[..., 0] if channels == 1 else array).save(file, "PNG")
        assert file.tell() == size


def test_feature_norm_is_minus_the_length_of_what_lies_under_the_latent(make_data):
    split = split_of(make_data, wrong_way=False)
    model = ConvAutoencoder(1, 8, latent=3).eval()
    with torch.no_grad():
        hidden = model.encoder(model.standardise(split.test.float() / 255))
    scores = nearest.feature_norm(split, NOTHING, Trained(model, np.zeros(0)))(split.test)
    assert torch.allclose(scores, -hidden.square().sum(1).sqrt(), atol=1e-5)


@pytest.mark.parametrize("control", [nearest.nearest_image, nearest.pixel_lof, nearest.image_bytes])
def test_images_of_another_shape_are_refused(control, make_data):
    split = split_of(make_data, wrong_way=False)
    with pytest.raises(ValueError, match="resize"):
        control(split, NOTHING)(torch.zeros(2, 1, 9, 9))


def test_distances_of_the_check_by_brute_force(make_data):
    split = split_of(make_data, wrong_way=False)
    found = nearest.neighbours(split)
    every = np.linalg.norm(flat(split.test)[:, None] - flat(split.train)[None], axis=2)
    assert np.array_equal(found.rows, np.arange(len(split.test)))
    assert np.allclose(found.distance, every.min(1), atol=1e-5)
    assert np.array_equal(found.nearest, every.argmin(1))


def test_anomalies_that_are_the_most_normal_images_are_foreseen_and_not_flipped(make_data):
    split = split_of(make_data, wrong_way=True)
    anomaly = split.answers.test_anomaly
    found = nearest.verdict(nearest.neighbours(split), anomaly)
    assert found.auroc.high < 0.5
    assert "below 0.5" in found.text
    scores = fit_boundary(split.train)(split.test).numpy()
    assert auroc(scores, anomaly) < 0.5  # what was foreseen, and left as it is


def test_a_fair_scenario_gets_no_warning(make_data):
    split = split_of(make_data, wrong_way=False)
    found = nearest.verdict(nearest.neighbours(split), split.answers.test_anomaly)
    assert found.auroc.low > 0.5
    assert "the right way" in found.text


def test_alike_is_neither_and_the_interval_counts_tracks(make_data):
    rows = np.arange(120)
    random = np.random.default_rng(0)
    distance, anomaly = random.random(120), rows % 40 < 20
    found = nearest.Neighbours(rows, distance, rows, rows)
    verdict = nearest.verdict(found, anomaly)
    assert verdict.auroc.low < 0.5 < verdict.auroc.high
    assert "nothing can be said" in verdict.text
    by_track = nearest.verdict(found._replace(tracks=rows // 20, distance=rows // 20), anomaly)
    by_image = nearest.verdict(found._replace(distance=rows // 20), anomaly)
    widths = [each.auroc.high - each.auroc.low for each in (by_track, by_image)]
    assert widths[0] > widths[1]


def test_the_closest_anomalies_come_first_with_their_neighbours(make_data):
    split = split_of(make_data, wrong_way=True)
    found, anomaly = nearest.neighbours(split), split.answers.test_anomaly
    rows, near = nearest.most_normal_anomalies(found, anomaly)
    assert anomaly[rows].all()
    assert len(rows) == 12 < anomaly.sum()
    assert found.distance[anomaly].min() == found.distance[rows[0]]
    assert np.array_equal(near, found.nearest[rows])


def test_a_cap_keeps_rows_of_the_whole_split(make_data):
    split = split_of(make_data, wrong_way=True)
    found = nearest.neighbours(split, limit=20)
    assert len(found.rows) == 20
    assert found.rows.max() > 20
    pair = split.test[found.rows[3]], split.train[found.nearest[3]]
    assert np.isclose(np.linalg.norm(np.subtract(*map(flat, pair))), found.distance[3], atol=1e-5)


def test_one_kind_only_is_refused(make_data):
    split = split_of(make_data, wrong_way=True)
    with pytest.raises(ValueError, match="0 anomalies"):
        nearest.verdict(nearest.neighbours(split), np.zeros(len(split.test), dtype=bool))
