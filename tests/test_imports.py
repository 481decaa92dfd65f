"""The house rules of clad_lib: imports point one way, modules and functions stay short, public names explain themselves."""

import ast
from pathlib import Path

import pytest

import clad_lib

ROOT = Path(clad_lib.__file__).parent
MODULES = {
    str(path.relative_to(ROOT).with_suffix("")).replace("/", "."): path
    for path in ROOT.rglob("*.py")
    if path.name != "__init__.py"
}
LAYERS = [
    {"config", "published", "class_names", "sources", "data", "scenarios", "models", "training", "evaluation", "curves"}
    | {"bands", "runs", "whole", "environment"},
    {"clustering", "scoring", "baselines", "deep_svdd", "kernel_baselines", "calibration", "embedding", "preflight"},
    {"plots", "pipeline", "selection", "measure", "methods", "ablation", "results"}
    | {"records", "tracking", "sweeps", "marks"}
    | {"studies", "tables", "boundaries", "operating"},
    {"headless", "widgets", "detector", "batch", "cluster", "jobs", "reports", "dashboard", "__main__"},
]


def imported(path):
    """Names of the modules of clad_lib that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "clad_lib":
            rest = node.module.split(".")[1:]
            yield from [rest[0]] if rest else [alias.name for alias in node.names]


def layer(name):
    return next(number for number, names in enumerate(LAYERS) if name.split(".")[0] in names)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    above = [other for other in imported(MODULES[name]) if layer(other) > layer(name)]
    assert not above, f"{name} imports {above} from a layer above it"


def test_no_module_is_a_drawer_for_everything():
    assert not {"utils", "helpers", "common", "misc"} & {name.split(".")[-1] for name in MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_stay_short(name):
    text = MODULES[name].read_text()
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            length = body[-1].end_lineno - body[0].lineno + 1
            assert length <= 40, f"{name}.{node.name} has {length} lines"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_explain_themselves(name):
    tree = ast.parse(MODULES[name].read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("__main__",)])
def test_the_library_never_prints(name):
    calls = [node.func for node in ast.walk(ast.parse(MODULES[name].read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
