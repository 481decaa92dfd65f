"""The ready tables, against values computed by hand from hand-made runs."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel
from test_results import write_run

from clad_lib import results, tables
from clad_lib.__main__ import app
from clad_lib.evaluation import paired_comparison


@pytest.fixture
def frame(tmp_path):
    values = {"ODIN": (0.90, 0.94, 0.92), "OCSVM": (0.80, 0.81, 0.85), "DeepSVDD": (0.91, 0.79, 0.82)}
    for method, each in values.items():
        for seed, auroc in enumerate(each):
            write_run(tmp_path, method=method, seed=seed, auroc=auroc)
    return results.collect(tmp_path)


def test_the_ready_table_by_hand(frame):
    table = tables.ready(frame).set_index("method")
    assert table.auroc.to_dict() == pytest.approx({"ODIN": 0.92, "OCSVM": 0.82, "DeepSVDD": 0.84})
    assert table.spread["ODIN"] == pytest.approx(0.02)
    assert table["rank"].to_dict() == {"ODIN": 1, "DeepSVDD": 2, "OCSVM": 3}
    assert table.paper["ODIN"] == pytest.approx(0.94)
    assert table.difference["OCSVM"] == pytest.approx(0.82 - 0.699)
    assert table.p["ODIN"] == pytest.approx(ttest_rel([0.90, 0.94, 0.92], [0.91, 0.79, 0.82]).pvalue)
    assert table.p[["OCSVM", "DeepSVDD"]].isna().all()


def test_an_oracle_has_no_rank(frame):
    frame.loc[frame.method == "ODIN", "protocol"] = "oracle"
    table = tables.ready(frame).set_index("method")
    assert pd.isna(table["rank"]["ODIN"])
    assert table["rank"]["DeepSVDD"] == 1


def test_the_best_is_compared_on_the_same_images_where_scores_are_there(tmp_path):
    random = np.random.default_rng(0)
    anomaly = np.arange(200) >= 100
    scored = {}
    for method, gain in (("ODIN", 2.0), ("OCSVM", 0.5)):
        scored[method] = np.stack([random.normal(size=200) + gain * anomaly for _ in range(2)])
        for seed in (0, 1):
            folder = write_run(tmp_path, method=method, seed=seed, auroc=0.9 if method == "ODIN" else 0.6)
            pd.DataFrame({"split": "test", "index": np.arange(200), "hidden_class": 0, "anomaly": anomaly,
                          "score": scored[method][seed]}).sample(frac=1, random_state=seed).to_parquet(folder / "scores.parquet")  # fmt: skip  # noqa: E501
    expected = paired_comparison(scored["ODIN"], scored["OCSVM"], anomaly, resamples=500, seed=0).p_value
    assert tables.ready(results.collect(tmp_path)).p[0] == pytest.approx(expected)


def test_average_ranks_count_only_scenarios_with_all_methods(frame, tmp_path):
    for method, auroc in (("ODIN", 0.6), ("OCSVM", 0.9), ("DeepSVDD", 0.8)):
        write_run(tmp_path, scenario="STR", method=method, auroc=auroc)
    write_run(tmp_path, scenario="MIX", method="ODIN", auroc=0.9)
    ranks = tables.average_ranks(tables.ready(results.collect(tmp_path))).set_index("method")
    assert ranks["rank"].to_dict() == {"ODIN": 2.0, "OCSVM": 2.0, "DeepSVDD": 2.0}
    assert set(ranks.scenarios) == {2}


def test_formats(frame):
    table = tables.ready(frame)
    assert pd.read_csv(__import__("io").StringIO(tables.formatted(table, "csv"))).auroc.tolist() == pytest.approx(
        table.auroc.tolist()
    )
    lines = tables.formatted(table, "markdown").splitlines()
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {len(table.columns) + 1}
    with pytest.raises(ValueError, match="text, markdown or csv"):
        tables.formatted(table, "html")


def test_the_readme_holds_what_the_measurements_give(tmp_path):
    from clad_lib.headless import notebook_folder

    project = notebook_folder().parent
    readme = (project / "README.md").read_text()
    table = tables.ready(results.committed())
    assert tables.methods_table(table) in readme
    assert tables.scores_table(table) in readme
    (tmp_path / "figures").mkdir()
    (tmp_path / "README.md").write_text(readme.replace("77.0 ± 5.3", "99.9 ± 0.1"))
    written = tables.write_all(tmp_path)
    assert (tmp_path / "README.md").read_text() == readme
    assert len(written) == 7
    (tmp_path / "README.md").write_text("no marks")
    with pytest.raises(ValueError, match="expected the marks"):
        tables.write_all(tmp_path)


def test_the_command_answers_sql(frame, tmp_path):
    from typer.testing import CliRunner

    done = CliRunner().invoke(
        app, ["results", "SELECT max(auroc) AS best FROM results", "--runs", str(tmp_path), "--format", "csv"]
    )
    assert done.stdout.split() == ["best", "0.94"]
    assert "no finished run" in str(CliRunner().invoke(app, ["results", "--runs", str(tmp_path / "none")]).exception)
