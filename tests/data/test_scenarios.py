"""Scenarios and splits: the published classes, and what must never cross from one side to the other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from clad_lib.config import datasets, make_config
from clad_lib.data import scenarios
from clad_lib.data.pictures import DataError
from clad_lib.data.reading import load_dataset
from clad_lib.data.scenarios import get_scenario, load_split, make_split, scenarios_of, split_key

# Table 5 of arXiv:2104.09793, written out again.
TABLE_5 = {
    ("mnist", "CUR"): "0 3 8",
    ("mnist", "STR"): "1 4 7",
    ("mnist", "MIX"): "2 5 6 9",
    ("gtsrb", "SPDL"): "0 1 2 3 4 5 7 8",
    ("gtsrb", "INST"): "9 10 15 16",
    ("gtsrb", "WARN"): "11 18 19 20 21 22 23 24 25 26 27 28 29 30 31",
    ("gtsrb", "DIRC"): "33 34 35 36 37 38 39 40",
    ("gtsrb", "SPEC"): "12 13 14 17",
    ("gtsrb", "REGN"): "6 32 41 42",
    ("cifar10", "THG"): "0 1 8 9",
    ("cifar10", "LIV"): "2 3 4 5 6 7",
    ("tiny_imagenet", "ANML"): "0 1 2 3 4 5 6 7",
    ("tiny_imagenet", "ISCT"): "8 9 10 11 12 13 14 15",
    ("tiny_imagenet", "ISTM"): "16 17 18 19 20 21 22 23",
    ("tiny_imagenet", "STRT"): "24 25 26 27 28 29 30 31",
    ("tiny_imagenet", "VHCL"): "32 33 34 35 36 37 38 39",
}


def test_the_sixteen_scenarios_are_the_published_ones():
    ours = {
        (dataset, name): " ".join(map(str, scenario.normal))
        for dataset in datasets()
        for name, scenario in scenarios_of(dataset).items()
    }
    digits = {("digits", name): normal for (d, name), normal in TABLE_5.items() if d == "mnist"}
    assert ours == TABLE_5 | digits
    assert scenarios_of("/some/folder") == {}
    assert get_scenario("gtsrb", "SPDL") == scenarios_of("gtsrb")["SPDL"]
    assert get_scenario("gtsrb", "SPDL").title == "speed limits"


def test_groupings_by_label_and_by_name():
    names = ["cat", "dog", "owl"]
    assert get_scenario("folder", "owl+cat", class_names=names).normal == (0, 2)
    assert get_scenario("folder", "owl+cat", class_names=names).title == "owl + cat"
    assert get_scenario("mnist", "7").normal == (7,)
    assert get_scenario("mnist", "0+9").normal == (0, 9)
    assert get_scenario("cifar10", "cat + dog").normal == (3, 5)
    assert get_scenario("gtsrb", "Vehicles over 3.5t prohibited").normal == (16,)
    assert get_scenario("folder", "ALL", class_names=names).normal == (0, 1, 2)


@pytest.mark.parametrize("name", ["CURR", "10", "0+0", "", "0+", "-1", "ALL", "²", "1e0"])
def test_unknown_scenarios_are_refused_with_the_known_ones(name):
    with pytest.raises(DataError, match="scenario"):
        get_scenario("mnist", name)


def test_near_misses_get_a_hint():
    with pytest.raises(DataError, match=r"unknown scenario 'SPLD': did you mean 'SPDL'"):
        get_scenario("gtsrb", "SPLD")
    with pytest.raises(
        DataError, match=r"unknown scenario 'car': did you mean 'cat'.*ALL, cat, dog"
    ):
        get_scenario("folder", "car", class_names=["cat", "dog"])


def test_numbers_that_are_also_names_must_say_which():
    """Folders named 1, 10, 2 have the labels 0, 1, 2: `1` may be either of two classes."""
    names = ["1", "10", "2"]
    with pytest.raises(DataError, match=r"'1' is ambiguous, '1' or '10': write class=NAME"):
        get_scenario("folder", "1", class_names=names)
    with pytest.raises(DataError, match="ambiguous"):
        get_scenario("folder", "10+1", class_names=names)
    assert get_scenario("folder", "class=1", class_names=names).normal == (0,)
    assert get_scenario("folder", "label=1", class_names=names).normal == (1,)
    assert get_scenario("folder", "class=1+class=2", class_names=names).normal == (0, 2)
    assert get_scenario("folder", "10", class_names=names).normal == (1,)  # there is no label 10
    assert get_scenario("mnist", "7").normal == (7,)  # both mean the same


def test_class_names_may_hold_what_folders_may():
    names = ["a", "a+b", "b", " two words ", r"caf\xe9"]
    assert get_scenario("folder", "x+a+b", class_names=["a+b", "x", "a"]).normal == (0, 1)
    assert get_scenario("folder", "two words", class_names=names).normal == (3,)
    assert get_scenario("folder", r"a+caf\xe9", class_names=names).normal == (0, 4)
    with pytest.raises(DataError, match=r"'a\+b' is ambiguous, 'a \+ b' or 'a\+b'"):
        get_scenario("folder", "a+b", class_names=names)
    assert get_scenario("folder", "label=1", class_names=names).normal == (1,)


def split_of(make_data, labels=None, seed=0, **options):
    labels = np.repeat(np.arange(4), 50) if labels is None else labels
    data = make_data(labels)
    return make_split(data, data, get_scenario("mnist", "0+1"), seed=seed, **options)


def test_training_and_calibration_hold_normal_images_only_and_share_none(make_data):
    split = split_of(make_data)
    assert set(split.answers.train_class) | set(split.answers.calibration_class) == {0, 1}
    assert not set(split.train_index) & set(split.calibration_index)
    assert len(split.calibration) == 10
    assert len(split.train) == 90
    assert split.answers.test_anomaly.sum() == 100


def test_the_draw_is_the_one_that_it_was(make_data):
    """Tracks in the order of permutation(n) until the share is reached, one track an image."""
    split = split_of(make_data, seed=3)
    assert (
        sorted(np.random.default_rng(3).permutation(100)[:10]) == split.calibration_index.tolist()
    )


def test_hidden_classes_do_not_move_a_single_image(make_data):
    """Swapping which normal class an image has, or which anomalous one, leaves every tensor as it was."""
    plain = split_of(make_data)
    labels = np.repeat(np.arange(4), 50)
    random = np.random.default_rng(3)
    labels[:100], labels[100:] = random.permutation(labels[:100]), random.permutation(labels[100:])
    shuffled = split_of(make_data, labels)
    for part in ("train", "calibration", "test"):
        assert torch.equal(getattr(plain, part), getattr(shuffled, part))
    assert split_key(plain) == split_key(shuffled)
    assert not np.array_equal(plain.answers.train_class, shuffled.answers.train_class)


def test_whole_tracks_go_to_one_side(make_data):
    labels, tracks = np.zeros(300, int), np.arange(300) // 30
    data, other = make_data(labels, tracks=tracks), make_data([0, 5], tracks=[7, 7], seed=1)
    split = make_split(data, other, get_scenario("gtsrb", "0"), seed=1)
    assert not set(tracks[split.train_index]) & set(tracks[split.calibration_index])
    assert len(split.calibration) == 30
    assert np.array_equal(split.train_tracks, tracks[split.train_index])
    assert np.array_equal(split.calibration_tracks, tracks[split.calibration_index])
    assert split.test_tracks.tolist() == [7, 7]


def test_copies_of_an_image_are_one_unit_on_one_side(make_data):
    """Forty images ten times each: 36 of them train, 4 calibrate, and nothing crosses."""
    data = make_data(np.repeat([0, 1], 200))
    source = np.random.default_rng(5).permutation(400) % 40
    data = dataclasses.replace(data, images=data.images[source])
    test = make_data([0, 5, 5], seed=9)
    test.images[2] = test.images[1]
    for seed in range(5):
        split = make_split(data, test, get_scenario("mnist", "0+1"), seed=seed)
        sides = [set(source[rows]) for rows in (split.train_index, split.calibration_index)]
        assert (len(sides[0]), len(sides[1])) == (36, 4)
        assert not sides[0] & sides[1]
        assert len(np.unique(split.calibration_tracks)) == 4
        assert len(np.unique(split.train_tracks)) == 36
        assert split.test_tracks.tolist() == [0, 1, 1]  # the official test part stays whole


def test_copies_join_the_tracks_that_they_stand_in(make_data):
    data = make_data(np.zeros(60, int), tracks=np.arange(60) // 3)
    data.images[[1, 31]] = data.images[40]  # tracks 0, 10 and 13
    sizes = []
    for seed in range(20):
        split = make_split(data, make_data([0, 5], seed=1), get_scenario("gtsrb", "0"), seed=seed)
        where = np.isin([0, 10, 13], split.calibration_tracks)
        assert not where[1:].any()  # they are counted as track 0
        sizes.append(len(split.calibration))
        assert (
            sizes[-1] == 3 * np.isin(np.arange(20), split.calibration_tracks).sum() + 6 * where[0]
        )
    assert len(set(sizes)) > 1


def test_seeds_differ_and_repeat(make_data):
    one, again, other = (split_of(make_data, seed=seed).calibration_index for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_caps(make_data):
    split = split_of(make_data, max_train=20, max_test=30)
    assert (len(split.train), len(split.test)) == (20, 30)
    for part in ("train", "calibration", "test"):
        tracks, rows = getattr(split, f"{part}_tracks"), getattr(split, f"{part}_index")
        assert np.array_equal(tracks, rows)
        assert len(rows) == len(getattr(split, part))


def test_bad_splits_are_refused(make_data):
    data = make_data([0, 0, 0, 1])
    with pytest.raises(DataError, match="'c2' has no training images"):
        make_split(data, data, get_scenario("mnist", "0+2"), seed=0)
    with pytest.raises(DataError, match="only normal images"):
        make_split(data, data, get_scenario("mnist", "0+1"), seed=0)
    with pytest.raises(DataError, match="only anomalies"):
        make_split(data, make_data([1]), get_scenario("mnist", "0"), seed=0)
    with pytest.raises(DataError, match="too few"):
        make_split(make_data([0]), data, get_scenario("mnist", "0"), seed=0)
    same = make_data(np.zeros(30, int))
    same.images[:] = 7
    with pytest.raises(DataError, match="30 normal training images are too few"):
        make_split(same, data, get_scenario("mnist", "0"), seed=0)


def test_the_digits_split_is_fixed():
    train, test = load_dataset("digits")
    assert (train.images.shape, test.images.shape) == ((1347, 1, 16, 16), (450, 1, 16, 16))
    for seed in (0, 1):
        split = load_split(make_config("digits", "CUR", seed=seed))
        assert len(split.train) + len(split.calibration) == np.isin(train.labels, (0, 3, 8)).sum()
        assert int((~split.answers.test_anomaly).sum()) == np.isin(test.labels, (0, 3, 8)).sum()
        assert np.array_equal(split.test.numpy(), test.images)


def test_a_config_chooses_split_and_size(tmp_path):
    by_writer = load_split(make_config("digits", "CUR", split="by_writer"))
    _, test = load_dataset("digits", split="by_writer")
    assert np.array_equal(by_writer.test.numpy(), test.images)
    assert split_key(by_writer) != split_key(load_split(make_config("digits", "CUR")))
    from PIL import Image

    for number in range(30):
        pixels = np.full((20, 30), 8 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    split = load_split(make_config(str(tmp_path), "ALL", size=12))
    assert split.train.shape == (21, 1, 12, 12)
    assert not split.answers.test_anomaly.any()


def test_a_wrong_name_is_refused_before_a_download(monkeypatch):
    monkeypatch.setattr(scenarios, "load_dataset", lambda *a, **k: pytest.fail("fetched"))
    with pytest.raises(DataError, match="did you mean 'CUR'"):
        load_split(make_config("mnist", "CURL"))


@pytest.mark.slow
def test_no_gtsrb_track_on_both_sides_of_real_data():
    train, _ = load_dataset("gtsrb")
    split = load_split(make_config("gtsrb", "WARN"))
    assert not set(train.tracks[split.train_index]) & set(train.tracks[split.calibration_index])
    assert len(np.unique(train.tracks)) == 26640 // 30


@pytest.mark.slow
def test_exact_copies_in_the_real_data():
    """Three pictures of Tiny-ImageNet's ISTM stand in it twice; no other training normals do."""
    for name, scenario, copies in (("mnist", "MIX", 0), ("tiny_imagenet", "ISTM", 3)):
        split = load_split(make_config(name, scenario))
        units = np.concatenate([split.train_tracks, split.calibration_tracks])
        assert len(units) - len(np.unique(units)) == copies


def test_splits_are_frozen(make_data):
    with pytest.raises(dataclasses.FrozenInstanceError):
        split_of(make_data).train = None
