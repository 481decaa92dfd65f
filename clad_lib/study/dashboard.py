"""The explorers of one run as a web page without code: Voila over notebooks/dashboard.ipynb."""

import signal
import subprocess
import sys
from pathlib import Path

from clad_lib.study.engine import Study
from clad_lib.study.notebooks import prepare_notebook

PAGE = "dashboard.ipynb"
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # others may look, but neither keep nor open folders
ALONE = "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; frame-ancestors 'self'"
OPTIONS = (
    f"--Voila.tornado_settings={ {'headers': {'Content-Security-Policy': ALONE}} }",
    "--Voila.port_retries=0",
    "--theme=light",
    "--VoilaConfiguration.show_tracebacks=False",
    "--MappingKernelManager.cull_idle_timeout=3600",
    "--MappingKernelManager.cull_interval=300",
)


def voila_command(notebook: Path, *, ip: str, port: int, browser: bool) -> list[str]:
    """The command line that serves the notebook; its kernel works in the notebook's folder."""
    # a header can only be given as a dictionary, of which traitlets warns
    return [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-m",
        "voila",
        str(notebook),
        f"--Voila.ip={ip}",
        f"--port={port}",
        *OPTIONS,
        *([] if browser else ["--no-browser"]),
    ]


def serve(study: Study, *, ip: str, port: int, browser: bool) -> int:
    """Serve until it is interrupted; the exit status of Voila, 0 after an interrupt."""
    notebook = prepare_notebook(PAGE, study, study.folder / PAGE, local=ip in LOOPBACK)
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
