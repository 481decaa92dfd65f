"""Choosing, copying and executing notebooks, and everything that stops them, on tiny ones."""

import os
import re
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import pytest

from clad_lib.config import make_config
from clad_lib.study import notebooks, store
from clad_lib.study.notebooks import Kernel, NotebookError, execute
from clad_lib.study.store import StoreError

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ("01_scenarios", "02_latent_space", "05_odin_scoring", "07_ablations", "08_results")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for the notebooks of this module, as in a batch."""
    folder = tmp_path_factory.mktemp("kernel")
    shared = Kernel(folder)
    yield shared
    private = shared.private
    shared.close()
    assert not private.exists()


def notebook(path, *sources):
    document = nbformat.v4.new_notebook()
    document.metadata["kernelspec"] = dict(
        name="python3", display_name="Python 3", language="python"
    )
    document.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    document.cells[0].metadata["tags"] = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(document, path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package with five notebooks and the dashboard's."""
    home = tmp_path / "package" / "notebooks"
    for name in (*NAMES, "dashboard"):
        notebook(home / f"{name}.ipynb", "seed = 0", f"print('{name}')")
    fake = home.parent / "study" / "notebooks.py"
    monkeypatch.setattr(store, "__file__", str(fake))
    return home


def texts(path):
    document = nbformat.read(path, as_version=4)
    outputs = [output for cell in document.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def test_the_folder_is_the_packages_whatever_the_working_directory_holds(
    folder, tmp_path, monkeypatch
):
    notebook(tmp_path / "work" / "notebooks" / "03_own.ipynb", "x = 1")
    monkeypatch.chdir(tmp_path / "work")
    assert notebooks.notebook_folder() == folder
    beside = tmp_path / "checkout" / "notebooks"
    notebook(beside / "01_scenarios.ipynb", "x = 1")
    (tmp_path / "checkout" / "clad_lib").mkdir()
    monkeypatch.setattr(
        store, "__file__", str(tmp_path / "checkout" / "clad_lib" / "study" / "n.py")
    )
    assert notebooks.notebook_folder() == beside
    monkeypatch.setattr(store, "__file__", str(tmp_path / "none" / "study" / "n.py"))
    with pytest.raises(NotebookError, match="install clad-lib again"):
        notebooks.notebook_folder()


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ("", "01 02 05 08"),
        ("  ", "01 02 05 08"),
        ("all", "01 02 05 07 08"),
        ("02", "02"),
        ("05, 02", "02 05"),
        ("02-07", "02 05 07"),
        ("01,05-08", "01 05 07 08"),
        ("02_latent_space", "02"),
        ("02_latent_space-05_odin_scoring", "02 05"),
        ("08-02", "02 05 07 08"),
        ("02,02,", "02"),
    ],
)
def test_notebooks_by_number_name_and_range(folder, wanted, numbers):
    found = notebooks.choose_notebooks(wanted)
    assert " ".join(path.name[:2] for path in found) == numbers


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("02,99", "unknown notebook '99'"),
        ("02-99", "unknown notebook '99'"),
        ("02_latent_spaces", "did you mean '02_latent_space'"),
        ("5", "Expected one of all, 01_scenarios"),
    ],
)
def test_an_unknown_notebook_is_one_line_with_the_nearest(folder, wanted, said):
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        notebooks.choose_notebooks(wanted)
    assert len(str(refused.value).splitlines()) == 1


def test_copies_are_ones_own_and_never_overwritten(folder, tmp_path):
    mine = tmp_path / "mine"
    made = notebooks.copy_notebooks(mine)
    assert [path.name for path in made] == [f"{name}.ipynb" for name in (*NAMES, "dashboard")]
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in made)
    made[0].write_text("changed", encoding="utf-8")
    made[1].unlink()
    assert notebooks.copy_notebooks(mine) == [made[1]]
    assert made[0].read_text(encoding="utf-8") == "changed"
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(StoreError, match="name another folder"):
        notebooks.copy_notebooks(tmp_path / "file" / "deep")


def test_parameters_hold_what_differs_from_the_profile():
    config = make_config("digits", "CUR", profile="smoke", seed=3, clusters=4)
    found = notebooks.parameters_of(config, Path("/runs/{seed}"), "cpu")
    assert found == {
        "dataset": "digits",
        "scenario": "CUR",
        "profile": "smoke",
        "seed": 3,
        "device": "cpu",
        "runs": "/runs/{seed}",
        "overrides": {"clusters": 4},
    }


def test_a_page_is_prepared_with_its_parameters_and_not_executed(folder, tmp_path):
    class Opened:
        config = make_config("digits", "STR", profile="smoke")
        root = tmp_path / "runs {x}"
        device = "cpu"

    names = (*notebooks.parameters_of(Opened.config, Opened.root, "cpu"), "local")
    notebook(folder / "dashboard.ipynb", "\n".join(f"{name} = None" for name in names), "1 / 0")
    page = notebooks.prepare_notebook(
        "dashboard.ipynb", Opened, tmp_path / "deep {seed}" / "page.ipynb", local=False
    )
    code = [c for c in nbformat.read(page, as_version=4).cells if c.cell_type == "code"]
    assert 'scenario = "STR"' in code[1].source
    assert "local = False" in code[1].source
    assert f'runs = "{Opened.root}"' in code[1].source
    assert not any(cell.outputs for cell in code)
    with pytest.raises(NotebookError, match="unknown parameter 'locale': did you mean 'local'"):
        notebooks.prepare_notebook("dashboard.ipynb", Opened, page, locale=1)
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(StoreError, match="name another folder"):
        notebooks.prepare_notebook(
            "dashboard.ipynb", Opened, tmp_path / "file" / "p.ipynb", local=True
        )


def test_a_notebook_is_executed_in_its_folder_and_environment_ours_is_left_alone(
    tmp_path, kernel, monkeypatch
):
    before, here = dict(os.environ), os.getcwd()
    path = notebook(
        tmp_path / "n.ipynb",
        "seed = 0",
        "import os; print(seed, os.getcwd(), os.environ['PLOTLY_RENDERER'])",
    )
    execute(path, tmp_path / "out.ipynb", {"seed": 7}, kernel)
    assert texts(tmp_path / "out.ipynb").split() == [
        "7",
        os.path.realpath(kernel.folder),
        "plotly_mimetype",
    ]
    assert dict(os.environ) == before
    assert os.getcwd() == here


def test_a_kernel_is_as_good_as_new_for_each_notebook(tmp_path, kernel):
    path = notebook(tmp_path / "n.ipynb", "seed = 0", "import sys; kept = 1; sys.marked = 5")
    execute(path, tmp_path / "one.ipynb", {}, kernel)
    process = kernel.provisioner.pid
    path = notebook(
        tmp_path / "m.ipynb", "seed = 0", "import sys; print('kept' in dir(), sys.marked)"
    )
    execute(path, tmp_path / "two.ipynb", {}, kernel)
    assert texts(tmp_path / "two.ipynb").split() == ["False", "5"]
    assert kernel.provisioner.pid == process  # so that imports are paid for once
    counts = [cell.execution_count for cell in nbformat.read(tmp_path / "two.ipynb", 4).cells]
    assert counts == [1, 2]
    assert len(kernel.clients) == 0  # channels of earlier notebooks are closed


def test_a_cell_that_raises_is_named_and_the_rest_is_kept(tmp_path, kernel):
    path = notebook(tmp_path / "01_made.ipynb", "seed = 0", "print('before')", "1 / 0", "seed")
    said = r"01_made.ipynb, cell 3: ZeroDivisionError: division by zero\nexecuted so far: .*out"
    with pytest.raises(NotebookError, match=said):
        execute(path, tmp_path / "out.ipynb", {}, kernel)
    assert "before" in texts(tmp_path / "out.ipynb")
    notebook(path, "seed = 0", "print('again')")
    execute(path, tmp_path / "out.ipynb", {}, kernel)
    assert "again" in texts(tmp_path / "out.ipynb")


def test_a_kernel_that_dies_is_started_once_more(tmp_path, kernel):
    mark = tmp_path / "mark"
    once = f"import os, pathlib; m = pathlib.Path({str(mark)!r})"
    path = notebook(
        tmp_path / "n.ipynb", "seed = 0", once, "m.exists() or (m.touch(), os._exit(3))"
    )
    execute(path, tmp_path / "out.ipynb", {}, kernel)
    assert mark.exists()
    path = notebook(
        tmp_path / "n.ipynb",
        "seed = 0",
        "import os; os.write(2, b'out of luck\\n'); os._exit(3)",
    )
    said = r"^n.ipynb: DeadKernelError: Kernel died; it said: out of luck$"
    with pytest.raises(NotebookError, match=said):
        execute(path, tmp_path / "out.ipynb", {}, kernel)


def test_a_kernel_that_cannot_start_says_why(tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "ipykernel_launcher.py").write_text(
        "raise SystemExit('no kernel today')", encoding="utf-8"
    )
    path = notebook(tmp_path / "n.ipynb", "seed = 0")
    own = Kernel(tmp_path, {"PYTHONPATH": str(broken)})
    try:
        with pytest.raises(NotebookError, match=r"n.ipynb: RuntimeError: .*no kernel today"):
            execute(path, tmp_path / "out.ipynb", {}, own)
    finally:
        own.close()


def test_unknown_parameters_are_refused_before_anything_runs(tmp_path, kernel):
    path = notebook(tmp_path / "n.ipynb", "seed: int = 0\nruns = ''", "open('ran', 'w')")
    with pytest.raises(
        NotebookError, match=r"n.ipynb: unknown parameter 'sede': did you mean 'seed'"
    ):
        execute(path, tmp_path / "out.ipynb", {"sede": 1}, kernel)
    assert not (tmp_path / "ran").exists()


def test_braces_in_a_path_are_no_format_string(tmp_path, kernel):
    path = notebook(tmp_path / "{seed} {}" / "n.ipynb", "seed = 0", "print(seed)")
    target = tmp_path / "{0} {runs!r}" / "out.ipynb"
    target.parent.mkdir()
    execute(path, target, {"seed": 1}, kernel)
    assert texts(target).split() == ["1"]


def test_a_temporary_folder_with_a_long_name_does_not_stop_a_kernel(tmp_path, monkeypatch):
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    own = Kernel(tmp_path)
    try:
        path = notebook(tmp_path / "n.ipynb", "seed = 0", "print('ran')")
        execute(path, tmp_path / "out.ipynb", {}, own)
        assert texts(tmp_path / "out.ipynb").split() == ["ran"]
        assert own.transport == "tcp"
    finally:
        own.close()


@pytest.mark.skipif(os.name == "nt", reason="TCP is used there")
def test_sockets_of_the_longest_folder_still_fit(tmp_path, kernel):
    execute(notebook(tmp_path / "n.ipynb", "seed = 0"), tmp_path / "out.ipynb", {}, kernel)
    manager = kernel
    assert manager.transport == "ipc"
    assert list(manager.private.glob("k-*"))
    name = len(f"{manager.ip}-99") - len(str(manager.private))
    assert notebooks.LONGEST + name <= 103  # sun_path on macOS, with its closing zero


@pytest.mark.parametrize("lost", [0, 1])
def test_closing_interrupts_what_runs(lost, tmp_path):
    """A training that is stopped removes its draft, also when the first interrupt gets lost."""
    mark = tmp_path / "draft"
    code = f"""import pathlib, time
draft = pathlib.Path({str(mark)!r})
try:
    draft.touch()
    for _ in range({lost}):
        try:
            time.sleep(100)
        except BaseException:
            pass
    time.sleep(100)
finally:
    draft.unlink()"""
    path = notebook(tmp_path / "n.ipynb", "seed = 0", code)
    own, raised = Kernel(tmp_path), []

    def job():
        try:
            execute(path, tmp_path / "out.ipynb", {}, own)
        except NotebookError as error:
            raised.append(str(error))

    thread = threading.Thread(target=job)
    thread.start()
    deadline = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    own.close()
    thread.join(timeout=30)
    assert not mark.exists()
    assert not thread.is_alive()
    assert [re.sub(":.*", "", error.partition("\n")[0]) for error in raised] == ["n.ipynb, cell 2"]
    assert "KeyboardInterrupt" in raised[0]
    with pytest.raises(NotebookError, match="InterruptedError: the kernel was closed"):
        execute(path, tmp_path / "out.ipynb", {}, own)
