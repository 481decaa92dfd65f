"""Execute the notebooks with papermill, in order, and collect the pictures they show."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from clad_lib.config import Config, overrides_of
from clad_lib.environment import environment

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
INTERACTIVE = "*Interactive: run the notebook in JupyterLab, Notebook 7 or VS Code. What follows needs no kernel.*"
LONG = ("07_ablations",)  # trains again for each setting: only when it is asked for
STOPPED = (PapermillExecutionError, DeadKernelError, CellTimeoutError)


class NotebookError(RuntimeError):
    """A notebook that is not there, or that stopped: which cell, which error, and where the executed part lies."""


class LocalKernelManager(AsyncKernelManager):
    """Kernels that talk over files instead of TCP ports, so that many at once cannot race for the same port."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        if os.name != "nt":
            self.transport = "ipc"
            self._sockets = tempfile.mkdtemp(prefix="clad-")  # a folder of its own: the default name is shared by all
            self.ip = os.path.join(self._sockets, "kernel")

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        """Start the kernel without its own error stream: errors come back as outputs, or as a dead kernel."""
        await super().start_kernel(stderr=subprocess.DEVNULL, **options)

    def cleanup_ipc_files(self) -> None:
        """Remove the sockets and their folder."""
        super().cleanup_ipc_files()
        shutil.rmtree(getattr(self, "_sockets", ""), ignore_errors=True)


def notebook_folder() -> Path:
    """The folder of the notebooks: beside the installed library, or below the working directory."""
    for folder in (Path(__file__).resolve().parents[1] / "notebooks", Path.cwd() / "notebooks"):
        if folder.is_dir():
            return folder
    raise NotebookError(f"no folder 'notebooks' beside the library or in {Path.cwd()}: run this from the project folder")


def choose_notebooks(wanted: Sequence[str] = ()) -> list[Path]:
    """Those whose number or name is `wanted`, in order; with none, all but LONG. NotebookError lists the known ones.

    `all` stands for every notebook.
    """
    known = sorted(notebook_folder().glob("[0-9][0-9]_*.ipynb"))
    if not wanted or list(wanted) == ["all"]:
        return [path for path in known if wanted or path.stem not in LONG]
    chosen = {name: [path for path in known if name in (path.stem, path.stem[:2])] for name in wanted}
    if missing := [name for name, found in chosen.items() if not found]:
        raise NotebookError(f"unknown notebook {missing[0]!r}: expected one of {', '.join(p.stem for p in known)}")
    return [path for path in known if any(path in found for found in chosen.values())]


def notebook_parameters(config: Config, runs: Path, device: str) -> dict[str, Any]:
    """What papermill puts into the parameters cell; `overrides` holds what differs from the profile."""
    return {
        "dataset": config.dataset, "scenario": config.scenario, "profile": config.profile, "seed": config.seed,
        "device": device, "runs": str(runs.resolve()), "overrides": overrides_of(config),
    }  # fmt: skip


def check_parameters(notebooks: Sequence[Path], parameters: dict[str, Any]) -> None:
    """NotebookError unless every parameter is in the parameters cell of every notebook; papermill would only warn."""
    for path in notebooks:
        known = papermill.inspect_notebook(str(path))
        if unknown := [name for name in parameters if name not in known]:
            raise NotebookError(f"{path.name} has no parameter {unknown[0]!r}: expected one of {', '.join(known)}")


def execute_all(notebooks: Sequence[Path], parameters: dict[str, Any], output: Path, *, progress: bool = True) -> list[Path]:
    """Execute the notebooks one after the other into `output`; NotebookError stops at the first that fails.

    The bar shows the notebook at work and the last progress line of its kernel.
    """
    check_parameters(notebooks, parameters)
    output.mkdir(parents=True, exist_ok=True)
    executed = []
    with tqdm(total=len(notebooks), unit="notebook", disable=not progress) as bar:
        for path in notebooks:
            bar.set_description(path.stem)
            executed.append(execute(path, parameters, output / path.name, bar=bar))
            bar.update()
    return executed


def execute(path: Path, parameters: dict[str, Any], target: Path, *, bar: tqdm | None = None) -> Path:
    """Execute one notebook with papermill into `target`; NotebookError names the cell, the error and the file."""
    relay = _Relay(bar)
    try:
        with environment(_kernel_environment()):
            papermill.execute_notebook(
                str(path), str(target), parameters=parameters, cwd=str(path.parent), progress_bar=False,
                stdout_file=relay, kernel_manager_class=LocalKernelManager, coalesce_streams=True,
                store_widget_state=False,  # each live figure would bring 5 MB of plotly's script
            )  # fmt: skip
    except STOPPED as error:
        raise NotebookError(_describe(path, target, error)) from error
    return target


def _describe(path: Path, target: Path, error: Exception) -> str:
    if isinstance(error, PapermillExecutionError):
        return f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\nexecuted so far: {target}"
    return f"{path.name}: {type(error).__name__}: {str(error).splitlines()[0]}\nexecuted so far: {target}"


def _kernel_environment() -> dict[str, str]:
    """What kernels inherit: plotly figures as data only, and OpenMP threads that sleep while they wait."""
    return {"PLOTLY_RENDERER": "plotly_mimetype", "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}


class _Relay:
    """A stream for papermill: the last line that a kernel prints stands behind the notebook's progress bar."""

    def __init__(self, bar: tqdm | None):
        self.bar = bar

    def write(self, text: str) -> int:
        lines = [line for line in re.split(r"[\r\n]", text) if line.strip()]
        if self.bar is not None and lines:
            self.bar.set_postfix_str(re.sub(r"\x1b\[\w", "", lines[-1]).strip()[:80])
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


def pictures_of(notebook: Path) -> list[tuple[str, dict[str, Any]]]:
    """(name, plotly figure as a dict) for each figure in the outputs of an executed notebook."""
    found: list[tuple[str, dict[str, Any]]] = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            figure = output.get("data", {}).get(PLOTLY)
            if figure is not None:
                found.append((f"{notebook.stem}-{len(found) + 1}-{_slug(figure)}", figure))
    return found


def _slug(figure: dict[str, Any]) -> str:
    title = figure.get("layout", {}).get("title", {})
    text = title.get("text", "") if isinstance(title, dict) else str(title)
    plain = re.sub(r"<[^>]+>", " ", re.split(r"<br|:|\(", text)[0]).lower()
    return "_".join(re.findall(r"[a-z0-9]+", plain)[:5]) or "figure"


def write_pictures(notebooks: Sequence[Path], folder: Path) -> list[Path]:
    """Every figure of the executed notebooks as self-contained HTML, and as PNG where a browser is found."""
    import plotly.graph_objects as go

    from clad_lib import plots  # here: workers that execute notebooks draw nothing

    folder.mkdir(parents=True, exist_ok=True)
    figures = [item for notebook in notebooks for item in pictures_of(notebook)]
    return [path for name, figure in figures for path in plots.write_figure(go.Figure(figure), folder / name)]


def keep_static_pictures(notebook: Path, figures: Path | None = None) -> None:
    """Put a PNG beside each plotly figure of an executed notebook, for readers on the web, and as a file in `figures`."""
    import plotly.graph_objects as go

    from clad_lib import plots

    document = nbformat.read(notebook, as_version=4)
    names = iter([name for name, _ in pictures_of(notebook)])
    for cell in document.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if WIDGET in data:
                output["data"] = nbformat.from_dict({"text/markdown": INTERACTIVE, "text/plain": INTERACTIVE.strip("*")})
            if PLOTLY in data:
                picture = plots.png_bytes(go.Figure(data[PLOTLY]))
                if picture is None:
                    raise NotebookError("static pictures need Chrome or Chromium: install one and run this again")
                data["image/png"] = base64.b64encode(picture).decode()
                if figures is not None:
                    (figures / f"{next(names)}.png").write_bytes(picture)
    for name in ("papermill", "widgets"):
        document.metadata.pop(name, None)
    nbformat.write(document, notebook)


def rewrite(notebooks: Sequence[Path]) -> None:
    """Execute committed notebooks with their defaults, and put them back with their pictures, also in figures/."""
    figures = notebook_folder().parent / "figures"
    figures.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for path in execute_all(notebooks, {}, Path(scratch)):
            for old in figures.glob(f"{path.stem}-*.png"):
                old.unlink()
            keep_static_pictures(path, figures)
            (notebook_folder() / path.name).write_bytes(path.read_bytes())
