"""The table: every row can be resolved, its settings exist, and its hash covers what it reads."""

import dataclasses
import inspect
import subprocess
import sys

import pytest

from clad_lib.config import Config, make_config
from clad_lib.study import stages
from clad_lib.study.stages import Places, Row, choose_methods, methods, needed, rows

FIELDS = {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("name", rows())
def test_a_row_names_what_exists(name):
    row = rows()[name]
    assert set(row.needs) <= set(rows())
    assert set(row.reads) <= FIELDS
    known = inspect.signature(stages.function_of(name)).parameters.values()
    parameters = [each for each in known if each.kind != each.KEYWORD_ONLY]
    free = any(each.kind == each.VAR_POSITIONAL for each in parameters)
    assert free or len(parameters) == 2 + len(row.needs), parameters


def test_what_is_needed_comes_first_and_once():
    order = needed(["Selected", "ODIN"])
    assert len(order) == len(set(order))
    for place, name in enumerate(order):
        assert set(rows()[name].needs) <= set(order[:place])
    assert order.index("classifier") < order.index("ODIN")


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'ODIN'"):
        choose_methods("ODINN")
    assert choose_methods("ODIN, KNN,ODIN") == ("ODIN", "KNN")
    assert set(choose_methods("all")) <= set(methods())


@pytest.mark.parametrize(
    ("setting", "moves", "stays"),
    [
        ({"temperature": 1.0}, ["ODIN"], ["classifier", "MSP", "OCSVM"]),
        ({"clusters": 4}, ["clusters", "classifier", "ODIN", "MSP"], ["autoencoder", "OCNN"]),
        ({"stem": "published"}, ["classifier", "simulations", "Selected"], ["clusters", "OCNN"]),
        ({"clf_lr": 0.1}, ["classifier", "simulations"], ["clusters"]),
        ({"odin_factor": True}, ["ODIN", "Selected", "Oracle"], ["classifier", "MSP"]),
        ({"flip_auroc": True}, ["ODIN", "OCSVM", "NearestImage"], ["classifier"]),
        ({"nu": 0.2}, ["OCSVM", "SVDD", "OCNN", "DeepSVDD"], ["autoencoder", "OCCNN"]),
    ],
)
def test_a_setting_moves_what_depends_on_it_and_nothing_else(tmp_path, setting, moves, stays):
    before, after = make_config(), make_config(**setting)
    one, other = (Places(tmp_path, config, "data") for config in (before, after))
    assert all(one.path(name) != other.path(name) for name in moves)
    assert all(one.path(name) == other.path(name) for name in stays)


def test_images_seed_and_version_move_everything(tmp_path, monkeypatch):
    here = Places(tmp_path, make_config(), "data")
    assert here.path("ODIN") != Places(tmp_path, make_config(), "other").path("ODIN")
    assert here.path("ODIN").name == "seed0"
    before = here.path("ODIN")
    newer = rows() | {"clusters": rows()["clusters"]._replace(version=99)}
    monkeypatch.setattr(stages, "rows", lambda: newer)
    assert here.path("ODIN") != before


def test_other_packages_add_rows_by_an_entry_point(monkeypatch):
    class Point:
        value = "toy:ROWS"

        @staticmethod
        def load():
            return {"Toy": Row("toy:score", block="controls")}

    monkeypatch.setattr(stages, "entry_points", lambda group: [Point] * (group == "clad.methods"))
    rows.cache_clear()
    try:
        assert "Toy" in methods()
    finally:
        rows.cache_clear()


def test_the_table_is_read_without_torch():
    code = "import sys; import clad_lib.study.stages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
