"""The rules of the house: rooms import one way, modules stay short, public names explain themselves."""

import ast
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME / "tools"))
import measure_code  # noqa: E402

MODULES = measure_code.trees()
ROOMS = ("facts", "config", "data", "judge", "clad", "methods", "study", "look", "detector")
DOOR = ("commands", "results_commands", "detector_commands", "__main__")
ABSENT = (
    "IPython jupyterlab papermill nbformat nbclient plotly dask distributed duckdb openTSNE".split()
)
ABSENT += "MulticoreTSNE platformdirs psutil ipywidgets anywidget kaleido voila".split()


def room(name):
    part = name.split(".")[1]
    return ROOMS.index(part) if part in ROOMS else len(ROOMS) + DOOR.index(part)


def imported(tree):
    """The modules of the package that a module imports, wherever in it the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clad_lib":
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name if name in MODULES else node.module for name in whole]
        elif isinstance(node, ast.Import):
            yield from [each.name for each in node.names if each.name.startswith("clad_lib")]


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name])
def test_every_module_is_in_a_room_and_imports_only_from_rooms_above(name):
    assert name.split(".")[1] in (*ROOMS, *DOOR), (
        f"{name} is in no room: put it into one of {ROOMS}"
    )
    below = [
        other
        for other in imported(MODULES[name])
        if other != "clad_lib" and room(other) > room(name)
    ]
    assert not below, f"{name} imports {below} from a room below it"


@pytest.mark.parametrize("name", MODULES)
def test_the_library_never_prints(name):
    calls = [node.func for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


@pytest.mark.parametrize("name", MODULES)
def test_public_names_explain_themselves(name):
    assert ast.get_docstring(MODULES[name])
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"
    for node in MODULES[name].body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_stay_short(name):
    path = HOME.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    assert max(map(len, text.splitlines())) <= 100
    assert "fmt: skip" not in text or name.endswith(("networks", "deep_svdd"))
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.FunctionDef):
            assert measure_code.function_lines(node) <= 40, f"{name}.{node.name}"


def test_the_library_is_thin():
    figures = measure_code.figures()
    assert figures["statements"] <= measure_code.MOST["statements"]
    assert figures["depth"] <= measure_code.MOST["depth"]
    assert figures["nodes a statement"] <= 14.1


def test_no_module_is_a_drawer_for_everything():
    names = {name.split(".")[-1] for name in MODULES}
    assert not {"utils", "helpers", "common", "misc"} & names


@pytest.mark.parametrize("name", MODULES)
def test_text_files_are_opened_as_utf_8(name):
    for node in ast.walk(MODULES[name]):
        if getattr(getattr(node, "func", None), "attr", "") in ("read_text", "write_text"):
            assert "encoding" in {keyword.arg for keyword in node.keywords}, ast.unparse(node)


def test_every_file_of_the_package_travels_in_the_wheel():
    known = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    for path in (HOME / "clad_lib").rglob("*"):
        package = ".".join(path.parent.relative_to(HOME).parts)
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            patterns = known["package-data"].get(package, ())
            assert any(fnmatch(path.name, each) for each in patterns), path
        assert package in known["packages"] or path.suffix in ("", ".pyc"), path


def in_a_subprocess(code, *flags, **environment):
    import os

    line = [sys.executable, *flags, "-c", code]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLAD")}
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, timeout=300, env=kept | environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Block())
for name in list(sys.modules):
    if name.split(".")[0] in {names!r}:
        del sys.modules[name]
"""
RUN = """
sys.argv = ["clad", "run", "--profile", "smoke", "--methods", "ODIN,MSP,OCSVM,NearestImage",
            "--runs", {runs!r}]
from clad_lib.__main__ import main
try:
    main()
except SystemExit as status:
    assert not status.code, status.code
"""


def test_a_bare_machine_trains_and_scores(tmp_path):
    code = BLOCK.format(names=set(ABSENT)) + RUN.format(runs=str(tmp_path / "runs"))
    out = in_a_subprocess(code, CLAD_CACHE=str(tmp_path / "cache"), OMP_NUM_THREADS="1")
    assert "ODIN" in out


def test_it_runs_without_posix_modules_and_in_the_c_locale(tmp_path):
    code = BLOCK.format(names={"resource", "fcntl", "pwd", "grp"}) + RUN.format(
        runs=str(tmp_path / "r")
    )
    plain = dict(PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C", OMP_NUM_THREADS="1")
    flags = ("-X", "warn_default_encoding", "-W", "error::EncodingWarning:clad_lib")
    out = in_a_subprocess(code, *flags, CLAD_CACHE=str(tmp_path / "cache"), **plain)
    assert "ODIN" in out


def test_help_needs_no_heavy_import():
    heavy = ["torch", "pandas", "numpy", "sklearn", "plotly", "dask"]
    code = "import sys; from clad_lib.__main__ import application; application(); "
    code += f"sys.exit([m for m in {heavy} if m in sys.modules] or 0)"
    in_a_subprocess(code)


def test_training_never_loads_torchvision_before_it_is_used():
    code = "import sys, clad_lib.study.engine; assert 'torchvision' not in sys.modules"
    in_a_subprocess(code)
