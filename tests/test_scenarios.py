"""Scenarios and splits: the published classes, and what must never cross from one side to the other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from clad_lib.config import make_config
from clad_lib.data import load_dataset
from clad_lib.scenarios import SCENARIOS, get_scenario, load_split, make_split
from clad_lib.sources import DataError

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
    ours = {(d, s): labels for d, table in SCENARIOS.items() if d != "digits" for s, labels in table.items()}
    assert {key: " ".join(map(str, labels)) for key, labels in ours.items()} == TABLE_5


def test_groupings_by_label_and_by_name():
    names = ["cat", "dog", "owl"]
    assert get_scenario("folder", "owl+cat", class_names=names).normal == (0, 2)
    assert get_scenario("mnist", "7").normal == (7,)
    assert get_scenario("mnist", "0+9").normal == (0, 9)
    assert get_scenario("folder", "ALL", class_names=names).normal == (0, 1, 2)


@pytest.mark.parametrize("name", ["CURR", "10", "0+0", "", "0+", "-1", "ALL"])
def test_unknown_scenarios_are_refused_with_the_known_ones(name):
    with pytest.raises(DataError, match="scenario"):
        get_scenario("mnist", name)


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


def test_hidden_classes_do_not_move_a_single_image(make_data):
    """Swapping which normal class an image has, or which anomalous one, leaves every tensor as it was."""
    plain = split_of(make_data)
    labels = np.repeat(np.arange(4), 50)
    random = np.random.default_rng(3)
    labels[:100], labels[100:] = random.permutation(labels[:100]), random.permutation(labels[100:])
    shuffled = split_of(make_data, labels)
    for part in ("train", "calibration", "test"):
        assert torch.equal(getattr(plain, part), getattr(shuffled, part))
    assert not np.array_equal(plain.answers.train_class, shuffled.answers.train_class)


def test_whole_tracks_go_to_one_side(make_data):
    labels, tracks = np.zeros(300, int), np.arange(300) // 30
    data, other = make_data(labels, tracks=tracks), make_data([0, 5])
    split = make_split(data, other, get_scenario("gtsrb", "0"), seed=1)
    assert not set(tracks[split.train_index]) & set(tracks[split.calibration_index])
    assert len(split.calibration) == 30


def test_seeds_differ_and_repeat(make_data):
    one, again, other = (split_of(make_data, seed=seed).calibration_index for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_caps(make_data):
    split = split_of(make_data, max_train=20, max_test=30)
    assert (len(split.train), len(split.test)) == (20, 30)


def test_bad_splits_are_refused(make_data):
    data = make_data([0, 0, 0, 1])
    with pytest.raises(DataError, match="'c2' has no training images"):
        make_split(data, data, get_scenario("mnist", "0+2"), seed=0)
    with pytest.raises(DataError, match="only normal images"):
        make_split(data, data, get_scenario("mnist", "0+1"), seed=0)
    with pytest.raises(DataError, match="too few"):
        make_split(make_data([0]), data, get_scenario("mnist", "0"), seed=0)


def test_the_digits_split_is_fixed():
    train, test = load_dataset("digits")
    assert (train.images.shape, test.images.shape) == ((1347, 1, 16, 16), (450, 1, 16, 16))
    split = load_split(make_config("digits", "CUR"))
    assert len(split.train) + len(split.calibration) == np.isin(train.labels, (0, 3, 8)).sum()
    assert int((~split.answers.test_anomaly).sum()) == np.isin(test.labels, (0, 3, 8)).sum()


@pytest.mark.slow
def test_no_gtsrb_track_on_both_sides_of_real_data():
    train, _ = load_dataset("gtsrb")
    split = load_split(make_config("gtsrb", "WARN"))
    assert not set(train.tracks[split.train_index]) & set(train.tracks[split.calibration_index])
    assert len(np.unique(train.tracks)) == 26640 // 30


def test_splits_are_frozen(make_data):
    with pytest.raises(dataclasses.FrozenInstanceError):
        split_of(make_data).train = None
