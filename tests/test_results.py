"""The published tables against the published rows, and rows against runs made from scratch."""

from __future__ import annotations

import csv
import json
import random
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from clad_lib.study import results, tables
from clad_lib.study.store import RECORD

HOME = Path(__file__).resolve().parents[1]
CELL = re.compile(r"^\**(\d+\.\d)(?: ± (\d+\.\d))?\**")


def measured() -> list[dict[str, str]]:
    """All rows of measured.csv, read without pandas."""
    with (HOME / "results" / "measured.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cells() -> list[tuple[str, str, str, str, str]]:
    """Profile, data set, scenario, method and text of every filled cell of the tables."""
    text = (HOME / "results" / "README.md").read_text(encoding="utf-8")
    found = []
    for mark, table in re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL):
        if mark in ("gpu", "seconds"):  # no AUROC
            continue
        profile = "paper" if mark == "published" else "fast"
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")
        ]
        for line in lines[2:]:
            dataset, scenario = line[0].split()
            pairs = zip(lines[0][1:], line[1:], strict=True)
            found += [
                (profile, dataset, scenario, method, cell)
                for method, cell in pairs
                if method != "paper's best" and cell != "–"
            ]
    return found


@pytest.mark.parametrize("cell", random.Random(7).sample(cells(), 40), ids=" ".join)
def test_a_cell_of_the_tables_is_the_mean_of_its_rows(cell):
    *place, text = cell
    key = (*place, "")
    named = ("profile", "dataset", "scenario", "method", "settings")
    rows = [row for row in measured() if tuple(row[name] for name in named) == key]
    values = [100 * float(row["auroc"]) for row in rows]
    assert len({row["seed"] for row in rows}) == len(rows) > 0
    mean, spread = CELL.match(text).groups()
    assert float(mean) == pytest.approx(statistics.mean(values), abs=0.051)
    if len(values) > 1:
        assert float(spread) == pytest.approx(statistics.stdev(values), abs=0.051)
    else:
        assert spread is None


def lines_of(mark: str) -> list[list[str]]:
    """The cells of a published table, heads first."""
    text = (HOME / "results" / "README.md").read_text(encoding="utf-8")
    table = re.search(rf"<!-- {mark} -->\n(.*?)\n<!-- end -->", text, re.DOTALL).group(1)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")]


@pytest.mark.parametrize("mark", ["beyond", "single"])
def test_an_arrow_stands_where_the_whole_interval_is_above_the_papers_best(mark):
    """By hand from the rows: the squares of both half widths are added, t of the seeds' mean."""
    with (HOME / "results" / "paper.csv").open(encoding="utf-8", newline="") as file:
        paper = [
            (row["dataset"], row["normal"], float(row["auroc"])) for row in csv.DictReader(file)
        ]
    heads, _, *lines = lines_of(mark)
    arrows = 0
    for line in lines:
        dataset, scenario = line[0].split()
        best = [value for *place, value in paper if place == [dataset, scenario]]
        for method, cell in zip(heads[2:], line[2:], strict=True):
            rows = [
                row
                for row in measured()
                if (row["dataset"], row["scenario"], row["method"]) == (dataset, scenario, method)
                and row["profile"] == "fast"
                and not row["settings"]
            ]
            if not rows or not best or not all(row["auroc_low"] for row in rows):
                continue
            values = [100 * float(row["auroc"]) for row in rows]
            widths = [100 * (float(row["auroc_high"]) - float(row["auroc_low"])) for row in rows]
            images = statistics.mean((width / 2 / 1.96) ** 2 for width in widths)
            seeds = statistics.variance(values) / len(values) if len(values) > 1 else 0.0
            quantile = stats.t.ppf(0.975, max(1, len(values) - 1))
            low = statistics.mean(values) - (quantile**2 * seeds + 1.96**2 * images) ** 0.5
            if abs(low - max(best)) > 0.15:  # what rounding leaves open
                assert ("▲" in cell) == (low > max(best)), (line[0], method, low)
                arrows += "▲" in cell
    assert arrows > 40


def test_seconds_are_those_of_all_that_a_method_needs():
    needs = {
        "Patches": {"Patches"},
        "Rotation": {"rotation_network", "Rotation"},
        "Fused": {"Patches", "rotation_network", "Rotation", "Fused"},
        "ODIN": {"autoencoder", "clusters", "classifier", "ODIN"},
    }
    heads, _, *lines = lines_of("seconds")
    with (HOME / "results" / "seconds.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["profile"] == "fast"]
    for line in lines:
        sums = {name: defaultdict(dict) for name in needs}
        for row in rows:
            if line[0] == f"{row['dataset']} {row['scenario']}":
                for name in needs:
                    if row["stage"] in needs[name]:
                        spent = float(row["seconds"])  # a join alone takes no second
                        spent = min(spent, 1.0) if row["stage"] == "Fused" else spent
                        sums[name][row["seed"]][row["stage"]] = spent
        for name, seeds in sums.items():
            whole = [sum(each.values()) for each in seeds.values() if set(each) == needs[name]]
            cell = line[heads.index(name)]
            assert (cell == "–") == (not whole)
            if whole and cell != "< 1":
                expected = statistics.median(whole)
                assert float(cell.replace(",", "")) == pytest.approx(expected, abs=0.51)


def test_the_table_of_speeds_on_a_gpu_is_that_of_its_rows():
    rows = (HOME / "results" / "gpu.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in rows]
    speeds = {f"{row['what']} ({row['dataset']})": row for row in rows if row["kind"] == "speed"}
    most = [row for row in rows if row.get("what") == "matrix product, bfloat16"][-1]
    lines = lines_of("gpu")
    assert {line[0] for line in lines[2:]} == set(speeds)
    for what, _, rate, _, share in lines[2:]:
        row = speeds[what]
        assert float(rate.replace(",", "")) == pytest.approx(row["images_a_second"], abs=0.51)
        expected = row["flop_an_image"] / row["seconds_an_image"] / most["flop_a_second"]
        assert float(share.removesuffix(" %")) / 100 == pytest.approx(expected, rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["NearestImage", "OCSVM", "DeepSVDD"])
def test_a_published_row_comes_out_again_from_scratch(method, tmp_path):
    rows = [row for row in measured() if (row["dataset"], row["method"]) == ("digits", method)]
    row = random.Random(method).choice([row for row in rows if not row["settings"]])
    known = ["--dataset", "digits", "--scenario", row["scenario"], "--seed", row["seed"]]
    command = [sys.executable, "-m", "clad_lib", "run", *known, "--methods", method]
    subprocess.run([*command, "--runs", str(tmp_path)], check=True, cwd=HOME, capture_output=True)
    assert list(tmp_path.glob(f"digits/*/{method}-*/seed*/{RECORD}"))
    found = results.collect(tmp_path).set_index("method").loc[method]
    assert found.auroc == pytest.approx(float(row["auroc"]), abs=0.005)
    assert (found.train, found.test) == (int(row["train"]), int(row["test"]))


def test_rounding_is_told_from_seeds():
    """Differences of .02 and 0 give sqrt((.02^2 / 2 + 0) / 2) = .01; seeds .9 and .8 .0707."""
    sys.path.insert(0, str(HOME / "tools"))
    from rounding import compare

    known = {"dataset": "digits", "scenario": "CUR", "method": "ODIN", "profile": "fast"}
    known |= {"settings": "", "threads": 1, "commit": "a"}
    one = pd.DataFrame([known | {"seed": 0, "auroc": 0.9}, known | {"seed": 1, "auroc": 0.8}])
    other = one.assign(auroc=[0.92, 0.8], threads=2)
    found = compare(one, other).iloc[0]
    assert (found.over_rounding, found.over_seeds) == (0.01, 0.0707)
    assert (found.seeds, found.threads, found.threads_other) == (2, 1, 2)


def test_mean_ranks_are_over_the_scenarios_that_all_methods_share():
    rows = [("A", "one", 0.9), ("A", "two", 0.8), ("B", "one", 0.6), ("B", "two", 0.7)]
    rows += [("C", "one", 0.5)]  # which the other was not run on
    table = pd.DataFrame(rows, columns=["scenario", "method", "auroc"])
    table = table.assign(dataset="digits", profile="fast", settings="", rank=1)
    ranks = tables.average_ranks(table).set_index("method")
    assert ranks["rank"].to_dict() == {"one": 1.5, "two": 1.5}
    assert set(ranks.scenarios) == {2}
    assert not len(tables.average_ranks(table[table.scenario.eq("C") | table.method.eq("two")]))


ODIN_SAID = {  # how each notebook prints ODIN's AUROC
    "05": r"^\| ODIN \| \**(?:<b>)?(\d+\.\d)",
    "06": r"^\| ODIN \| [a-z ]+ \| (?:<b>)?(\d+\.\d)",
    "07": r"^All defects together, from (\d+\.\d):",
    "08": r"^ODIN +(\d+\.\d)",
}


@pytest.mark.parametrize("number", ["06", "07", "08"])
def test_the_committed_notebooks_show_one_run(number):
    def said(name: str) -> str:
        path = next((HOME / "notebooks").glob(f"{name}_*.ipynb"))
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [out for cell in cells for out in cell.get("outputs", [])]
        texts = [out.get("text", out.get("data", {}).get("text/plain", "")) for out in outputs]
        return re.search(ODIN_SAID[name], "\n".join(map("".join, texts)), re.MULTILINE)[1]

    assert said(number) == said("05")
