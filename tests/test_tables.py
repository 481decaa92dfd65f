"""The ready tables, against values computed by hand from hand-made runs."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel
from test_results import write_run

from clad_lib import marks, plots, results, sweeps, tables
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


def test_the_best_and_the_second_best_are_marked(frame, tmp_path):
    write_run(tmp_path, scenario="STR", auroc=0.99)  # alone in its scenario: nothing to be better than
    write_run(tmp_path, method="Oracle", auroc=0.95)
    frame = results.collect(tmp_path)
    frame.loc[frame.method == "Oracle", "protocol"] = "oracle"
    table = tables.ready(frame)
    assert dict(zip(table.scenario + table.method, marks.standing(table), strict=True)) == {
        "CUROracle": 0, "CURODIN": 1, "CURDeepSVDD": 2, "CUROCSVM": 0, "STRODIN": 0}  # fmt: skip
    text = tables.formatted(marks.marked(table), "markdown")
    assert [text.count(cell) for cell in ("**0.920**", "0.840†", "| 0.820 |", "| 0.950 |", "| 0.990 |")] == [1] * 5
    cells = marks.shaded(table, title="x").data[0].cells
    place = list(table.columns).index("auroc")
    assert cells["values"][place] == ["0.950", "<b>0.920</b>", "0.840†", "0.820", "0.990"]
    assert [colour in marks.SHADES.values() for colour in cells.fill.color[place]] == [False, True, True, False, False]
    assert cells.fill.color[place][1] != cells.fill.color[place][2]


def test_equal_methods_share_a_mark(frame):
    frame["auroc"] = frame.auroc.where(frame.method != "DeepSVDD", [0.92 if m == "DeepSVDD" else 0 for m in frame.method])
    table = tables.ready(frame).set_index("method", drop=False)
    assert marks.standing(table).to_dict() == {"ODIN": 1, "DeepSVDD": 1, "OCSVM": 0}


def test_the_average_ranks_are_marked_from_the_lowest():
    ranks = pd.DataFrame({"method": ["a", "b", "c"], "rank": [1.5, 1.75, 2.75], "scenarios": 4})
    assert marks.marked(ranks)["rank"].tolist() == ["**1.500**", "1.750†", "2.750"]


def test_the_tables_of_the_readme_have_the_best_clean_method_in_bold(frame, tmp_path):
    for method, auroc in (("ViM", 0.97), ("Oracle", 0.99)):
        write_run(tmp_path, method=method, auroc=auroc)
    frame = results.collect(tmp_path)
    frame.loc[frame.method == "Oracle", "protocol"] = "oracle"
    table = tables.ready(frame)
    assert tables.methods_table(table).splitlines()[2] == (
        "| mnist CUR | **92.0 ± 2.0** (94.0) | 82.0 ± 2.6 (69.9) | – | – | – | 84.0 ± 6.2 (81.7) |")  # fmt: skip
    head, _, row = tables.scores_table(table).splitlines()
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert row.startswith("| mnist CUR |")
    assert (cells["ODIN"], cells["ViM"], cells["Oracle |"]) == (
        "92.0 ± 2.0", "**97.0**", "99.0 |")  # fmt: skip


@pytest.fixture
def varied(tmp_path):
    """CUR at 2, 6 and the profile's own 10 clusters with two seeds, STR at 2 and 10 with one, and runs that do not count."""
    for seed in (0, 1):
        for clusters, auroc in ((2, 0.60), (6, 0.80)):
            write_run(tmp_path, seed=seed, auroc=auroc + 0.1 * seed, clusters=clusters)
        write_run(tmp_path, seed=seed, auroc=0.90 + 0.02 * seed)
        write_run(tmp_path, seed=seed, auroc=0.1, clusters=6, latent=20)
    write_run(tmp_path, scenario="STR", auroc=0.7, clusters=2)
    write_run(tmp_path, scenario="STR", auroc=0.75)
    write_run(tmp_path, scenario="MIX", auroc=0.5)  # not varied
    write_run(tmp_path, auroc=0.2, method="MSP", clusters=2)
    write_run(tmp_path, auroc=0.2, profile="smoke", clusters=2)
    return results.collect(tmp_path)


def test_figure_3_by_hand(varied):
    table = sweeps.sweep(varied, "mnist", "clusters")
    assert table[["scenario", "value", "seeds"]].to_numpy().tolist() == [
        ["CUR", 2, 2], ["CUR", 6, 2], ["CUR", 10, 2], ["STR", 2, 1], ["STR", 10, 1]]  # fmt: skip
    assert table.auroc.tolist() == pytest.approx([0.65, 0.85, 0.91, 0.70, 0.75])
    assert table.spread.tolist() == pytest.approx([0.1 / 2**0.5, 0.1 / 2**0.5, 0.02 / 2**0.5, np.nan, np.nan], nan_ok=True)
    figure = sweeps.figure3(varied, "mnist", "clusters", note=tables.NOTE)
    assert [line.name for line in figure.data] == ["CUR", "STR"]
    assert figure.data[0].y.tolist() == pytest.approx([0.65, 0.85, 0.91])
    assert figure.data[0].error_y.array.tolist() == pytest.approx(table.spread[:3].tolist())
    assert figure.data[1].y.tolist() == pytest.approx([0.70, np.nan, 0.75], nan_ok=True)
    assert figure.data[1].error_y.array is None
    assert "CUR 0.850 at 6" in plots.alt_text(figure)
    assert "nan" not in plots.alt_text(figure)
    assert sweeps.sweep(varied, "mnist", "latent").empty
    with pytest.raises(ValueError, match="ablation"):
        sweeps.figure3(varied, "mnist", "latent")


def test_the_line_of_deep_svdd_says_whose_it_is(varied, tmp_path):
    places = ["CUR", "STR"]
    assert sweeps.deep_svdd(varied, "mnist", places) == ("DeepSVDD, the paper's", pytest.approx((0.817 + 0.822) / 2))
    assert sweeps.deep_svdd(varied, "mnist", ["CUR", "STR", "MIX"])[1] == pytest.approx(0.779, abs=5e-4)  # the paper's text
    write_run(tmp_path, method="DeepSVDD", auroc=0.6)
    assert sweeps.deep_svdd(results.collect(tmp_path), "mnist", places)[0] == "DeepSVDD, the paper's"
    for seed, auroc in ((0, 0.7), (1, 0.9)):
        write_run(tmp_path, scenario="STR", method="DeepSVDD", seed=seed, auroc=auroc)
    assert sweeps.deep_svdd(results.collect(tmp_path), "mnist", places) == ("DeepSVDD, ours", pytest.approx((0.6 + 0.8) / 2))
    assert sweeps.deep_svdd(varied, "digits", places) is None
    assert "DeepSVDD, the paper's 0.8" in str(sweeps.figure3(varied, "mnist", "clusters").layout.annotations)


def test_figure_3_is_written_for_three_values_or_more(varied, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "png_bytes", lambda figure, **_: b"picture")
    folder = tmp_path / "figures"
    folder.mkdir()
    assert sweeps.write_figures(varied[varied.settings == ""], folder) == []
    written = sweeps.write_figures(varied, folder, note=tables.NOTE)
    assert [path.name for path in written] == [f"figure3_mnist_clusters.{form}" for form in ("csv", "html", "png")]
    assert pd.read_csv(written[0]).auroc.tolist() == pytest.approx([0.65, 0.85, 0.91, 0.70, 0.75])
    assert written[1].stat().st_size < 100_000
    assert "measured.csv" in written[1].read_text()


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
    assert {path.name for path in written} >= {
        "README.md", *(f"table_{name}.{form}" for name in ("scenarios", "ranks") for form in ("csv", "md", "html"))
    }  # fmt: skip
    assert all(path.is_file() for path in written)
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
