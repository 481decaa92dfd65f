"""Copies against brute force and planted ones; tracks on GTSRB's training part with them hidden."""

import io
import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from clad_lib.data.copies import find_copies, recover_tracks

PARQUET = Path(__file__).resolve().parents[3] / "shared" / "data"


def smooth_images(n, *, size=32, channels=3, seed=0):
    """Images (n, C, size, size) of soft blobs, as photographs are; all different."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (n, channels, 8, 8)).astype(np.float32)
    fine = coarse.repeat(size // 8, 2).repeat(size // 8, 3)
    return (0.8 * fine + 40 * generator.random(fine.shape)).astype(np.uint8)


def brute_force(images, tolerance):
    """Group numbers from all pairs, each compared by the definition in the docstring."""
    flat = images.reshape(*images.shape[:2], -1).astype(np.float64)
    flat = (flat - flat.mean(2, keepdims=True)).reshape(len(images), -1)
    spread = flat.std(1, keepdims=True)
    flat = flat / np.where(spread > 0, spread, 1)
    groups = np.arange(len(images))
    for one, two in itertools.combinations(range(len(images)), 2):
        near = np.sqrt(((flat[one] - flat[two]) ** 2).mean()) <= tolerance
        constant = not spread[one] or not spread[two]
        if (images[one] == images[two]).all() or (near and not constant):
            groups[groups == groups[two]] = groups[one]
    return groups


def same_partition(one, two):
    return adjusted_rand_score(one, two) == 1.0


@pytest.mark.parametrize("tolerance", [0.05, 0.2, 0.4, 0.6])
def test_groups_are_those_of_all_pairs(tolerance):
    images = np.round(load_digits().images[:300] * 15).astype(np.uint8)[:, None]
    images = np.concatenate([images, images[:7], np.full((2, 1, 8, 8), 9, np.uint8)])
    found = find_copies(images, tolerance=tolerance)
    assert same_partition(found.groups, brute_force(images, tolerance))
    assert len(images) == len(np.unique(found.groups)) + found.exact + found.near
    assert (found.near > 2) == (tolerance > 0.2)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (30, 3), (64, 3), (5, 1)])
def test_the_search_by_blocks_misses_none(size, channels):
    images = smooth_images(30, size=64, channels=channels)[:, :, :size, :size]
    noise = np.random.default_rng(1).normal(0, 9, images.shape)
    noisy = np.clip(images + noise, 0, 255).astype(np.uint8)  # some near, some not
    both = np.concatenate([images, noisy])
    expected = brute_force(both, 0.2)
    assert same_partition(find_copies(both).groups, expected)
    assert size <= 8 or (expected[30:] < 30).any()


def test_planted_copies_are_counted_and_named():
    images = smooth_images(50)
    jpeg = []
    for image in images[:10]:
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=90, subsampling=0)
        jpeg.append(np.asarray(Image.open(file)).transpose(2, 0, 1))
    darker = (0.6 * images[10:20] + 20).astype(np.uint8)
    every = np.concatenate([images, images[40:], images[40:45], np.stack(jpeg), darker])
    found = find_copies(every)
    assert found.exact == 15
    assert found.near == 20
    assert (found.groups[:50] == np.arange(50)).all()  # the first of each group
    expected = [*range(40, 50), *range(40, 45), *range(10), *range(10, 20)]
    assert found.groups[50:].tolist() == expected
    shifted = np.roll(images, 3, axis=3)
    assert find_copies(shifted, images).near == 0  # what it does not see through


def test_between_two_sets_only_what_stands_in_the_other_counts():
    images = smooth_images(60)
    first = np.concatenate([images[:20], images[:3]])  # three exact copies of its own
    near = np.clip(images[5:9].astype(int) + 1, 0, 255).astype(np.uint8)
    second = np.concatenate([images[30:], images[10:12], near])
    found = find_copies(first, second)
    assert (found.exact, found.near) == (2, 4)
    assert found.groups.shape == (23 + 36,)
    standing = np.isin(found.groups[:23], found.groups[23:])
    assert np.flatnonzero(standing).tolist() == [5, 6, 7, 8, 10, 11]
    assert find_copies(first).exact == 3
    assert find_copies(first, images[40:])[1:] == (0, 0)


def test_many_images_alike_stay_fast_and_constant_ones_are_apart():
    generator = np.random.default_rng(0)
    frame = smooth_images(1)
    still = np.clip(frame + generator.integers(-2, 3, (3000, 3, 32, 32)), 0, 255).astype(np.uint8)
    start = time.process_time()
    found = find_copies(still)
    assert not found.groups.any()
    assert found[1:] == (0, 2999)
    assert time.process_time() - start < 20
    plain = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 8), np.uint8)
    assert find_copies(np.concatenate([plain, plain]))[1:] == (9, 0)  # shades are not copies


def test_images_are_checked():
    images = smooth_images(4)
    with pytest.raises(ValueError, match=r"float64.* expected uint8"):
        find_copies(images / 255)
    with pytest.raises(ValueError, match="one shape"):
        find_copies(images, images[:, :1])
    with pytest.raises(ValueError, match=r"expected uint8 \(N, C, H, W\)"):
        find_copies(images[:, 0])


# tracks


def walks(tracks, frames, *, seed=0):
    """Images of `tracks` objects: each a walk of brightness and size around its own picture."""
    generator = np.random.default_rng(seed)
    pictures = generator.integers(30, 220, (tracks, 3, 8, 8)).repeat(4, 2).repeat(4, 3)
    steps = np.linspace(0, 1, frames)[:, None, None, None]
    images = [
        (picture * (0.5 + 0.5 * steps) + generator.normal(0, 6, (frames, 3, 32, 32)))
        for picture in pictures
    ]
    order = generator.permutation(tracks * frames)
    truth = np.repeat(np.arange(tracks), frames)[order]
    return np.clip(np.concatenate(images), 0, 255).astype(np.uint8)[order], truth


def test_tracks_of_different_objects_are_recovered_from_shuffled_frames():
    images, truth = walks(12, 30)
    labels = truth % 3  # four objects a class
    found = recover_tracks(images, labels)
    assert found.shape == (360,)
    assert adjusted_rand_score(truth, found) > 0.99
    assert (recover_tracks(images, labels) == found).all()


def test_a_track_stays_within_its_class_and_a_small_class_is_one_track():
    images, truth = walks(5, 30)
    labels = np.where(truth == 4, 7, np.where(np.arange(150) % 2, 2, 5))
    found = recover_tracks(images, labels)
    for track in np.unique(found):
        assert len(np.unique(labels[found == track])) == 1
    assert len(np.unique(found[labels == 7])) == 1
    alone = recover_tracks(images[:20], labels[:20])  # nothing to divide: one track a class
    assert len(np.unique(alone)) == len(np.unique(labels[:20]))


def pairs_found(truth, found):
    """Recall and precision of pairs of frames of one track, from the contingency table."""
    table = np.zeros((truth.max() + 1, found.max() + 1))
    np.add.at(table, (truth, found), 1)

    def count(sizes):
        return (sizes * (sizes - 1) / 2).sum()

    both = count(table)
    return both / count(table.sum(1)), both / count(table.sum(0))


def standard_error(values, units):
    """Of the mean of values (N,) whose units are independent: the sandwich estimate."""
    return np.sqrt((np.bincount(units, values - values.mean()) ** 2).sum()) / len(values)


def gtsrb(part):
    """Images (N, 3, 32, 32), labels and file names of GTSRB's Parquet, read without the library."""
    parquet = pytest.importorskip("pyarrow.parquet")
    if not (PARQUET / f"gtsrb-{part}.parquet").is_file():
        pytest.skip(f"no GTSRB in {PARQUET}")
    table = parquet.read_table(PARQUET / f"gtsrb-{part}.parquet")
    rows = table.column("image").to_pylist()
    images = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in rows]
    names = np.array([row["path"] for row in rows])
    return np.stack(images).transpose(0, 3, 1, 2), np.array(table.column("label")), names


@pytest.mark.slow
def test_tracks_of_gtsrb_training_part_are_recovered():
    images, labels, names = gtsrb("train")
    keys = [f"{label}/{name[:5]}" for label, name in zip(labels, names, strict=True)]
    truth = np.unique(keys, return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(len(labels))  # no help from the order of files
    odd = order[labels[order] % 2 == 1]  # settings were chosen on the others
    found = np.unique(recover_tracks(images[odd], labels[odd]), return_inverse=True)[1]
    recall, precision = pairs_found(truth[odd], found)
    assert recall > 0.85
    assert precision > 0.72
    index = [adjusted_rand_score(truth[odd][r], found[r]) for r in by_class(labels[odd])]
    assert np.mean(index) > 0.83
    pixels = images[odd].astype(np.float64)
    for score in (
        pixels.mean((1, 2, 3)),
        pixels.std((1, 2, 3)),
        abs(np.diff(pixels)).mean((1, 2, 3)),
    ):
        true = standard_error(score, truth[odd])
        assert 0.97 < standard_error(score, found) / true < 1.12
        assert standard_error(score, np.arange(len(odd))) < 0.25 * true


def by_class(labels):
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


@pytest.mark.slow
def test_gtsrb_test_part_looks_like_tracks_of_thirty():
    images, labels, _ = gtsrb("test")
    assert all(len(rows) % 30 == 0 for rows in by_class(labels))
    found = recover_tracks(images, labels)
    sizes = np.unique(found, return_counts=True)[1]
    assert len(sizes) == 421
    assert (sizes == 30).mean() > 0.5  # nothing forces it
    beside = np.mean([(found[r][1:] == found[r][:-1]).mean() for r in by_class(labels)])
    shuffled = np.random.default_rng(0).permutation(len(labels))
    chance = np.mean(
        [
            (found[r[:-1]] == found[r[1:]]).mean()
            for r in (shuffled[labels[shuffled] == c] for c in np.unique(labels))
        ]
    )
    assert beside == pytest.approx(chance, abs=0.02)  # the order of the files tells nothing


@pytest.mark.slow
def test_copies_between_the_parts_of_gtsrb_are_few():
    train, test = gtsrb("train")[0], gtsrb("test")[0]
    found = find_copies(test, train)
    assert (found.exact, found.near) == (0, 6)
