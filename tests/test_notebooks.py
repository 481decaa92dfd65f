"""The notebooks under papermill, and the command line: the whole chain, and everything that stops it."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from clad_lib import __main__ as command
from clad_lib import headless
from clad_lib.methods import METHODS

SMOKE = ["--profile", "smoke", "--device", "cpu", "--set", "clusters=4"]


def clad(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "clad_lib", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=400, **options)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return root, clad("study", *SMOKE, "--runs", root)


def test_the_whole_chain_runs_and_prints_the_table(chain):
    root, done = chain
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.replace(" (oracle)", "").split() for line in done.stdout.splitlines()]
    rows = {line[0]: float(line[1]) for line in lines if line and line[0] in METHODS}
    stored = {path.parts[-3].partition("-")[0]: json.loads(path.read_text()) for path in root.rglob("metrics.json")}
    assert set(rows) == set(METHODS)
    assert rows == {name: round(100 * metrics["auroc"], 1) for name, metrics in stored.items()}


def test_every_executed_notebook_is_kept(chain):
    root, _ = chain
    kept = sorted(path.name for path in root.rglob("notebooks/*.ipynb"))
    assert kept == [path.name for path in headless.choose_notebooks()]
    assert "07_ablations" in chain[1].stdout  # said not to be executed, and how to
    assert len(headless.choose_notebooks(["all"])) == len(kept) + len(headless.LONG)


def test_every_picture_has_a_title_named_axes_and_a_page_of_its_own(chain):
    root, _ = chain
    for notebook in sorted(root.rglob("notebooks/*.ipynb")):
        figures = headless.pictures_of(notebook)
        assert figures, notebook.name
        for name, figure in figures:
            assert figure["layout"]["title"]["text"], name
            kinds = {trace["type"] for trace in figure["data"]}
            panels = {name for name in figure["layout"] if name.startswith("xaxis")}
            if kinds & {"histogram", "bar", "scattergl"} and not kinds & {"image", "table"} and len(panels) == 1:
                assert figure["layout"]["xaxis"]["title"]["text"], name
                assert figure["layout"]["yaxis"]["title"]["text"], name
            page = next(root.rglob(f"pictures/{name}.html")).read_text()
            assert "<script src=" not in page


def test_one_notebook_with_another_temperature_trains_nothing(chain):
    root, _ = chain
    before = {path: path.stat().st_mtime_ns for path in root.rglob("model.safetensors")}
    done = clad("study", *SMOKE, "--runs", root, "--set", "temperature=1", "--notebooks", "05")
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("model.safetensors")} == before


def test_the_long_notebook_runs_when_it_is_asked_for(chain):
    root, _ = chain
    done = clad("study", *SMOKE, "--runs", root, "--notebooks", "07")
    assert done.returncode == 0, done.stderr[-2000:]
    figures = headless.pictures_of(next(root.rglob("notebooks/07_ablations.ipynb")))
    assert [figure["data"][0]["type"] for _, figure in figures] == ["scatter", "scatter", "waterfall", "table"]


def test_a_later_notebook_alone_names_the_one_before(tmp_path):
    done = clad("study", *SMOKE, "--runs", tmp_path, "--notebooks", "04")
    assert done.returncode == 1
    assert "04_classifier.ipynb, cell" in done.stderr
    assert "run notebook 03_self_labelling first" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "minst"], "unknown data set 'minst'"),
        (["--scenario", "CURLY"], "CUR, STR, MIX"),
        (["--notebooks", "02,99"], "unknown notebook '99'"),
        (["--set", "temprature=1"], "did you mean 'temperature'"),
        (["--set", "temperature"], "expected name=value"),
        (["--set", "temperature=-1"], "above 0"),
        (["--profile", "quick"], "smoke, fast, paper"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--seed", "-1"], "at least 0"),
        (["--sed", "1"], "No such option"),
    ],
)
def test_bad_arguments_are_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["clad", "study", "--runs", str(tmp_path / "runs"), *arguments])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert said in str(stopped.value)
    assert len(str(stopped.value).splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def notebook(tmp_path, *sources):
    document = nbformat.v4.new_notebook()
    document.metadata["kernelspec"] = dict(name="python3", display_name="Python 3", language="python")
    document.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    document.cells[0].metadata["tags"] = ["parameters"]
    path = tmp_path / "01_made.ipynb"
    nbformat.write(document, path)
    return path


def test_a_cell_that_raises_is_named_and_the_rest_is_kept(tmp_path):
    path = notebook(tmp_path, "seed = 0", "print('before')", "1 / 0")
    with pytest.raises(headless.NotebookError, match=r"cell 3: ZeroDivisionError: division by zero\nexecuted so far: .*out"):
        headless.execute(path, {}, tmp_path / "out.ipynb")
    kept = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert any("before" in output.get("text", "") for cell in kept.cells for output in cell.get("outputs", []))


def test_a_kernel_that_dies_is_no_success(tmp_path):
    path = notebook(tmp_path, "seed = 0", "import os; os._exit(3)")
    with pytest.raises(headless.NotebookError, match="DeadKernelError"):
        headless.execute(path, {}, tmp_path / "out.ipynb")


def test_unknown_parameters_are_refused_before_anything_runs(tmp_path):
    path = notebook(tmp_path, "seed = 0", "open('ran', 'w')")
    with pytest.raises(headless.NotebookError, match="no parameter 'sede': expected one of seed"):
        headless.execute_all([path], {"sede": 1}, tmp_path / "out", progress=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_in_the_middle_of_a_notebook_leaves_no_half_and_the_same_command_goes_on(tmp_path):
    line = [sys.executable, "-m", "clad_lib", "study", *SMOKE, "--set", "ae_epochs=100000", "--runs", str(tmp_path)]
    process = subprocess.Popen([*line, "--notebooks", "02"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob(".seed0-*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "interrupted" in errors
    assert "Traceback" not in errors
    time.sleep(1)
    assert not list(tmp_path.rglob("autoencoder-*/seed0"))
    assert not list(tmp_path.rglob(".seed0-*"))
