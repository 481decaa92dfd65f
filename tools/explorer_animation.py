"""Record the threshold explorer of the default run as figures/threshold_explorer.webp.

`python tools/explorer_animation.py` or `... RUNS`, the folder of finished runs. It opens the
dashboard in a real Chromium, moves the line by the keyboard, and keeps what is then on the screen.
"""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from clad_lib import make_config, open_study
from clad_lib.study.dashboard import PAGE, voila_command
from clad_lib.study.notebooks import prepare_notebook

TARGET = Path(__file__).resolve().parents[1] / "figures" / "threshold_explorer.webp"
WIDTH, PATIENCE = 960, 300  # px of the page; seconds until it is there
MOVES = [["ArrowLeft"] * 4] * 6 + [["ArrowRight"] * 4] * 9 + [["ArrowLeft"] * 4] * 3


def record(page: Page) -> list[Image.Image]:
    """The explorer before and after each of the MOVES of its line."""
    line = page.locator(".clad-range input[type=range]").first
    line.wait_for(timeout=1000 * PATIENCE)
    page.locator(".clad .js-plotly-plot .main-svg").first.wait_for(timeout=1000 * PATIENCE)
    explorer, shots = page.locator(".clad").first, []
    for keys in [[], *MOVES]:
        for key in keys:
            line.press(key)
        page.wait_for_timeout(2000)
        shots.append(Image.open(io.BytesIO(explorer.screenshot())).convert("RGB"))
    height = min(shot.height for shot in shots)  # a sentence may take a second line
    return [shot.crop((0, 0, shot.width, height)) for shot in shots]


def main(runs: str) -> None:
    """Serve the dashboard of the default run, record it, and write the animation."""
    study = open_study(make_config(), runs=runs, progress=False)
    notebook = prepare_notebook(PAGE, study, study.folder / PAGE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(voila_command(notebook, ip="127.0.0.1", port=port, browser=False))
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{address}/voila/static/voila.js"):
                break
            time.sleep(0.5)
        with sync_playwright() as driver:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
            page.set_default_timeout(60_000)
            page.goto(address, timeout=1000 * PATIENCE)
            first, *others = record(page)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    options = {"save_all": True, "append_images": others, "loop": 0, "quality": 60, "method": 6}
    first.save(TARGET, duration=[1500, *[700] * len(others)], **options)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs")
