"""Execute the default study again and rewrite the committed notebooks, and figures/, from it.

`python tools/committed_notebooks.py` or, for some of them, `... 02,04-06`. It needs Chrome or
Chromium, and the arguments of `clad study --notebooks`.
"""

from __future__ import annotations

import base64
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import plotly.graph_objects as go

from clad_lib.look.report import PLOTLY, png_bytes
from clad_lib.study.notebooks import (
    Kernel,
    NotebookError,
    choose_notebooks,
    execute,
    notebook_folder,
)

WIDGET = "application/vnd.jupyter.widget-view+json"
INTERACTIVE = "*Interactive: run the notebook in JupyterLab, Notebook 7 or VS Code; what follows "
INTERACTIVE += "needs no kernel.*"
PROGRESS = re.compile(r"\r|\d+%\|")  # what a progress bar leaves in an output


def keep_static(notebook: Path, figures: Path) -> None:
    """Make an executed notebook fit to be stored: readable without a kernel and without a script.

    Each plotly figure gets a PNG beside it, with its alternative text, which is also written to
    `figures`; widgets become a sentence; progress bars and what papermill noted go.
    """
    document = nbformat.read(notebook, as_version=4)
    number = 0
    for cell in document.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        kept = [out for out in cell.get("outputs", []) if not PROGRESS.search(out.get("text", ""))]
        for output in kept:
            data = output.get("data", {})
            if WIDGET in data:
                told = {"text/markdown": INTERACTIVE, "text/plain": INTERACTIVE.strip("*")}
                output["data"] = nbformat.from_dict(told)
            elif PLOTLY in data:
                figure, number = go.Figure(data[PLOTLY]), number + 1
                about = dict(figure.layout.meta)
                slug = "_".join(re.findall(r"[a-z0-9]+", about["title"].lower())[:5])
                drawn = png_bytes(figure)
                if drawn is None:
                    raise NotebookError("static pictures need Chrome or Chromium: install one")
                (figures / f"{notebook.stem}-{number}-{slug}.png").write_bytes(drawn)
                data["image/png"] = base64.b64encode(drawn).decode()
                output["metadata"] = nbformat.from_dict({"image/png": about})
        if "outputs" in cell:
            cell.outputs = kept
    for name in ("papermill", "widgets"):
        document.metadata.pop(name, None)
    nbformat.write(document, notebook)


def rewrite(notebooks: list[Path]) -> None:
    """Execute notebooks with their defaults and put them back with their pictures."""
    figures = notebook_folder().parent / "figures"
    kernel = Kernel(notebook_folder())
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for path in notebooks:
                executed = Path(scratch) / path.name
                execute(path, executed, {}, kernel)
                for old in figures.glob(f"{path.stem}-*.png"):
                    old.unlink()
                keep_static(executed, figures)
                path.write_bytes(executed.read_bytes())
    finally:
        kernel.close()


if __name__ == "__main__":
    rewrite(choose_notebooks(sys.argv[1] if len(sys.argv) > 1 else "all"))
