"""The table over all runs, what is asked of it, and what is kept of it, from hand-made runs."""

import json
import os
import time

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from clad_lib import plots, records, results, tracking
from clad_lib.__main__ import app


def write_run(
    root, *, dataset="mnist", scenario="CUR", method="ODIN", seed=0, auroc=0.9, profile="fast", commit="abcdef1234", **settings
):
    name = "-".join([profile, *(f"{key}{value}" for key, value in settings.items())])
    folder = root / dataset / scenario / f"{method}-{name}" / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(dataset=dataset, scenario=scenario, profile=profile, protocol="clean", seed=seed)
    record = dict(
        config=config, settings=settings, stage=method, seconds=1.5, commit=commit, machine=dict(cpu="x", cores=2, gpu=None)
    )
    (folder / "config.json").write_text(json.dumps(record))
    metrics = dict(auroc=auroc, aupr_anomaly=0.5, aupr_normal=0.5, fpr95=0.2, peak_memory_mb=9, images=dict(train=3, test=4))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def write_scores(folder, scores):
    """The first score belongs to a calibration image, the others to tests, of which the last is anomalous."""
    count = len(scores)
    table = {"split": ["calibration"] + ["test"] * (count - 1), "index": np.arange(count), "hidden_class": 3,
             "anomaly": np.arange(count) == count - 1, "score": scores}  # fmt: skip
    pd.DataFrame(table).to_parquet(folder / "scores.parquet")


def test_mean_and_spread_over_seeds(tmp_path):
    for seed, auroc in enumerate((0.8, 0.9, 0.7)):
        write_run(tmp_path, seed=seed, auroc=auroc)
    row = results.summary(results.collect(tmp_path)).iloc[0]
    assert row.seeds == 3
    assert row.auroc == pytest.approx(0.8)
    assert row.spread == pytest.approx(np.std([0.8, 0.9, 0.7], ddof=1))


def test_other_settings_are_kept_apart(tmp_path):
    write_run(tmp_path, auroc=0.9)
    write_run(tmp_path, auroc=0.5, clusters=3, latent=10)  # MNIST's latent is 10 by default
    table = results.collect(tmp_path)
    assert sorted(table.settings) == ["", "clusters=3"]
    assert sorted(results.summary(table).auroc) == pytest.approx([0.5, 0.9])
    assert results.wide(table)["mnist CUR"].tolist() == ["90.0*"]
    assert results.beside_paper(table).auroc.tolist() == pytest.approx([0.9])


def test_the_wide_table_marks_the_best_clean_method(tmp_path):
    for method, auroc in (("ODIN", 0.8), ("OCSVM", 0.7)):
        for seed in (0, 1):
            write_run(tmp_path, method=method, seed=seed, auroc=auroc + 0.1 * seed)
    table = results.wide(results.collect(tmp_path)).set_index("method")["mnist CUR"]
    assert table.to_dict() == {"ODIN": "85.0±7.1*", "OCSVM": "75.0±7.1"}


def test_the_committed_measurements_say_how_they_were_made():
    table = results.committed()
    assert {"command", *results.COLUMNS} - {"folder"} == set(table.columns)
    assert table[["command", "protocol", "commit", "machine"]].notna().all().all()
    assert table.auroc.between(0, 1).all()
    assert not table.commit.str.contains("dirty").any()


def test_a_half_written_run_is_left_out(tmp_path):
    write_run(tmp_path)
    (write_run(tmp_path, seed=1) / "config.json").write_text('{"config"')
    assert len(results.collect(tmp_path)) == 1


def test_the_paper_stands_beside_our_odin(tmp_path):
    write_run(tmp_path)
    table = results.beside_paper(results.collect(tmp_path))
    assert table.method.tolist() == ["CLAD"]
    assert table.paper[0] == pytest.approx(0.940)


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_bars_are_drawn_with_and_without_published_values(tmp_path, dataset):
    write_run(tmp_path, dataset=dataset)
    assert plots.auroc_bars(results.beside_paper(results.collect(tmp_path))).data


def test_wrong_sql_names_the_columns_of_both_views(tmp_path):
    write_run(tmp_path)
    for sql in ("SELECT nothing FROM results", "SELECT nothing FROM scores", "SELECT"):
        with pytest.raises(
            ValueError, match=r"results\(dataset, scenario.* and scores\(dataset, .*hidden_class, anomaly, score\)"
        ):
            results.query(results.collect(tmp_path), sql)


def test_sql_reads_the_scores_of_every_run_beside_what_made_them(tmp_path):
    root = tmp_path / "it's [a] runs*folder"  # DuckDB would read some of these as patterns
    write_scores(write_run(root, seed=0), np.array([0.5, 1.0, 2.0], dtype=np.float32))
    write_scores(write_run(root, seed=1, clusters=4), [0.5, 3.0, 7.0])
    write_run(root, method="OCSVM")  # without scores
    frame = results.collect(root)
    every = results.query(frame, "SELECT * FROM scores ORDER BY seed, index")
    assert tuple(every.columns) == results.SCORE_COLUMNS
    assert every.seed.tolist() == [0, 0, 0, 1, 1, 1]
    assert every.settings.tolist() == [""] * 3 + ["clusters=4"] * 3
    assert every.score.tolist() == [0.5, 1.0, 2.0, 0.5, 3.0, 7.0]
    assert every.anomaly.tolist() == [False, False, True] * 2
    means = results.query(frame, "SELECT settings, avg(score) AS mean FROM Scores WHERE split = 'test' GROUP BY 1 ORDER BY 1")
    assert means["mean"].tolist() == [1.5, 5.0]
    joined = results.query(frame, "SELECT seed, max(score) AS top FROM results JOIN scores USING (method, seed) GROUP BY ALL")
    assert sorted(joined.top) == [2.0, 7.0]


def test_scores_cost_nothing_and_break_nothing_where_they_are_not_asked_for(tmp_path):
    (write_run(tmp_path) / "scores.parquet").write_text("no parquet")
    frame = results.collect(tmp_path)
    assert results.query(frame, "SELECT count(*) AS n FROM results").n[0] == 1
    with pytest.raises(ValueError, match="SQL failed"):
        results.query(frame, "SELECT * FROM scores")
    assert results.query(results.committed(), "SELECT * FROM scores").empty


def kept(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_a_kept_row_says_how_to_make_it_again(tmp_path):
    write_run(tmp_path / "runs", auroc=0.123456)
    write_run(tmp_path / "runs", profile="paper", scenario="0+3", seed=2, clusters=4, stem="small")
    into = tmp_path / "measured.csv"
    done = records.keep(results.collect(tmp_path / "runs"), into, note="OMP_NUM_THREADS=1")
    assert done == (2, 0, ())
    table = kept(into).set_index("scenario")
    assert tuple(kept(into).columns) == ("command", *results.COLUMNS[:-1])
    assert table.command["CUR"] == "python -m clad_lib run --dataset mnist --scenario CUR --seed 0 (OMP_NUM_THREADS=1)"
    assert table.command["0+3"] == ("python -m clad_lib run --dataset mnist --scenario 0+3 --seed 2 --profile paper "
                                    "--set clusters=4 --set stem=small (OMP_NUM_THREADS=1)")  # fmt: skip
    row = table.loc["CUR"]
    assert [row.auroc, row.seconds, row.train, row.f1, row.machine] == ["0.1235", "1.5", "3", "", "x, 2 cores, GPU None"]


def test_a_newer_run_replaces_the_row_and_the_others_keep_their_text(tmp_path):
    into = tmp_path / "measured.csv"
    for seed, auroc in ((1, 0.7), (10, 0.6), (2, 0.5)):
        write_run(tmp_path / "old", seed=seed, auroc=auroc)
    records.keep(results.collect(tmp_path / "old"), into, note="by hand")
    assert kept(into).seed.tolist() == ["1", "2", "10"]
    write_run(tmp_path / "new", seed=2, auroc=0.9)
    write_run(tmp_path / "new", seed=2, auroc=0.8, clusters=3)  # another row: settings are kept apart
    write_run(tmp_path / "new", method="MSP", seed=0, auroc=0.4)
    assert records.keep(results.collect(tmp_path / "new"), into)[:2] == (2, 1)
    table = kept(into)
    assert table[["method", "settings", "seed", "auroc"]].to_numpy().tolist() == [
        ["MSP", "", "0", "0.4"], ["ODIN", "", "1", "0.7"], ["ODIN", "", "2", "0.9"], ["ODIN", "", "10", "0.6"],
        ["ODIN", "clusters=3", "2", "0.8"],
    ]  # fmt: skip
    assert [text.endswith("(by hand)") for text in table.command] == [False, True, False, True, False]


def test_of_two_folders_with_one_key_the_one_written_last_is_kept(tmp_path):
    write_run(tmp_path, auroc=0.6)
    other = write_run(tmp_path, auroc=0.7, latent=10)  # what the profile has anyway: another folder, the same settings
    for folder, auroc, age in ((other, "0.7", 0), (other, "0.6", 3600)):
        os.utime(folder / "config.json", times=(time.time() + 10 - age,) * 2)
        records.keep(results.collect(tmp_path), tmp_path / "measured.csv")
        assert kept(tmp_path / "measured.csv").auroc.tolist() == [auroc]


def test_runs_of_uncommitted_code_and_of_folders_are_refused_by_name(tmp_path):
    for method in ("ODIN", "MSP"):
        write_run(tmp_path / "runs", method=method, commit="abcdef1234-dirty", seed=3)
    write_run(tmp_path / "runs", scenario="STR", commit="unknown")
    write_run(tmp_path / "runs", scenario="MIX")
    folder = write_run(tmp_path / "runs", dataset="photos", scenario="good")
    record = json.loads((folder / "config.json").read_text())
    record["config"]["dataset"] = "some/photos"
    (folder / "config.json").write_text(json.dumps(record))
    line = ["keep", "--runs", str(tmp_path / "runs"), "--into", str(tmp_path / "measured.csv")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 1
    said = [each for each in done.output.splitlines() if each.startswith("not kept")]
    assert len(said) == 3
    assert any("mnist CUR" in each and "seed 3 (MSP, ODIN)" in each and "abcdef1234-dirty" in each for each in said)
    assert any("mnist STR" in each and "'unknown'" in each and "commit the code" in each for each in said)
    assert any("some/photos good" in each and "folder" in each for each in said)
    assert kept(tmp_path / "measured.csv").scenario.tolist() == ["MIX"]


def test_a_file_with_other_columns_or_no_place_is_left_alone(tmp_path):
    write_run(tmp_path / "runs")
    frame = results.collect(tmp_path / "runs")
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected command, dataset"):
        records.keep(frame, other)
    assert other.read_text() == "a,b\n1,2\n"
    with pytest.raises(records.RunError, match="cannot write"):
        records.keep(frame, other / "measured.csv")  # a file where a folder should be
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.csv", "runs"]


def test_a_disk_that_fills_up_leaves_the_old_file_whole(tmp_path, monkeypatch):
    write_run(tmp_path / "runs")
    into = tmp_path / "measured.csv"
    records.keep(results.collect(tmp_path / "runs"), into)
    before = into.read_text()
    write_run(tmp_path / "runs", seed=1)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(records.RunError, match="No space left"):
        records.keep(results.collect(tmp_path / "runs"), into)
    assert into.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["measured.csv", "runs"]


def test_the_committed_file_would_be_written_as_it_is(tmp_path):
    source = results._project_file("measured.csv")
    table = records._read(source)
    assert table.to_csv(index=False, lineterminator="\n") == source.read_text()
    row = results.committed().iloc[-1]
    assert records._record(row, "") | {"command": ""} == table.iloc[-1].to_dict() | {"command": ""}


def test_mlflow_gets_every_run_once(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    write_run(tmp_path / "runs", auroc=0.75, clusters=4)
    write_run(tmp_path / "runs", method="MSP")
    place = tmp_path / "mlruns"
    line = ["results", "--runs", str(tmp_path / "runs"), "--mlflow", str(place)]
    assert "2 runs logged" in CliRunner().invoke(app, line).output
    write_run(tmp_path / "runs", method="MSP", seed=1)
    assert "1 runs logged" in CliRunner().invoke(app, line).output
    assert tracking.export(results.collect(tmp_path / "runs"), str(place)) == (0, 3)
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(place.as_uri())
    runs = client.search_runs([client.get_experiment_by_name("clad").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["mnist CUR MSP seed 0", "mnist CUR MSP seed 1", "mnist CUR ODIN seed 0"]
    run = next(run for run in runs if "ODIN" in run.info.run_name)
    assert run.data.params == dict(
        dataset="mnist", scenario="CUR", method="ODIN", profile="fast", settings="clusters=4", seed="0"
    )
    assert run.data.metrics["auroc"] == 0.75
    assert "f1" not in run.data.metrics
    assert [run.data.tags[name] for name in ("protocol", "commit", "machine")] == ["clean", "abcdef1234", "x, 2 cores, GPU None"]


def test_what_an_interrupted_export_left_half_is_replaced(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    write_run(tmp_path / "runs")
    frame = results.collect(tmp_path / "runs")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            tracking.export(frame, str(tmp_path / "mlruns"))
    assert tracking.export(frame, str(tmp_path / "mlruns")) == (1, 0)
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    assert len(client.search_runs([client.get_experiment_by_name("clad").experiment_id])) == 1


def test_without_mlflow_one_line_says_what_to_install(tmp_path, monkeypatch):
    write_run(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "mlflow.exceptions", None)
    with pytest.raises(ValueError, match="pip install mlflow-skinny"):
        tracking.export(results.collect(tmp_path), str(tmp_path / "mlruns"))


def test_of_two_folders_of_one_run_the_one_written_last_counts(tmp_path):
    """A stage whose code changed gives the same run another folder: the two are no two seeds."""
    old = write_run(tmp_path, auroc=0.5)
    new = write_run(tmp_path, auroc=0.9, latent=10)  # MNIST's own latent size: the same settings, another folder
    assert old != new
    for age, folder in ((100, new), (200, old)):
        os.utime(folder / "config.json", (1e9 - age, 1e9 - age))
    table = results.collect(tmp_path)
    assert table.auroc.tolist() == [0.9]
    assert results.summary(table).seeds.tolist() == [1]
