"""The explorers of one run as a web page without code: Voila over notebooks/dashboard.ipynb, on this machine only by default."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import papermill

from clad_lib.headless import NotebookError, check_parameters, notebook_folder

PAGE = "dashboard.ipynb"
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # others may look, but neither keep a threshold nor open a folder


def prepare(parameters: dict[str, Any], target: Path) -> Path:
    """The page's notebook with these parameters, not executed yet: Voila executes it for each visitor."""
    source = notebook_folder() / PAGE
    check_parameters([source], parameters)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(str(source), str(target), parameters=parameters, prepare_only=True, progress_bar=False)
    except OSError as error:
        raise NotebookError(f"cannot write {target}: {error.strerror}; choose another folder with --runs") from error
    return target


def voila_command(notebook: Path, *, ip: str, port: int, browser: bool) -> list[str]:
    """The command line that serves the notebook; the kernel works in the folder of the notebook."""
    line = [sys.executable, "-m", "voila", str(notebook), f"--Voila.ip={ip}", f"--port={port}", "--Voila.port_retries=0",
            "--theme=light", "--VoilaConfiguration.show_tracebacks=False", "--MappingKernelManager.cull_idle_timeout=3600",
            "--MappingKernelManager.cull_interval=300"]  # fmt: skip
    return line if browser else [*line, "--no-browser"]


def serve(notebook: Path, *, ip: str, port: int, browser: bool) -> int:
    """Serve until it is interrupted; the exit status of Voila, 0 after an interrupt."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill ends the server too
    process = subprocess.Popen(voila_command(notebook, ip=ip, port=port, browser=browser))
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        process.terminate()
        process.wait()
        signal.signal(signal.SIGTERM, before)
