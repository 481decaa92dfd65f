"""The rows of parts.csv: those of the experiment, one a part, replaced when measured again."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from clad_lib import make_config, open_study
from clad_lib.study.experiments import expert_parts

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import parts


def test_a_scenario_gets_one_row_a_part_also_when_it_is_measured_twice(tmp_path):
    for _ in range(2):
        parts.main(["digits:STR"], profile="smoke", into=tmp_path)
    frame = pd.read_csv(tmp_path / "parts.csv")
    study = open_study(make_config("digits", "STR", profile="smoke"), runs=tmp_path)
    expected = expert_parts(study)
    found = frame.set_index(["of", "part"])
    assert len(found) == len(expected)
    for name in ("auroc", "lead", "low", "high"):
        assert found[name].to_dict() == pytest.approx(expected[name].to_dict(), abs=1e-4)
    assert set(frame.method) == {"Fused"}
    assert set(frame.test) == {len(study.split.test)}


def test_a_row_of_uncommitted_code_is_refused(monkeypatch):
    monkeypatch.setattr(parts, "stamp", lambda: {"commit": "abc-dirty"})
    with pytest.raises(SystemExit, match="commit first"):
        parts.main(["digits:STR"])
