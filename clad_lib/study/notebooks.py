"""The notebooks: where they are, which are meant, and executing them with papermill."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync

from clad_lib.config import Config, make_config, unknown
from clad_lib.study.store import project_folder, write_atomically

if TYPE_CHECKING:
    from clad_lib.study.engine import Study

ON_REQUEST = ("07_ablations", "09_your_own_images")  # they train again, or on other images
INTERRUPTS = 10  # every two seconds, until a notebook that is to end does so
LONGEST = 95  # bytes of a folder for sockets; systems allow 103 with the socket's own name
ENVIRONMENT = {
    "PLOTLY_RENDERER": "plotly_mimetype",  # figures as data, without a script of 5 MB in each
    "OMP_WAIT_POLICY": "PASSIVE",  # OpenMP threads sleep while they wait
}
FRESH = """import sys
if "ipywidgets" in sys.modules:
    sys.modules["ipywidgets"].Widget.close_all()
get_ipython().reset(new_session=True)
"""


class NotebookError(Exception):
    """A notebook that is not there, or that stopped: which cell, which error, where it lies."""


def notebook_folder() -> Path:
    """The folder of the notebooks: in the installed package, or in the checkout beside it."""
    folder = project_folder("notebooks")
    if not folder.is_dir():
        raise NotebookError(f"there is no {folder}: install clad-lib again")
    return folder


def choose_notebooks(wanted: str = "") -> list[Path]:
    """Notebooks in order: numbers, names and ranges, as `02,04-06`, or `all`.

    Without any, all but ON_REQUEST. ValueError names the nearest known one.
    """
    known = {path.stem: path for path in sorted(notebook_folder().glob("[0-9][0-9]_*.ipynb"))}
    chosen = set() if wanted.strip() else {*known} - {*ON_REQUEST}
    for part in filter(None, map(str.strip, wanted.split(","))):
        ends = (
            [*known] if part == "all" else [_stem(end.strip(), known) for end in part.split("-", 1)]
        )
        chosen |= {stem for stem in known if min(ends) <= stem <= max(ends)}
    return [path for stem, path in known.items() if stem in chosen]


def _stem(text: str, known: Mapping[str, Path]) -> str:
    for stem in known:
        if text in (stem, stem[:2]):
            return stem
    raise ValueError(unknown("notebook", text, ("all", *known)))


def copy_notebooks(folder: str | Path) -> list[Path]:
    """Copy all notebooks into `folder`, for a person's own changes; returns the new files.

    A file that is there already is kept as it is.
    """
    sources = {Path(folder) / path.name: path for path in sorted(notebook_folder().glob("*.ipynb"))}
    new = [target for target in sources if not target.exists()]
    for target in new:
        write_atomically(target, sources[target].read_bytes())
    return new


def overrides_of(config: Config) -> dict[str, Any]:
    """What differs from the config's profile: setting -> value."""
    plain = make_config(config.dataset, config.scenario, profile=config.profile, seed=config.seed)
    return {name: v for name, v in asdict(config).items() if v != getattr(plain, name)}


def parameters_of(config: Config, runs: Path, device: str) -> dict[str, Any]:
    """What goes into the parameters cell; `overrides` holds what differs from the profile."""
    known = {name: getattr(config, name) for name in ("dataset", "scenario", "profile", "seed")}
    return known | {"device": device, "runs": str(runs), "overrides": overrides_of(config)}


def prepare_notebook(name: str, study: Study, target: Path, **more: Any) -> Path:
    """Write a notebook with the parameters of a study, and `more`, to `target`, not executed.

    Raises NotebookError for an unknown parameter, StoreError when `target` cannot be written.
    """
    known = parameters_of(study.config, study.root, str(study.device)) | more
    document = _papermill(notebook_folder() / name, None, known, prepare_only=True)
    write_atomically(target, json.dumps(document))
    return target


class Kernel(AsyncKernelManager):
    """A kernel for many notebooks, one after the other, so that imports are paid for once.

    It works in `folder` and starts with its first notebook. It talks over files instead of TCP
    ports, so that many at once cannot race for a port, unless the temporary folder of this machine
    has too long a name for that. `environment` is added to that of this process.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None):
        super().__init__(kernel_name="python3")
        self.folder, self.environment = folder, environment or {}
        self.clients: list[Any] = []
        self.busy, self.closed = threading.Lock(), False
        self.private = Path(tempfile.mkdtemp(prefix="clad-"))
        if os.name != "nt" and len(os.fsencode(self.private)) <= LONGEST:
            self.transport, self.ip = "ipc", str(self.private / "k")

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        """Start the process in its folder and environment, with its error stream in a file."""
        self.context = type(self.context)()  # a process that ended has taken the former along
        options["cwd"] = str(self.folder)
        options["env"] = ENVIRONMENT | dict(os.environ) | dict(self.environment)
        with (self.private / "stderr").open("wb") as stream:
            await super().start_kernel(**options, stderr=stream)

    def client(self, **options: Any) -> Any:
        """A client, which is remembered: papermill leaves its channels open."""
        self.clients.append(super().client(**options))
        return self.clients[-1]

    def forget(self) -> None:
        """Forget variables and widgets; imports stay."""
        if self.has_kernel:
            client = self.client()
            client.start_channels()
            run_sync(client.wait_for_ready)(timeout=60)
            run_sync(client.execute_interactive)(FRESH, store_history=False, allow_stdin=False)

    def kill(self) -> str:
        """End the process, and return the last line that it wrote to its error stream."""
        if self.has_kernel:
            run_sync(self.shutdown_kernel)(now=True)
        said = b"".join(path.read_bytes() for path in self.private.glob("stderr"))
        return said.decode("utf-8", "replace").strip().rpartition("\n")[2]

    def close(self) -> None:
        """Interrupt what runs until it has removed its drafts, then end the process.

        One interrupt may be lost, in an import for example that takes every exception.
        """
        self.closed = True
        for _ in range(INTERRUPTS):
            if self.has_kernel:
                run_sync(self.interrupt_kernel)()
            if self.busy.acquire(timeout=2):
                self.busy.release()
                break
        self.kill()
        shutil.rmtree(self.private, ignore_errors=True)


def execute(
    source: Path,
    target: Path,
    parameters: Mapping[str, Any],
    kernel: Kernel,
    *,
    fresh: bool = True,
) -> None:
    """Execute a notebook into `target`; what the kernel remembers is first forgotten if `fresh`.

    A kernel that cannot start, or dies, is started once more. Raises NotebookError with the cell,
    the error and the file, or with what a dead kernel said: of that, the file says nothing.
    """
    from nbclient.exceptions import CellControlSignal
    from papermill.exceptions import PapermillExecutionError

    for last in (False, True):
        try:
            with kernel.busy:
                if kernel.closed:
                    raise InterruptedError("the kernel was closed")
                if fresh:
                    kernel.forget()
                _papermill(source, target, parameters, km=kernel)
            return
        except PapermillExecutionError as error:
            name = "KeyboardInterrupt" if kernel.closed else error.ename  # which may have got lost
            place = f"{source.name}, cell {error.exec_count}: {name}: {error.evalue}"
            raise NotebookError(f"{place}\nexecuted so far: {target}") from error
        except (CellControlSignal, RuntimeError, OSError) as error:
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            said = kernel.kill()
            if last:
                raise NotebookError(f"{source.name}: {reason}; it said: {said}") from error
        finally:
            while kernel.clients:
                kernel.clients.pop().stop_channels()


def _papermill(
    source: Path, target: Path | None, parameters: Mapping[str, Any], **more: Any
) -> Any:
    """What papermill gives; NotebookError for a parameter that its cell does not assign."""
    import papermill

    # papermill takes a path for a format string
    paths = [path and str(path).replace("{", "{{").replace("}", "}}") for path in (source, target)]
    known = papermill.inspect_notebook(paths[0])
    for name in parameters:
        if name not in known:
            raise NotebookError(f"{source.name}: {unknown('parameter', name, known)}")
    more |= dict(parameters=dict(parameters), progress_bar=False, coalesce_streams=True)
    more["store_widget_state"] = False  # each live figure would bring 5 MB of plotly's script
    return papermill.execute_notebook(*paths, **more)
