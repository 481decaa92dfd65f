"""The driver of the benchmarks: one table in two formats, and what failed beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]


def test_the_two_formats_hold_the_same_figures_and_a_failure_is_named(tmp_path):
    line = [sys.executable, "benchmarks/run.py", "--small", "--only", "bootstrap,absent"]
    done = subprocess.run(
        [*line, "--out", str(tmp_path)],
        cwd=HOME,
        env=os.environ | {"PYTHONPATH": str(HOME)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    record = json.loads((tmp_path / "benchmarks.json").read_text(encoding="utf-8"))
    assert list(record["failed"]) == ["absent"]
    (found,) = record["benchmarks"]
    row = found["rows"][0]
    assert row["wall"] > 0
    assert 0.7 < row["agreement"] < 1.4
    text = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if row["case"] in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == [found["what"], row["case"], row["rival"]]
    assert cells[3:7] == [f"{row['wall']:.3g}", f"{row['cpu']:.3g}", "", f"{row['agreement']:.3g}"]
    assert "- absent: " in text


def test_a_benchmark_measured_alone_leaves_the_others_in_the_table(tmp_path):
    old = dict(name="odin", commit="abc", machine="a machine", what="ODIN", agreement="", rows=[])
    old["rows"] = [dict(case="c", rival="r", wall=2.0, cpu=2.0, memory=None, agreement=None)]
    place = tmp_path / "benchmarks.json"
    place.write_text(json.dumps(dict(benchmarks=[old], small=True)), encoding="utf-8")
    line = [sys.executable, "benchmarks/run.py", "--small", "--only", "bootstrap"]
    environment = os.environ | {"PYTHONPATH": str(HOME)}
    subprocess.run([*line, "--out", str(tmp_path)], cwd=HOME, env=environment, check=True)
    record = json.loads(place.read_text(encoding="utf-8"))
    assert [each["name"] for each in record["benchmarks"]] == ["odin", "bootstrap"]
    assert record["benchmarks"][0] == old
    text = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert "a machine, commit abc (odin); " in text
    assert "| ODIN | c | r | 2 | 2 |" in text
