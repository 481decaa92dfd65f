"""The answers to the exercises can be executed, each section in a notebook's place."""

import re
import warnings
from pathlib import Path

import pytest
from PIL import Image

from clad_lib import make_config, open_study
from clad_lib.study.notebooks import choose_notebooks

ANSWERS = Path(__file__).resolve().parents[1] / "docs" / "answers.md"
SECTIONS = re.split(r"^## ", ANSWERS.read_text(encoding="utf-8"), flags=re.MULTILINE)


def code_of(text):
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """What a notebook has at its end, and the first block of the page."""
    config = make_config("digits", "MIX", profile="smoke")
    study = open_study(config, runs=tmp_path_factory.mktemp("runs"), progress=False)
    names = {"config": config, "study": study, "seed": 0, "place": tmp_path_factory.mktemp("place")}
    for part, rows in {"line": range(50), "good": range(50, 60), "bad": range(60, 70)}.items():
        (names["place"] / part).mkdir()
        for row in rows:
            picture = Image.fromarray(study.split.train[row, 0].numpy())
            picture.save(names["place"] / part / f"{row}.png")
    names["line"] = names["place"] / "line"
    exec(compile(code_of(SECTIONS[0])[0], "the first block", "exec"), names)
    return names


def test_every_exercise_has_an_answer():
    notebooks = choose_notebooks("01-09")
    assert [section[0] for section in SECTIONS[1:]] == [path.name[1] for path in notebooks]
    for path, section in zip(notebooks, SECTIONS[1:], strict=True):
        asked = re.findall(r'"(\d)\. ', path.read_text(encoding="utf-8").partition("## Exerc")[2])
        assert re.findall(r"^\*\*(\d)\. ", section, flags=re.MULTILINE) == asked


@pytest.mark.parametrize("section", SECTIONS[1:], ids=lambda section: section.partition("\n")[0])
def test_answers_can_be_executed(section, start, capsys):
    own = ("seed", "place", "line")  # all that the last notebook gives
    names = {name: start[name] for name in (own if section.startswith("9") else start)}
    with warnings.catch_warnings(action="ignore"):  # of clusters that die in so short a training
        for number, block in enumerate(code_of(section), start=1):
            exec(compile(block, f"block {number} of {section[:20]}", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) >= len(code_of(section)) - 1
