"""Choosing without anomalies: folds, simulations and choices by hand, and what the oracle promises."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from clad_lib.clad import scores
from clad_lib.clad.networks import ConvAutoencoder, Trained
from clad_lib.clad.posthoc import POSTHOC
from clad_lib.clad.training import seeded, train_classifier
from clad_lib.config import Settings, make_config
from clad_lib.data.scenarios import load_split
from clad_lib.judge.metrics import auroc
from clad_lib.methods import selected
from clad_lib.methods.scorers import NotApplicable

CONFIG = make_config(
    "digits", "CUR", profile="smoke", min_steps=8, clf_batch=32, max_train=120, max_test=90
)
TRAINS = ("stem", "clf_epochs", "clf_lr", "clf_batch", "clf_schedule", "min_steps")
TRAINS += ("hidden_statistics",)
FOLDS = ("folds", "withheld", "fold_epochs", "odin_factor")
FOLDS += tuple(name for name in TRAINS if name != "clf_epochs")
CHOICE = ("temperature", "epsilon", "epsilon_unit", "odin_factor")
EPSILONS = scores.EPSILONS  # before a fixture takes some of them


def view(*reads, **overrides):
    config = dataclasses.replace(CONFIG, **overrides)
    return Settings(config, reads, device=torch.device("cpu"), progress=False)


@pytest.fixture(scope="module", autouse=True)
def small_grid():
    """Every fourth epsilon, since each is a pass."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (selected, scores):
            patch.setattr(module, "EPSILONS", EPSILONS[::4])
        yield


@pytest.fixture(scope="module")
def split():
    return load_split(CONFIG)


@pytest.fixture(scope="module")
def clusters(split):
    """Five pseudo-classes by brightness."""
    light = split.train.float().mean((1, 2, 3))
    return SimpleNamespace(labels=(light.argsort().argsort() * 5 // len(light)).numpy())


@pytest.fixture(scope="module")
def classifier(split, clusters):
    with seeded(0):
        return train_classifier(
            split, view(*TRAINS), split.train, torch.from_numpy(clusters.labels)
        )


@pytest.fixture(scope="module")
def one_pass(split, clusters, classifier):
    train, *parts = (
        scores.outputs(classifier.model, images)
        for images in (split.train, split.calibration, split.test)
    )
    labels, head = torch.from_numpy(clusters.labels), classifier.model.head
    return [
        scores.Scored(*(score(part, train, labels, head).numpy() for part in parts))
        for score in POSTHOC.values()
    ]


@pytest.fixture(scope="module")
def simulations(split, clusters):
    return selected.simulations(split, view(*FOLDS), clusters)


def folds_of(folds, share, seed=0):
    return SimpleNamespace(folds=folds, withheld=share, seed=seed)


def test_folds_withhold_whole_pseudo_classes_and_share_no_image():
    labels = np.random.default_rng(0).integers(0, 10, 3000)
    outside = []
    for fold in selected.withheld_folds(labels, np.arange(3000), folds_of(3, 0.3, 1), limit=100):
        parts = [fold.train, fold.tested[~fold.withheld], fold.tested[fold.withheld]]
        rows = np.concatenate(parts)
        assert len(set(rows)) == len(rows)
        kept, withheld = set(labels[np.concatenate(parts[:2])]), set(labels[parts[2]])
        assert not kept & withheld
        assert len(withheld) == 3
        assert len(parts[1]) == len(parts[2]) == 100
        outside.append(withheld)
    assert not outside[0] & outside[1] | outside[1] & outside[2] | outside[0] & outside[2]


@pytest.mark.parametrize(("classes", "share", "count"), [(3, 0.9, 1), (4, 0.1, 1), (10, 0.5, 5)])
def test_two_classes_are_always_kept(classes, share, count):
    labels = np.arange(200) % classes
    folds = selected.withheld_folds(labels, np.arange(200), folds_of(4, share))
    assert len(folds) == 4
    for fold in folds:
        assert len(set(labels[fold.tested[fold.withheld]])) == count
        assert len(set(labels[fold.train])) >= 2


def test_with_fewer_than_three_pseudo_classes_there_are_no_folds():
    for classes in (1, 2):
        labels = np.arange(20) % classes
        assert selected.withheld_folds(labels, np.arange(20), folds_of(2, 0.3)) == []


def test_frames_of_one_track_do_not_stand_on_both_sides():
    tracks = np.arange(1200) // 30
    labels = np.random.default_rng(3).integers(0, 8, 1200)
    for fold in selected.withheld_folds(labels, tracks, folds_of(2, 0.3)):
        normal = fold.tested[~fold.withheld]
        assert len(normal)
        assert not set(tracks[fold.train]) & set(tracks[normal])
        assert len(set(tracks[normal])) == len(set(tracks)) // 10


def test_every_score_is_rated_in_every_fold_with_the_settings_that_are_declared(simulations):
    table = simulations.table
    grid = len(scores.TEMPERATURES) * len(selected.EPSILONS)
    assert set(table.groupby("fold").score.value_counts().unstack().ODIN) == {grid}
    assert len(table) == CONFIG.folds * (grid + len(POSTHOC))
    assert table.auroc.between(0, 1).all()
    assert set(table.score) == {"ODIN", *POSTHOC}
    assert max(EPSILONS) == 0.06


def test_a_fold_is_rated_by_a_classifier_that_never_saw_the_withheld(split, clusters, simulations):
    given = clusters.labels, split.train_tracks, folds_of(2, CONFIG.withheld)
    fold = selected.withheld_folds(*given)[1]
    labels = np.unique(clusters.labels[fold.train], return_inverse=True)[1]
    with seeded(1):
        model = train_classifier(
            split,
            view(*TRAINS),
            split.train[fold.train],
            torch.from_numpy(labels),
            epochs=CONFIG.fold_epochs,
        ).model
    tested = split.train[fold.tested]
    step = scores.odin(model, tested, temperature=10.0, epsilon=0.0056).numpy()
    largest = -scores.outputs(model, tested).logits.double().amax(1).numpy()
    table = simulations.table[simulations.table.fold == 1]
    odin = table[(table.score == "ODIN") & (table.temperature == 10) & (table.epsilon == 0.0056)]
    assert odin.auroc.item() == auroc(step, fold.withheld)
    found = table[table.score == "MaxLogit"].auroc.item()
    assert found == pytest.approx(auroc(largest, fold.withheld))


@pytest.mark.parametrize("setting", [{"stem": "published"}, {"clf_lr": 1e-5}, {"clf_batch": 7}])
def test_settings_that_train_a_classifier_change_what_is_simulated(
    setting, split, clusters, simulations
):
    other = selected.simulations(split, view(*FOLDS, folds=1, **setting), clusters).table
    assert not np.allclose(other.auroc, simulations.table.auroc[: len(other)])


def test_the_defect_multiplies_the_steps_of_the_grid(split, clusters, simulations):
    other = selected.simulations(split, view(*FOLDS, folds=1, odin_factor=True), clusters).table
    table = simulations.table[: len(other)]
    same = (table.score != "ODIN") | (table.epsilon == 0)
    assert np.array_equal(table.auroc[same], other.auroc[same])
    assert not np.allclose(table.auroc[~same], other.auroc[~same])
    assert set(other.unit[other.score == "ODIN"]) == {"published"}


def test_the_choice_is_the_best_mean_over_folds_by_hand():
    nan = np.nan
    table = pd.DataFrame(
        {
            "fold": [0, 0, 0, 1, 1, 1],
            "score": ["ODIN", "ODIN", "KNN"] * 2,
            "temperature": [1, 1000, nan] * 2,
            "epsilon": [0, 0.1, nan] * 2,
            "unit": ["pixel", "pixel", ""] * 2,
            "auroc": [0.9, 0.7, 0.8, 0.5, 0.75, 0.8],
        }
    )
    assert selected.choose(table).score == "KNN"
    assert selected.choose(table).auroc == pytest.approx(0.8)
    assert selected.choose(table[table.score == "ODIN"])[:3] == ("ODIN", 1000, 0.1)
    table.auroc = 0.5
    assert selected.choose(table)[:3] == ("ODIN", 1, 0)  # of equal ones the first


def test_the_selected_score_is_the_one_that_was_chosen(split, simulations, classifier, one_pass):
    odin = simulations.table.score == "ODIN"
    for table in (simulations.table, simulations.table[odin], simulations.table[~odin]):
        chosen = selected.Simulations(table)
        found = selected.selected(split, view(*CHOICE), chosen, classifier, *one_pass)
        choice = selected.choose(table)
        assert found.extra["choice"]["score"] == choice.score
        assert found.extra["choice"]["auroc"] == choice.auroc
        if choice.score == "ODIN":
            options = dict(temperature=choice.temperature, epsilon=choice.epsilon)
            expected = scores.odin(classifier.model, split.test, **options).numpy()
        else:
            expected = dict(zip(POSTHOC, one_pass, strict=True))[choice.score].test
            assert found.extra["choice"]["temperature"] is None
        assert np.array_equal(found.test, expected)
        assert len(found.calibration) == len(split.calibration)


@pytest.mark.parametrize("unit", [{}, {"epsilon_unit": "published"}, {"odin_factor": True}])
def test_with_two_clusters_the_configured_odin_is_used(unit, split, classifier, one_pass):
    clusters = SimpleNamespace(labels=np.arange(len(split.train)) % 2)
    simulations = selected.simulations(split, view(*FOLDS), clusters)
    assert simulations.table.empty
    settings = view(*CHOICE, temperature=10.0, epsilon=0.01, **unit)
    found = selected.selected(split, settings, simulations, classifier, *one_pass)
    scorer = scores.odin_scores(split, settings, classifier)
    assert np.array_equal(found.test, scorer(split.test).numpy())
    assert np.array_equal(found.calibration, scorer(split.calibration).numpy())
    step = "published" if unit else "pixel"
    known = {"score": "ODIN", "temperature": 10, "epsilon": 0.01, "unit": step, "auroc": None}
    assert found.extra["choice"] == known


@pytest.mark.parametrize("unit", ["pixel", "published"])
@pytest.mark.parametrize("sample", [2000, 25])
def test_the_oracle_is_the_best_of_the_one_pass_scores_and_of_the_step_that_is_best_on_the_grid(
    sample, unit, split, classifier, one_pass, monkeypatch
):
    monkeypatch.setattr(scores, "GRID_IMAGES", sample)
    anomaly = split.answers.test_anomaly
    settings = view("odin_factor", odin_factor=unit == "published")
    sampled = scores.odin_grid_of(split, settings, classifier)
    found = selected.oracle(split, settings, classifier, sampled, *one_pass)
    bound = auroc(found.test, anomaly)
    assert found.extra["choice"]["auroc"] == bound
    grid = scores.odin_grid(
        classifier.model,
        split.test,
        temperatures=scores.TEMPERATURES,
        epsilons=selected.EPSILONS,
        unit=unit,
    ).reshape(-1, len(anomaly))
    rows = sampled.test_rows
    assert len(rows) == min(sample, len(anomaly))
    steps = [auroc(values[rows], anomaly[rows]) for values in grid]
    others = [auroc(each.test, anomaly) for each in one_pass]
    step = auroc(grid[np.argmax(steps)], anomaly)
    assert bound == max(step, *others)
    if sample >= len(anomaly):
        assert bound == max(*steps, *others)  # an upper bound
    assert len(found.test) == len(split.test)
    assert len(found.calibration) == len(split.calibration)


def test_the_oracle_takes_a_one_pass_score_where_that_is_best(split, classifier, one_pass):
    anomaly = split.answers.test_anomaly
    perfect = scores.Scored(one_pass[4].calibration, anomaly.astype(float))
    listed = [*one_pass[:4], perfect, *one_pass[5:]]
    grid = scores.odin_grid_of(split, view("odin_factor"), classifier)
    found = selected.oracle(split, view("odin_factor"), classifier, grid, *listed)
    assert found.extra["choice"]["score"] == "Mahalanobis"
    assert np.array_equal(found.test, perfect.test)
    assert np.array_equal(found.calibration, perfect.calibration)


@pytest.mark.parametrize("kind", [0, 1])
def test_the_oracle_says_where_it_cannot_run(kind, split, classifier, one_pass):
    answers = dataclasses.replace(split.answers, test_anomaly=np.full(len(split.test), kind == 1))
    other = dataclasses.replace(split, answers=answers)
    grid = SimpleNamespace(test_rows=np.arange(len(split.test)))
    sample = SimpleNamespace(test_rows=np.flatnonzero(split.answers.test_anomaly == (kind == 1)))
    for whole, known in ((other, grid), (split, sample)):
        with pytest.raises(NotApplicable, match="expected both kinds"):
            selected.oracle(whole, view("odin_factor"), classifier, known, *one_pass)


def test_labels_change_nothing_but_the_oracle(split, clusters, simulations, classifier, one_pass):
    shuffled = {
        field.name: np.random.default_rng(1).permutation(getattr(split.answers, field.name))
        for field in dataclasses.fields(split.answers)
    }
    other = dataclasses.replace(split, answers=type(split.answers)(**shuffled))
    again = selected.simulations(other, view(*FOLDS, folds=1), clusters).table
    pd.testing.assert_frame_equal(again, simulations.table[: len(again)])
    one, two = (
        selected.selected(each, view(*CHOICE), simulations, classifier, *one_pass)
        for each in (split, other)
    )
    assert np.array_equal(one.test, two.test)


def test_cluster_numbers_are_compared_on_the_same_withheld_groups(split):
    model = ConvAutoencoder(*split.train.shape[1:3], latent=4).eval()
    settings = view(*FOLDS, "kmeans_inits")
    table = selected.simulate_clusters(split, settings, Trained(model, None), candidates=(2, 3))
    assert list(table.columns) == ["fold", "clusters", "auroc"]
    assert table.fold.tolist() == [0, 0, 1, 1]
    assert table.clusters.tolist() == [2, 3] * 2
    assert table.auroc.between(0, 1).all()
