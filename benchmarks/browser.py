"""Seconds until a person sees an explorer, in a real Chromium on this machine.

`python benchmarks/browser.py [RUNS]`, RUNS being the folder of the runs, by default runs/. In a
fresh page of JupyterLab whose kernel is idle and has imported the library: from Shift+Enter to the
finished drawing of the threshold explorer, and of a map of 10,000 latents, the median of three.
Voila: from the command to the drawn dashboard of the default run, which `make study` has made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Page, sync_playwright

from clad_lib.config import make_config
from clad_lib.study.dashboard import PAGE, voila_command
from clad_lib.study.engine import open_study
from clad_lib.study.notebooks import prepare_notebook

HERE = Path(__file__).resolve().parent
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}}
PORT, PATIENCE, REPEATS = 8878, 240_000, 3  # PATIENCE in ms
FIRST = f"""import sys; sys.path.insert(0, {str(HERE)!r})
import explorers
from clad_lib.look.map_explorer import MapExplorer
from clad_lib.look.threshold_explorer import ThresholdExplorer
sheets, latents = explorers.scores(10_000), explorers.latents(10_000)"""
WIDGETS = {
    "threshold explorer": ("ThresholdExplorer(*sheets)", ".clad .js-plotly-plot .main-svg .lines"),
    "map of 10,000 latents": ("MapExplorer(**latents)", ".clad .gl-canvas-context"),
}


@contextlib.contextmanager
def serving(line: list[str], path: str) -> Iterator[str]:
    """A server on loopback, from its first answer until the block ends."""
    with tempfile.TemporaryDirectory() as settings:
        fetch = Path(settings, "@jupyterlab", "apputils-extension")
        fetch.mkdir(parents=True)
        (fetch / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
        known = os.environ | {"JUPYTERLAB_SETTINGS_DIR": settings}
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process = subprocess.Popen(line, env=known, **quiet)
        try:
            while True:
                if process.poll() is not None:
                    sys.exit(f"the server ended: {' '.join(line)}")
                with contextlib.suppress(OSError, urllib.error.URLError):
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=5).close()
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{PORT}"
        finally:
            process.terminate()
            process.wait()


def page_of(browser: Browser) -> Page:
    """A page with nothing in its cache."""
    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    page.set_default_timeout(PATIENCE)
    return page


def first_paint(page: Page, address: str, drawn: str) -> float:
    """Seconds from Shift+Enter in the second cell to what is drawn."""
    page.goto(address)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    page.get_by_text("[1]:", exact=True).first.wait_for()  # executed: the kernel is idle
    page.wait_for_timeout(2000)
    started = time.perf_counter()
    page.keyboard.press("Shift+Enter")
    page.locator(drawn).first.wait_for()
    return time.perf_counter() - started


def in_lab(browser: Browser) -> None:
    """Print one line a widget."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1"]
        line += [f"--port={PORT}", "--allow-root", "--IdentityProvider.token="]
        with serving([*line, f"--ServerApp.root_dir={folder}"], "/api") as address:
            for name, (code, drawn) in WIDGETS.items():
                spent = []
                for number in range(REPEATS):
                    file = f"{number}-{name.split()[0]}.ipynb"
                    cells = [new_code_cell(FIRST), new_code_cell(code)]
                    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), Path(folder, file))
                    page = page_of(browser)
                    spent.append(first_paint(page, f"{address}/lab/tree/{file}?reset", drawn))
                    page.context.close()
                print(f"JupyterLab, {name}: {sorted(spent)[REPEATS // 2]:.1f} s", flush=True)


def in_voila(browser: Browser, runs: Path) -> None:
    """Print how long the dashboard takes from the command on."""
    study = open_study(make_config(), runs=runs)
    with tempfile.TemporaryDirectory() as folder:
        notebook = prepare_notebook(PAGE, study, Path(folder, PAGE))
        line = voila_command(notebook, ip="127.0.0.1", port=PORT, browser=False)
        started = time.perf_counter()
        with serving(line, "/voila/static/voila.js") as address:
            page = page_of(browser)
            page.goto(address)
            page.locator(".clad-counts td").first.wait_for()
            for _, drawn in WIDGETS.values():
                page.locator(drawn).first.wait_for()
            print(f"Voila, the dashboard: {time.perf_counter() - started:.1f} s", flush=True)


def main() -> None:
    """Measure JupyterLab, then Voila."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        sys.exit("benchmarks/browser.py needs Chrome or Chromium: install one")
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    with sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=path, args=flags)
        in_lab(browser)
        in_voila(browser, runs)
        browser.close()


if __name__ == "__main__":
    main()
