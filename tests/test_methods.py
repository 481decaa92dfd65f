"""Every method through the run store: blind to hidden classes, found again, honest about protocol; choosing without anomalies."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from clad_lib import calibration, evaluation, methods, pipeline, results, selection
from clad_lib.baselines import BASELINES
from clad_lib.config import METHODS, ONE_CLASS, make_config
from clad_lib.measure import metrics
from clad_lib.runs import STAGES, RunError


def study_of(root, *, seed=0, **overrides):
    config = make_config(profile="smoke", seed=seed, clusters=5, **overrides)
    return pipeline.open_study(config, runs_root=root, device="cpu", progress=False)


def run_all(study):
    for name in methods.METHODS:
        methods.prepare(study, name)
    return {name: methods.scores(study, name) for name in methods.METHODS}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    study = study_of(tmp_path_factory.mktemp("runs"))
    return study, run_all(study)


def record(study, name, file="config.json"):
    return json.loads((study.run.find(name) / file).read_text())


def test_every_method_scores_every_test_image(finished):
    study, scores = finished
    for name, result in scores.items():
        assert len(result.test) == len(study.split.test), name
        assert np.isfinite(result.test).all(), name
        assert np.isclose(result.metrics["auroc"], evaluation.auroc(result.test, study.split.answers.test_anomaly)), name
        assert result.metrics["auroc_low"] <= result.metrics["auroc"] <= result.metrics["auroc_high"], name


def test_hidden_classes_and_test_labels_change_no_score_but_the_oracles(finished, tmp_path):
    study, scores = finished
    answers, random = study.split.answers, np.random.default_rng(1)
    shuffled = {field.name: random.permutation(getattr(answers, field.name)) for field in dataclasses.fields(answers)}
    split = dataclasses.replace(study.split, answers=type(answers)(**shuffled))
    again = run_all(dataclasses.replace(study, split=split, run=dataclasses.replace(study.run, root=tmp_path)))
    for name in methods.METHODS:
        if name != "Oracle":
            assert np.array_equal(again[name].test, scores[name].test), name
            assert np.array_equal(again[name].calibration, scores[name].calibration), name


def test_the_oracle_says_so_and_nothing_else_does(finished):
    study, _ = finished
    protocols = {name: record(study, name)["protocol"] for name in methods.METHODS}
    assert {name for name, protocol in protocols.items() if protocol == "oracle"} == {"Oracle"}
    table = results.collect(study.run.root)
    assert set(table[table.protocol == "oracle"].method) == {"Oracle"}
    assert set(table.method) == set(methods.METHODS)


def test_a_switched_defect_is_stamped_and_changes_the_metric_as_published(finished):
    study, scores = finished
    values = {name: scores[name].metrics["auroc"] for name in methods.CLAD}
    low = min(values, key=lambda name: values[name])
    assert values[low] < 0.5  # the smoke profile hardly trains: some score points the wrong way
    defect = study_of(study.run.root, flip_auroc=True, hard_svdd=True, best_f1=True)
    flipped = methods.scores(defect, low).metrics
    assert np.isclose(flipped["auroc"], 1 - values[low])
    assert record(defect, low)["protocol"] == "paper_compat"
    assert not np.isclose(methods.scores(study, low).metrics["auroc"], flipped["auroc"])
    svdd, anomaly = scores["SVDD"], study.split.answers.test_anomaly
    hard = methods.scores(defect, "SVDD").metrics
    one_point = (1 + (svdd.test > 0)[anomaly].mean() - (svdd.test > 0)[~anomaly].mean()) / 2
    assert np.isclose(hard["auroc"], max(one_point, 1 - one_point))
    assert hard["f1"] == pytest.approx(max(evaluation.f1_at(svdd.test, anomaly, t).f1 for t in [-np.inf, *svdd.test]))


def test_f1_is_taken_at_the_threshold_from_calibration_images(finished):
    study, scores = finished
    found = scores["OCSVM"]
    line = calibration.threshold_for(found.calibration, alpha=0.1, delta=0.1)
    if line.guarantee == "none":
        assert found.metrics["f1"] is None
        assert found.metrics["threshold"].get("value") is None
    else:
        assert found.metrics["f1"] == evaluation.f1_at(found.test, study.split.answers.test_anomaly, line.value).f1


def test_a_test_split_of_normal_images_gives_a_threshold_and_no_auroc(finished):
    study, scores = finished
    answers = dataclasses.replace(study.split.answers, test_anomaly=np.zeros(len(study.split.test), dtype=bool))
    split = dataclasses.replace(study.split, answers=answers)
    found = metrics(study.config, split, "OCSVM", scores["OCSVM"].calibration, scores["OCSVM"].test)
    assert "auroc" not in found
    assert 0 <= found["alarm_rate"] <= 1


def test_frames_of_one_track_count_once(finished):
    study, scores = finished
    tracks = np.arange(len(study.split.calibration)) // 3
    split = dataclasses.replace(study.split, calibration_tracks=tracks)
    found = metrics(study.config, split, "OCSVM", scores["OCSVM"].calibration, scores["OCSVM"].test)
    assert found["threshold"]["n"] == len(np.unique(tracks)) < len(tracks)


def test_the_ensemble_keeps_its_reference_images_out_of_the_calibration(finished):
    study, scores = finished
    whole, half = len(study.split.calibration), scores["RankAverage"].calibration
    assert len(half) == whole - whole // 2
    plain = methods.one_pass(study, make=False)
    used = np.random.default_rng(0).permutation(whole) < whole // 2
    ranks = [
        (rankdata(np.append(plain["calibration"][name][used], plain["test"][name][7]))[-1] - 1) / used.sum()
        for name in methods.ONE_PASS
    ]
    assert np.isclose(scores["RankAverage"].test[7], np.mean(ranks))


def test_an_unknown_method_and_a_missing_stage_say_what_to_do(tmp_path):
    study = study_of(tmp_path)
    with pytest.raises(ValueError, match="unknown method 'KNNN': expected one of ODIN, MSP"):
        methods.scores(study, "KNNN")
    for name, notebook in (("KNN", "04_classifier"), ("OCNN", "02_latent_space")):
        with pytest.raises(RunError, match=f"run notebook {notebook} first"):
            methods.scores(study, name)


def test_folds_withhold_whole_pseudo_classes_and_share_no_image():
    labels = np.random.default_rng(0).integers(0, 10, 3000)
    folds = selection.withheld_folds(labels, folds=3, share=0.3, seed=1)
    outside = []
    for fold in folds:
        parts = [set(rows) for rows in fold]
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
        kept, withheld = set(labels[fold.train]) | set(labels[fold.normal]), set(labels[fold.withheld])
        assert not kept & withheld
        assert len(withheld) == 3
        assert len(fold.normal) <= selection.IMAGES >= len(fold.withheld)
        outside.append(withheld)
    assert not outside[0] & outside[1] | outside[1] & outside[2]


@pytest.mark.parametrize(("classes", "share", "count"), [(3, 0.9, 1), (4, 0.1, 1), (10, 0.5, 5)])
def test_two_classes_are_always_kept(classes, share, count):
    labels = np.arange(200) % classes
    for fold in selection.withheld_folds(labels, folds=4, share=share, seed=0):
        assert len(set(labels[fold.withheld])) == count
        assert len(set(labels[fold.train])) >= 2


def test_too_few_pseudo_classes_are_refused():
    with pytest.raises(ValueError, match="got 2 pseudo-classes"):
        selection.withheld_folds(np.arange(20) % 2, folds=2, share=0.3, seed=0)


def test_with_two_clusters_nothing_is_withheld_and_the_configured_odin_is_used(tmp_path):
    study = pipeline.open_study(make_config(profile="smoke", clusters=2), runs_root=tmp_path, device="cpu", progress=False)
    methods.prepare(study, "Selected")
    selected = methods.scores(study, "Selected")
    assert selected.metrics["choice"] == {"score": "ODIN", "temperature": 1000, "epsilon": 0.0014, "auroc": None}
    assert np.array_equal(selected.test, methods.scores(study, "ODIN").test)


def test_the_choice_is_the_best_mean_over_folds_by_hand():
    table = pd.DataFrame({
        "fold": [0, 0, 0, 1, 1, 1], "score": ["ODIN", "ODIN", "KNN"] * 2, "temperature": [1, 1000, np.nan] * 2,
        "epsilon": [0, 0.1, np.nan] * 2, "auroc": [0.9, 0.7, 0.8, 0.5, 0.75, 0.8],
    })  # fmt: skip
    assert selection.choose(table)[0] == "KNN"
    assert selection.choose(table).auroc == pytest.approx(0.8)
    assert selection.choose(table[table.score == "ODIN"])[:3] == ("ODIN", 1000, 0.1)
    with pytest.raises(ValueError, match="at least one fold"):
        selection.choose(table[:0])


def test_the_selected_score_is_the_one_that_was_chosen(finished):
    study, scores = finished
    choice = selection.choose(methods.simulations(study, make=False))
    stored = scores["Selected"].metrics["choice"]
    assert stored["score"] == choice.score
    if choice.score == "ODIN":
        same = study_of(study.run.root, temperature=choice.temperature, epsilon=choice.epsilon)
        assert np.array_equal(methods.scores(same, "ODIN").test, scores["Selected"].test)
    else:
        assert np.array_equal(scores[choice.score].test, scores["Selected"].test)


def test_the_oracle_is_at_least_as_good_as_the_selected_on_the_images_it_chose_on(finished):
    study, scores = finished
    assert len(study.split.test) <= selection.GRID_IMAGES
    assert scores["Oracle"].metrics["auroc"] >= scores["Selected"].metrics["auroc"] - 1e-9


def test_cluster_numbers_are_compared_on_the_same_withheld_groups(finished):
    study, _ = finished
    table = selection.simulate_clusters(study, (2, 3))
    assert list(table.columns) == ["fold", "clusters", "auroc"]
    assert len(table) == 2 * study.config.folds
    assert table.auroc.between(0, 1).all()


def test_the_names_of_the_methods_are_those_that_there_are():
    assert tuple(BASELINES) == ONE_CLASS
    assert set(METHODS) == {name for name in STAGES if STAGES[name].notebook in ("05_odin_scoring", "06_baselines")} - {
        "outputs", "one_pass", "odin_grid", "simulations"}  # fmt: skip
