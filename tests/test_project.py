"""The files around the library agree with each other and name no machine."""

import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def tracked():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.stdout.splitlines()]


def test_every_make_command_of_the_readme_exists():
    wanted = set(re.findall(r"make ([a-z-]+)", re.sub(r"```.*?```", lambda m: m.group(0), (ROOT / "README.md").read_text())))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"study", "test"} <= wanted & targets
    assert not {name for name in wanted if name in {"study", "test", "lab", "lint", "notebooks", "bench", "setup"}} - targets


def test_files_that_the_readme_links_to_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_constraints_cover_the_dependencies_and_hold_no_address():
    text = (ROOT / "constraints.txt").read_text().lower()
    assert "://" not in text
    pinned = {re.split(r"[=<> ;\[]", line)[0].replace("_", "-") for line in text.splitlines() if line and line[0] not in "# "}
    needed = {re.split(r"[=<> ;\[]", line)[0].lower().replace("_", "-") for line in PROJECT["project"]["dependencies"]}
    assert not needed - pinned


def test_nothing_names_a_machine():
    forbidden = re.compile("/wor" + "k/|/ro" + "ot/|/home/[a-z]|@" + "localhost")
    texts = [
        path for path in tracked() if path.suffix in {".py", ".md", ".toml", ".yml", ".ipynb", ".csv", ".txt"} and path.exists()
    ]
    assert not [str(path) for path in texts if forbidden.search(path.read_text())]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_keep_to_the_rules(path):
    document = nbformat.read(path, as_version=4)
    nbformat.validate(document)
    code = [cell for cell in document.cells if cell.cell_type == "code"]
    assert len(code) <= 30
    assert max(len(cell.source.splitlines()) for cell in code) <= 15
    assert document.cells[0].cell_type == "markdown"
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert not any(re.search(r"^\s*(class|def|while) ", cell.source, re.M) for cell in code)
    assert path.stat().st_size <= 1_000_000


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != "dashboard"], ids=lambda path: path.stem)
def test_committed_notebooks_keep_a_static_picture_beside_each_plot(path):
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    plots = [output.data for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert plots
    assert all("image/png" in data for data in plots)
    assert not [output for output in outputs if output.output_type == "error"]
