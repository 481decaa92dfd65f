"""The size of the library: statements, lines, import depth. `python tools/measure_code.py`."""

from __future__ import annotations

import ast
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
PACKAGE = "clad_lib"
MOST = {
    "statements": 6273,  # wanted: 3,800; rises only with a capability, see CONTRIBUTING.md
    "columns": 100,
    "lines a module": 250,
    "lines a function": 40,
    "depth": 7,
}


def trees(folder: str = PACKAGE) -> dict[str, ast.Module]:
    """Dotted name -> syntax tree of every module of the package."""
    found = {}
    for path in sorted((HOME / folder).rglob("*.py")):
        name = ".".join(path.relative_to(HOME).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports_of(tree: ast.AST, known: set[str]) -> set[str]:
    """The package's modules that a module imports when it is itself imported."""
    found = set()
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            names = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            found |= names & known
    return found - {PACKAGE}


def depth(name: str, graph: dict[str, set[str]]) -> int:
    """Modules on the longest chain of imports that starts at `name`."""
    return 1 + max((depth(other, graph) for other in graph[name] if other != name), default=0)


def function_lines(node: ast.FunctionDef) -> int:
    """Lines of a function's body, its docstring apart."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def figures() -> dict[str, float]:
    """Every figure that CONTRIBUTING.md sets a limit to."""
    modules = trees()
    nodes = [node for tree in modules.values() for node in ast.walk(tree)]
    texts = [path.read_text(encoding="utf-8") for path in (HOME / PACKAGE).rglob("*.py")]
    graph = {name: imports_of(tree, set(modules)) for name, tree in modules.items()}
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    statements = sum(isinstance(node, ast.stmt) for node in nodes)
    return {
        "statements": statements,
        "nodes a statement": round(len(nodes) / statements, 2),
        "modules": len(modules),
        "columns": max(len(line) for text in texts for line in text.splitlines()),
        "lines a module": max(len(text.splitlines()) for text in texts),
        "lines a function": max(map(function_lines, functions)),
        "fmt: skip": sum(text.count("fmt: skip") for text in texts),
        "depth": max(depth(name, graph) for name in graph),
    }


if __name__ == "__main__":
    for name, value in figures().items():
        limit = f"  (at most {MOST[name]})" if name in MOST else ""
        print(f"{name:20} {value:>7}{limit}")
