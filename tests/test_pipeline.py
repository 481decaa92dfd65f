"""One whole run in the smoke profile: found again by content, blind to hidden classes, whole or absent on the disk."""

import dataclasses
import errno
import json
import shutil

import numpy as np
import pytest
import torch

from clad_lib import methods, pipeline, runs
from clad_lib.config import make_config


def study_of(root, *, seed=0, **overrides):
    config = make_config(profile="smoke", seed=seed, clusters=4, **overrides)
    return pipeline.open_study(config, runs_root=root, device="cpu", progress=False)


def run_all(study):
    pipeline.autoencoder(study)
    pipeline.clusters(study)
    pipeline.classifier(study)
    return {name: methods.scores(study, name) for name in ("ODIN", "MSP")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    study = study_of(tmp_path_factory.mktemp("runs"))
    return study, run_all(study)


def times(study):
    return {path: path.stat().st_mtime_ns for path in study.run.root.rglob("*") if path.is_file()}


def test_scores_are_finite_and_aligned_with_the_split(finished):
    study, scores = finished
    for result in scores.values():
        assert len(result.test) == len(study.split.test)
        assert len(result.calibration) == len(study.split.calibration)
        assert np.isfinite(result.test).all()


def test_hidden_classes_and_test_labels_change_no_score(finished, tmp_path):
    study, scores = finished
    answers, random = study.split.answers, np.random.default_rng(1)
    shuffled = {field.name: random.permutation(getattr(answers, field.name)) for field in dataclasses.fields(answers)}
    split = dataclasses.replace(study.split, answers=type(answers)(**shuffled))
    again = dataclasses.replace(study, split=split, run=dataclasses.replace(study.run, root=tmp_path))
    for name, result in run_all(again).items():
        assert np.array_equal(result.test, scores[name].test)
        assert np.array_equal(result.calibration, scores[name].calibration)
        assert result.metrics["auroc"] != scores[name].metrics["auroc"]


def test_the_published_defect_does_read_hidden_classes(finished):
    study, _ = finished
    defect = dataclasses.replace(study, config=dataclasses.replace(study.config, hidden_statistics=True))
    assert not torch.equal(pipeline.statistics(defect)[1], pipeline.statistics(study)[1])


def test_same_seed_same_bits_another_seed_other_bits(finished, tmp_path):
    _, scores = finished
    assert np.array_equal(run_all(study_of(tmp_path / "a"))["ODIN"].test, scores["ODIN"].test)
    other = run_all(study_of(tmp_path / "b", seed=1))["ODIN"].test
    assert not np.array_equal(other, scores["ODIN"].test)


def test_another_temperature_retrains_nothing(finished):
    study, _ = finished
    before = times(study)
    warmer = study_of(study.run.root, temperature=2.0)
    run_all(warmer)
    after = times(study)
    assert all(after[path] == when for path, when in before.items())
    new = {path.parent.parent.name.partition("-")[0] for path in set(after) - set(before)}
    assert new == {"ODIN"}


def test_another_cluster_number_keeps_the_autoencoder_only(finished):
    study, _ = finished
    other = dataclasses.replace(study.run, config=dataclasses.replace(study.config, clusters=3))
    assert other.has("autoencoder")
    assert not any(other.has(name) for name in ("clusters", "classifier", "ODIN", "MSP"))


def test_a_missing_artefact_names_its_notebook(tmp_path):
    study = study_of(tmp_path)
    with pytest.raises(runs.RunError, match="run notebook 02_latent_space first"):
        pipeline.clusters(study)
    with pytest.raises(runs.RunError, match="05_odin_scoring"):
        methods.scores(study, make=False)


def test_a_mixed_configuration_is_refused_with_the_fields(finished, tmp_path):
    study, _ = finished
    folder = shutil.copytree(study.run.find("autoencoder"), tmp_path / "copy")
    other = dataclasses.replace(study.run, config=dataclasses.replace(study.config, latent=7), root=tmp_path)
    shutil.copytree(folder, other.folder("autoencoder"))
    with pytest.raises(runs.RunError, match="latent 10 is not 7"):
        other.find("autoencoder")


def test_a_damaged_model_is_named_with_the_cure(finished, tmp_path):
    study, _ = finished
    folder = shutil.copytree(study.run.find("classifier"), tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(runs.RunError, match="remove that folder"):
        runs.load_weights(folder)
    (folder / "arrays.npz").write_bytes(b"PK half")
    with pytest.raises(runs.RunError, match="remove that folder"):
        runs.load_arrays(folder)


def _write_and_stop(folder, error):
    (folder / "model.json").write_text("{}")
    raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("x")])
def test_a_stage_that_stops_leaves_nothing(tmp_path, error):
    study = study_of(tmp_path)
    kind = runs.RunError if isinstance(error, OSError) else type(error)
    with pytest.raises(kind), study.run.writing("autoencoder") as folder:
        _write_and_stop(folder, error)
    assert not study.run.has("autoencoder")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list(tmp_path.rglob(".seed*"))


def test_a_runs_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    study = study_of(tmp_path / "file" / "runs")
    with pytest.raises(runs.RunError, match="choose another folder with --runs"), study.run.writing("autoencoder"):
        pass


def test_who_finishes_first_is_kept(finished, tmp_path):
    study = study_of(tmp_path)
    with study.run.writing("autoencoder") as slow:
        (slow / "who").write_text("slow")
        with study.run.writing("autoencoder") as quick:
            (quick / "who").write_text("quick")
    assert (study.run.find("autoencoder") / "who").read_text() == "quick"


def test_results_say_how_they_were_measured(finished):
    study, _ = finished
    record = json.loads((study.run.find("ODIN") / "config.json").read_text())
    assert record["config"]["protocol"] == "clean"
    assert record["config"]["profile"] == "smoke"
    assert record["versions"]["torch"]
    assert record["machine"]["cores"]
    assert record["commit"]


def test_latents_and_map_are_made_once(finished):
    study, _ = finished
    drawn, rows = pipeline.latent_map(study)
    again, _ = pipeline.latent_map(study, make=False)
    assert drawn.points.shape == (len(rows), 2)
    assert np.array_equal(drawn.points, again.points)
