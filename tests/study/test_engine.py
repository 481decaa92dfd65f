"""Finding or making artefacts; and that a score, a baseline and a data set are one place each."""

import io
import json
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from clad_lib import config, make_config, open_study
from clad_lib.__main__ import application
from clad_lib.clad.scores import Scored
from clad_lib.data.pictures import DataError
from clad_lib.data.scenarios import get_scenario, load_split
from clad_lib.study import stages
from clad_lib.study.engine import ReuseWarning
from clad_lib.study.store import StoreError

PLUGIN = '''
"""Another package: one score of the classifier, one method of the pixels, a row each."""

from clad_lib.clad.scores import PartOutputs, Scored
from clad_lib.methods.scorers import FittedScorer
from clad_lib.study.stages import Row


def margin(split, settings, outputs: PartOutputs) -> Scored:
    parts = [-part.logits.topk(2).values.diff().abs().squeeze(1) for part in outputs]
    return Scored(parts[1].double().numpy(), parts[2].double().numpy())


def brightness(split, settings) -> FittedScorer:
    mean = split.train.float().mean() + settings.nu
    shape = tuple(split.train.shape[1:])
    return FittedScorer(lambda images: (images.float().mean((1, 2, 3)) - mean).abs(), shape)


ROWS = {
    "Margin": Row(margin, ("outputs",), shown_in="05_odin_scoring", block="latent classes"),
    "Brightness": Row("toy_plugin:brightness", reads=("nu",), block="controls"),
}
'''
TOYS = """[toys]
title = "Toys"
channels = 1
size = 16
mirror = true
turnable = true
classes = ["dark", "grey", "bright"]
settings = { clusters = 2, latent = 4 }

[toys.scenarios.DULL]
title = "dull toys"
normal = [0, 1]
"""


def write_toys(path, each, seed):
    """`each` pictures of each class, whose brightness tells it, in the Hugging Face layout."""
    random = np.random.default_rng(seed)
    cells, labels = [], np.repeat([0, 1, 2], each).tolist()
    for label in labels:
        picture = random.integers(0, 40, (16, 16), dtype=np.uint8) + np.uint8(90 * label)
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "png")
        cells.append({"bytes": stream.getvalue(), "path": None})
    pd.DataFrame({"image": cells, "label": labels}).to_parquet(path)


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """An installed package with two rows, and a folder of data that describes a data set."""
    data, site = tmp_path / "data", tmp_path / "site"
    package = site / "toy-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Name: toy\nVersion: 1.0\n", encoding="utf-8")
    entry = "[clad.methods]\ntoy = toy_plugin:ROWS\n"
    (package / "entry_points.txt").write_text(entry, encoding="utf-8")
    (site / "toy_plugin.py").write_text(PLUGIN, encoding="utf-8")
    data.mkdir()
    (data / "datasets.toml").write_text(TOYS, encoding="utf-8")
    write_toys(data / "toys-train.parquet", 60, seed=0)
    write_toys(data / "toys-test.parquet", 20, seed=1)
    monkeypatch.setenv("CLAD_DATA", str(data))
    monkeypatch.syspath_prepend(site)
    stages.rows.cache_clear()
    yield site
    stages.rows.cache_clear()


def clad(*words):
    """What a command prints, in this process."""
    done = CliRunner().invoke(application(), list(map(str, words)))
    assert done.exit_code == 0, done.output or done.exception
    return done.output


def test_a_score_a_baseline_and_a_data_set_are_one_place_each(toys, tmp_path):
    """What is added stands in the help, the jobs, an executed run, the table and the results."""
    paths = os.pathsep.join([str(toys), *sys.path])
    line = [sys.executable, "-m", "clad_lib", "run", "--help"]
    told = subprocess.run(
        line, capture_output=True, check=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert all(name in told.stdout.decode() for name in ("toys", "Margin", "Brightness"))
    study, runs = tmp_path / "toys.toml", tmp_path / "runs"
    study.write_text(
        'profile = "smoke"\nmethods = ["Margin", "Brightness"]\n[scenarios]\ntoys = ["DULL"]\n'
        "[overrides]\ncalibration = 0.3\n",
        encoding="utf-8",
    )
    planned = clad("batch", study, "--dry-run", "--runs", runs, "--workers", 1)
    for step in ("classifier", "outputs", "Margin", "Brightness", "05_odin_scoring"):
        assert f"toys DULL seed 0: {step}\n" in planned
    common = ("--dataset", "toys", "--scenario", "DULL", "--profile", "smoke", "--runs", runs)
    table = clad("run", *common, "--methods", "Margin,Brightness", "--set", "calibration=0.3")
    assert "toys DULL (dull toys)" in table
    lines = [line.split()[0] for line in table.splitlines() if line]
    assert lines.index("latent") < lines.index("Margin") < lines.index("Brightness")
    asked = clad("results", "SELECT method, auroc FROM results", "--runs", runs, "--format", "csv")
    answers = [line.split(",") for line in asked.splitlines()[1:]]
    found = dict(pair for pair in answers if len(pair) == 2)  # progress apart
    assert set(found) == {"Margin", "Brightness"}
    assert float(found["Brightness"]) > 0.9  # 90 grey levels between the classes
    done = clad("batch", study, "--dry-run", "--runs", runs, "--workers", 1)
    assert "done     toys DULL seed 0: Margin\n" in done


def test_what_a_data_set_says_of_mirrors_and_turns_is_known_of_its_scenarios(toys):
    for name in ("DULL", "dark+bright"):
        scenario = get_scenario("toys", name)
        assert scenario.mirror, name
        assert scenario.turnable, name
    assert not get_scenario("digits", "STR").turnable


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("ROWS = {", "the rows 'toy_plugin:ROWS' of another package cannot be loaded (SyntaxError"),
        ("ROWS = [1]", "cannot be loaded (TypeError"),
        (PLUGIN.replace('"Brightness"', '"NearestImage"'), "NearestImage in the block 'controls'"),
        (PLUGIN.replace('"controls"', '"latent"'), "Brightness in the block 'latent'"),
    ],
)
def test_rows_that_cannot_be_taken_are_named(toys, plugin, message, monkeypatch):
    monkeypatch.delitem(sys.modules, "toy_plugin", raising=False)
    (toys / "toy_plugin.py").write_text(plugin, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        stages.rows()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("channels = 1\n", "", "[toys] lacks channels"),
        ("channels =", "chanels =", "[toys] lacks channels"),
        ("title =", "[", "is not TOML"),
        ('title = "dull', 'titel = "dull', "[toys.scenarios.DULL] lacks title"),
    ],
)
def test_a_wrong_table_of_a_data_set_is_one_line(toys, tmp_path, old, new, message):
    assert old in TOYS
    (tmp_path / "data" / "datasets.toml").write_text(TOYS.replace(old, new, 1), encoding="utf-8")
    line = [sys.executable, "-m", "clad_lib", "run", "--help"]
    done = subprocess.run(line, capture_output=True, check=False)
    assert done.returncode == 1
    told = done.stderr.decode()
    assert message in told
    assert "datasets.toml" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("label", ["3", '"dull"'])
def test_a_scenario_of_no_class_says_which_there_are(toys, tmp_path, label):
    place = tmp_path / "data" / "datasets.toml"
    place.write_text(TOYS.replace("[0, 1]", f"[0, {label}]"), encoding="utf-8")
    config._tables.cache_clear()
    with pytest.raises(DataError, match="is not there: expected numbers 0 to 2"):
        load_split(make_config("toys", "DULL"))


@pytest.fixture
def study(tmp_path):
    chosen = make_config("digits", "CUR", profile="smoke")
    return open_study(chosen, runs=tmp_path / "runs", device="cpu", progress=False)


def test_what_was_made_is_found_and_what_was_damaged_is_named(study):
    with pytest.raises(StoreError, match="run notebook 06_baselines first"):
        study.find("PNGBytes")
    made = study["PNGBytes"]
    folder = study.path("PNGBytes")
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (record["stage"], record["protocol"], record["threads"]) == ("PNGBytes", "clean", 1)
    written = (folder / "scores.parquet").stat().st_mtime_ns
    again = study.with_settings(temperature=2)["PNGBytes"]  # it reads no temperature
    np.testing.assert_array_equal(again.test, made.test)
    assert (folder / "scores.parquet").stat().st_mtime_ns == written
    (folder / "metrics.json").write_text("{", encoding="utf-8")
    fresh = study.with_settings()
    fresh._loaded.clear()
    with pytest.raises(StoreError, match=r"cannot be read .*remove it and run again"):
        fresh.find("PNGBytes")


def test_an_artefact_of_other_conditions_is_used_with_a_warning(study):
    assert not study["copies"].test_in_train.all()
    path = study.path("copies") / "config.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(record | {"threads": 7}), encoding="utf-8")
    study._loaded.clear()
    with pytest.warns(ReuseWarning, match="copies was made with threads 7"):
        study.find("copies")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.find("copies")  # once is enough


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (lambda split: split.test, "Odd gave a Tensor: expected a Scorer or Scored"),
        (lambda split: Scored(np.zeros(3), np.zeros(len(split.test))), r"Odd gave scores \[\(3,\)"),
        (lambda split: lambda images: images.float(), "expected one an image"),
    ],
)
def test_a_method_that_gives_anything_else_is_named(study, monkeypatch, gives, message):
    def odd(split, settings):
        return gives(split)

    known = stages.rows() | {"Odd": stages.Row(odd, block="controls")}
    monkeypatch.setattr(stages, "rows", lambda: known)
    with pytest.raises(ValueError, match=message):
        study["Odd"]
    assert not study.path("Odd").exists()


def test_what_a_row_may_read_is_what_it_names(study, monkeypatch):
    def greedy(split, settings):
        return settings.temperature

    known = stages.rows() | {"Greedy": stages.Row(greedy, block="controls")}
    monkeypatch.setattr(stages, "rows", lambda: known)
    with pytest.raises(AttributeError, match="'temperature' is read but not declared"):
        study.fit("Greedy")


def test_a_method_of_others_joins_the_scores_that_they_gave(study):
    joined = study["Fused"]
    assert [study.has(need) for need in ("Patches", "Rotation")] == [True, True]
    np.testing.assert_array_equal(joined.test, study.fit("Fused")(study.split.test))
    # what watches the training of Rotation without an anomaly is kept with its metrics
    assert study["Rotation"].metrics["accuracy"] == study.fit("Rotation").accuracy
