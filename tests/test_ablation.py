"""Settings and defects measured one at a time: values add up, stages are found again, protocols are stamped."""

from __future__ import annotations

import numpy as np
import pytest

from clad_lib import ablation, methods, pipeline, plots
from clad_lib.config import make_config
from clad_lib.evaluation import auroc


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    config = make_config(profile="smoke", clusters=4)
    study = pipeline.open_study(config, runs_root=tmp_path_factory.mktemp("runs"), device="cpu", progress=False)
    methods.prepare(study, "ODIN")
    return study


def test_the_waterfall_adds_up_to_the_scenario_with_all_defects(study):
    (name, start), steps = ablation.waterfall_steps(study)
    every = {key: value for defect in ablation.DEFECTS.values() for key, value in defect.items()}
    last = methods.scores(ablation.with_settings(study, every)).metrics["auroc"]
    assert name == "clean"
    assert start == methods.scores(study).metrics["auroc"]
    assert np.isclose(start + sum(steps.values()), last)
    assert last >= 0.5  # the last defect is the flip
    figure = plots.waterfall((name, start), steps)
    assert np.isclose(sum(figure.data[0].y[:-1]), figure.data[0].y[-1])


def test_a_sweep_trains_only_what_the_setting_touches(study):
    before = {path: path.stat().st_mtime_ns for path in study.run.root.rglob("model.safetensors")}
    table = ablation.sweep(study, "clusters", [3, 4])
    assert table.clusters.tolist() == [3, 4]
    assert table.auroc.between(table.low, table.high).all()
    assert table.auroc[1] == methods.scores(study).metrics["auroc"]
    after = {path: path.stat().st_mtime_ns for path in study.run.root.rglob("model.safetensors")}
    assert all(after[path] == when for path, when in before.items())
    assert not [path for path in set(after) - set(before) if "autoencoder" in str(path)]


def test_every_defect_is_stamped(study):
    for settings in ablation.DEFECTS.values():
        changed = ablation.with_settings(study, settings)
        assert changed.config.protocol == ("clean" if "stem" in settings else "paper_compat")


def test_published_metrics_of_svdd(study):
    table = ablation.published_metrics(study).set_index("SVDD")
    scores, anomaly = methods.scores(study, "SVDD").test, study.split.answers.test_anomaly
    assert np.isclose(table.AUROC["as they are"], auroc(scores, anomaly))
    assert np.isclose(table.AUROC["ROC of +-1 decisions"], auroc((scores > 0).astype(float), anomaly))
    assert table.AUROC["and flipped"] >= 0.5
    assert table.protocol.tolist() == ["clean", "paper_compat", "paper_compat", "paper_compat"]


def test_a_wrong_setting_is_refused_before_training(study):
    with pytest.raises(ValueError, match="did you mean 'clusters'"):
        ablation.sweep(study, "cluster", [3])
    with pytest.raises(TypeError, match="latent is 'ten'"):
        ablation.with_settings(study, {"latent": "ten"})
