"""Study files: what the project's own hold, and that every broken one is refused with its line."""

import re
from pathlib import Path

import pytest

from clad_lib.config import datasets
from clad_lib.study.grid import read_grid
from clad_lib.study.results import paper_results
from clad_lib.study.stages import choose_methods

STUDIES = Path(__file__).resolve().parents[2] / "studies"
GOOD = """title = "T"
profile = "fast"
seeds = [0, 1]
methods = ["ODIN", "OCSVM"]

[scenarios]
digits = ["CUR", "STR"]
mnist = ["MIX",
  "3"]

[overrides]
temperature = 10

[vary]
clusters = [2, 4]
"""


@pytest.fixture
def write(tmp_path):
    def make(text):
        path = tmp_path / "s.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_the_grid_is_every_scenario_setting_and_seed(write):
    study = read_grid(write(GOOD))
    found = {(c.dataset, c.scenario, c.seed, c.clusters, c.temperature) for c in study.configs}
    places = [("digits", "CUR"), ("digits", "STR"), ("mnist", "MIX"), ("mnist", "3")]
    assert found == {(*place, seed, k, 10.0) for place in places for seed in (0, 1) for k in (2, 4)}
    assert len(study.configs) == len(found)
    assert study.methods == ("ODIN", "OCSVM")


@pytest.mark.parametrize(("name", "tables"), [("paper", (1, 2)), ("one_class", (3, 4))])
def test_the_projects_studies_cover_the_papers_tables(name, tables):
    import pandas as pd

    published = pd.read_csv(STUDIES.parent / "results" / "paper.csv", dtype={"normal": str})
    wanted = published[published.table.isin(tables)]
    study = read_grid(STUDIES / f"{name}.toml")
    assert {(c.dataset, c.scenario) for c in study.configs} == set(
        zip(wanted.dataset, wanted.normal, strict=True)
    )
    assert set(wanted.method.replace({"CLAD": "ODIN"})) <= set(study.methods)
    assert len(paper_results()) == len(published)


def test_the_studies_beyond_the_paper_cover_its_scenarios():
    paper = {(c.dataset, c.scenario) for c in read_grid(STUDIES / "paper.toml").configs}
    plain, photographs = (
        read_grid(STUDIES / f"{name}.toml") for name in ("beyond", "beyond_photographs")
    )
    assert {(c.dataset, c.scenario) for c in (*plain.configs, *photographs.configs)} == paper
    assert {datasets()[c.dataset]["mirror"] for c in photographs.configs} == {True}
    assert {datasets()[c.dataset]["mirror"] for c in plain.configs} == {False}
    assert "FusedPhotographs" in photographs.methods


def test_the_ablation_varies_one_setting_at_a_time():
    study = read_grid(STUDIES / "ablation.toml")
    pairs = {(c.clusters, c.latent) for c in study.configs}
    assert pairs == {(k, 10) for k in range(2, 21, 2)} | {(10, d) for d in range(10, 101, 10)}


def test_the_smoke_study_runs_every_method():
    study = read_grid(STUDIES / "smoke.toml")
    assert (study.methods, len(study.configs)) == (choose_methods("all"), 6)


def change(old, new):
    assert old in GOOD
    return GOOD.replace(old, new, 1)


BROKEN = [  # text, line, what is said
    (change('title = "T"', "title = T"), 1, "not TOML"),
    (change('title = "T"', "title = 3"), 1, "text in quotes"),
    (change("title", "titel"), 1, "did you mean 'title'"),
    (change('"fast"', '"quick"'), 2, "Expected one of smoke, fast, best, paper"),
    (change('"fast"', "1"), 2, "text in quotes"),
    (change('profile = "fast"', 'profil = "fast"'), 2, "did you mean 'profile'"),
    (change("[0, 1]", "[0, -1]"), 3, "at least 0"),
    (change("[0, 1]", "[0, 1.5]"), 3, "expected int"),
    (change("[0, 1]", '["0"]'), 3, "expected int"),
    (change("[0, 1]", "[true]"), 3, "expected int"),
    (change("[0, 1]", "[]"), 3, "at least one"),
    (change("[0, 1]", "3"), 3, "expected a list"),
    (change("[0, 1]", "[1, 1]"), 3, "twice"),
    (change("[0, 1]", "[0, 1"), 4, "not TOML"),
    (change("seeds", "seed"), 3, "did you mean 'seeds'"),
    (change('"OCSVM"', '"OCSWM"'), 4, "did you mean 'OCSVM'"),
    (change('"OCSVM"', '"CLAD"'), 4, "Expected one of all, ODIN"),
    (change('["ODIN", "OCSVM"]', '"ODIN"'), 4, "expected a list"),
    (change('["ODIN", "OCSVM"]', "[]"), 4, "at least one"),
    (change('"OCSVM"', '"ODIN"'), 4, "twice"),
    (change('"OCSVM"', "7"), 4, "text in quotes"),
    (change("methods", "method"), 4, "did you mean 'methods'"),
    (change("[scenarios]", "[scenario]"), 6, "did you mean 'scenarios'"),
    (change("[scenarios]", "[scenarios"), 6, "not TOML"),
    (change("digits =", "digit ="), 7, "did you mean 'digits'"),
    (change("digits =", "minst ="), 7, "did you mean 'mnist'"),
    (change('"STR"]', '"STR'), 7, "not TOML"),
    (change('"STR"', '"STRAIGHT"'), 7, "CUR, STR, MIX"),
    (change('"STR"', '"SPDL"'), 7, "CUR, STR, MIX"),
    (change('"STR"', '"CUR"'), 7, "twice"),
    (change('["CUR", "STR"]', '"CUR"'), 7, "expected a list"),
    (change('["CUR", "STR"]', "[]"), 7, "at least one"),
    (change('"STR"', "3"), 7, "text in quotes"),
    (change('"3"]', '"30"]'), 9, "unknown scenario '30'"),
    (change('"3"]', '"3+3"]'), 9, "twice"),
    (change('"3"]', '"CURR"]'), 9, "unknown scenario 'CURR'"),
    (change("mnist = ", "digits = "), 9, "not TOML"),
    (change("temperature = 10", "temprature = 10"), 12, "did you mean 'temperature'"),
    (change("temperature = 10", "temperature = 0"), 12, "above 0"),
    (change("temperature = 10", 'temperature = "hot"'), 12, "expected float"),
    (change("temperature = 10", "temperature = true"), 12, "expected float"),
    (change("temperature = 10", "temperature = nan"), 12, "finite"),
    (change("temperature = 10", "seed = 3"), 12, "not set here"),
    (change("temperature = 10", 'dataset = "mnist"'), 12, "not set here"),
    (change("temperature = 10", 'stem = "big"'), 12, "'small' or 'full' or 'published'"),
    (change("temperature = 10", "clusters = 1"), 12, "at least 2"),
    (change("clusters = [2, 4]", "clusters = [2, 1]"), 15, "at least 2"),
    (change("clusters = [2, 4]", "clusters = 4"), 15, "expected a list"),
    (change("clusters = [2, 4]", "clustres = [2, 4]"), 15, "did you mean 'clusters'"),
    (change("clusters = [2, 4]", 'scenario = ["CUR"]'), 15, "not set here"),
    (change("clusters = [2, 4]", "clusters = [2, 2]"), 15, "twice"),
    (change("[overrides]", "[override]"), 11, "did you mean 'overrides'"),
    ("", 1, "no scenarios"),
    ('seeds = [0]\n[overrides]\nlatent = 3\n', 3, "no scenarios"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "said"), BROKEN)
def test_a_broken_study_is_refused_with_its_line(text, line, said, write):
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        read_grid(write(text))
    message = str(refused.value)
    assert int(re.search(r"line (\d+)", message)[1]) == line, message
    assert len(message.splitlines()) == 1


def test_tables_and_keys_may_be_left_out(write):
    study = read_grid(write('[scenarios]\ndigits = ["CUR"]\n'))
    assert [(c.scenario, c.profile, c.seed) for c in study.configs] == [("CUR", "fast", 0)]
    assert (study.title, study.methods) == ("s", choose_methods("all"))


def test_a_folder_of_images_is_a_data_set_and_its_classes_are_not_known_yet(write, tmp_path):
    study = read_grid(write(f"[scenarios]\n'{tmp_path}' = ['good', 'ALL']\n"))
    assert [(c.dataset, c.scenario) for c in study.configs] == [
        (str(tmp_path), "good"),
        (str(tmp_path), "ALL"),
    ]


def test_the_line_is_that_of_the_wrong_value_not_of_one_like_it(write):
    text = (
        'title = "clusters = 1"\nseeds = [1]\n[scenarios]\ndigits = ["1"]\n[vary]\nclusters = [1]\n'
    )
    with pytest.raises(ValueError, match=r"s\.toml, line 6: clusters is 1"):
        read_grid(write(text))


def test_bytes_that_are_no_text_and_a_missing_file(tmp_path):
    path = tmp_path / "s.toml"
    path.write_bytes(b'title = "a"\n# \xff\n')
    with pytest.raises(ValueError, match="line 2: not UTF-8"):
        read_grid(path)
    with pytest.raises(ValueError, match="cannot read the study"):
        read_grid(tmp_path / "none.toml")
