"""What the explorers cost in a real JupyterLab and Chromium: `python benchmarks/browser.py` (needs Chrome or Chromium).

Seconds from the command to a first executed cell, from a cell to the painted map of 10,000 latents, updates a second while a
key moves the threshold over 10,000 images, and the memory of the browser's processes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import nbformat
import psutil
from playwright.sync_api import sync_playwright

from clad_lib.plots import find_browser

POINTS, PRESSES = 10_000, 60
CELLS = (
    "print('first', 'cell')",
    f"from explorers import latents, scores\nfrom clad_lib.widgets import LatentExplorer, ThresholdExplorer\ndata = latents({POINTS})\nprint('data', 'there')",  # noqa: E501
    "LatentExplorer(data)",
    f"ThresholdExplorer(scores({POINTS}))",
)
COUNT = """() => { window.updates = 0; const place = document.querySelector('.clad-confusion');
    new MutationObserver(() => { window.updates += 1; }).observe(place, {childList: true, subtree: true}); }"""


def run_next(page: Any, shown: str) -> float:
    """Seconds from shift-enter on the selected cell until `shown` is there."""
    started = time.perf_counter()
    page.keyboard.press("Shift+Enter")
    page.locator(shown).first.wait_for(timeout=120_000)
    return time.perf_counter() - started


def explore(page: Any, browser: psutil.Process) -> None:
    """Run the cells one after the other and print what each cost."""
    run_next(page, "text=data there")
    painted = run_next(page, ".js-plotly-plot .gl-canvas-context")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    print(f"cell to painted map of {POINTS:,} latents: {painted:.2f} s")
    run_next(page, ".clad-confusion td")
    page.evaluate(COUNT)
    handle = page.locator(".noUi-handle").nth(2)
    handle.focus()
    started = time.perf_counter()
    for _ in range(PRESSES):
        handle.press("ArrowRight")
        page.wait_for_timeout(30)
    page.wait_for_timeout(1000)
    spent = time.perf_counter() - started - 1
    print(f"threshold over {POINTS:,} images by key: {page.evaluate('() => window.updates') / spent:.1f} updates a second")
    memory = sum(each.memory_full_info().uss for each in [browser, *browser.children(recursive=True)])
    print(f"memory of the browser's processes, shared pages not counted: {memory / 1e6:.0f} MB")


def main() -> None:
    """Start JupyterLab and Chromium, and measure."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
        notebook.metadata["kernelspec"] = dict(name="python3", display_name="Python 3", language="python")
        nbformat.write(notebook, Path(name) / "bench.ipynb")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        known = {child.pid for child in psutil.Process().children(recursive=True)}
        chromium = driver.chromium.launch(
            executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        browser = next(child for child in psutil.Process().children(recursive=True)
                       if child.pid not in known and "chrom" in child.name())  # fmt: skip
        page = chromium.new_page(viewport={"width": 1500, "height": 1100})
        started = time.perf_counter()
        line = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
                "--IdentityProvider.token=", f"--ServerApp.root_dir={name}"]  # fmt: skip
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        server = subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": paths}
        )
        try:
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5):
                    break
                time.sleep(0.1)
            page.goto(f"http://127.0.0.1:{port}/lab/tree/bench.ipynb?reset")
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)
            page.locator(".jp-Cell").first.click()
            page.keyboard.press("Escape")
            run_next(page, "text=first cell")
            print(f"command to first executed cell: {time.perf_counter() - started:.1f} s")
            explore(page, browser)
        finally:
            server.terminate()
            server.wait()
            chromium.close()


if __name__ == "__main__":
    main()
