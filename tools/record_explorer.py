"""Record the threshold explorer of the default study as the README's animation.

`python tools/record_explorer.py [RUNS]`, RUNS being the folder of the runs, by default runs/. It
needs Chrome or Chromium, and makes what the study lacks. Each picture is taken once the page has
answered: nothing is drawn by this script.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from clad_lib.config import make_config
from clad_lib.study.dashboard import PAGE, voila_command
from clad_lib.study.engine import open_study
from clad_lib.study.notebooks import prepare_notebook

TARGET = Path(__file__).resolve().parents[1] / "figures" / "threshold_explorer.webp"
PORT, WIDE, HIGH = 8877, 1000, 740
PATIENCE = 600_000  # ms
DRAWN = """() => document.querySelector('.clad .js-plotly-plot').ariaLabel.endsWith(
    document.querySelector('.clad input[type=range]').getAttribute('aria-valuetext'))"""
STEP, STAY = 250, 2200  # ms that a picture stands


def acts(page: Page) -> Iterator[int]:
    """Do one thing after another to the explorer, and yield how long its picture is to stand."""
    slider = page.locator(".clad input[type=range]")
    yield STAY
    for key in ["ArrowRight"] * 8 + ["ArrowLeft"] * 10:
        slider.press(key)
        yield STEP
    page.get_by_role("button", name="Set by this rate").click()
    yield STAY
    page.get_by_label("temperature", exact=True).select_option("1")
    yield STAY
    page.get_by_label("score", exact=True).select_option("MSP")
    yield STAY


def pictures(page: Page) -> tuple[list[Image.Image], list[int]]:
    """Pictures of the top of the explorer, and how long each is to stand, in ms."""
    box = page.locator(".clad").first.bounding_box()
    assert box is not None
    clip = {"x": box["x"] - 4, "y": box["y"] - 4, "width": WIDE - 2 * box["x"] + 8, "height": HIGH}
    shown, stays = list[Image.Image](), list[int]()
    for stay in acts(page):
        page.wait_for_timeout(1000)
        page.wait_for_function(DRAWN, timeout=PATIENCE)
        before, now = b"", page.screenshot(clip=clip)
        while now != before:
            page.wait_for_timeout(1500)
            before, now = now, page.screenshot(clip=clip)
        shown.append(Image.open(BytesIO(now)).convert("RGB"))
        stays.append(stay)
    return shown, stays


def record(runs: Path) -> None:
    """Serve the dashboard, act on it, and write TARGET."""
    study = open_study(make_config("digits", "MIX"), runs=runs, progress=False)
    for name in ("ODIN", "MSP", "odin_grid"):
        study[name]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        notebook = prepare_notebook(PAGE, study, Path(folder) / PAGE)
        line = voila_command(notebook, ip="127.0.0.1", port=PORT, browser=False)
        server = subprocess.Popen(line)
        try:
            address = f"http://127.0.0.1:{PORT}"
            while server.poll() is None:
                try:
                    urllib.request.urlopen(f"{address}/voila/static/voila.js", timeout=5).close()
                    break
                except urllib.error.URLError:
                    time.sleep(0.5)
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDE, "height": 1200})
            page.goto(address, timeout=PATIENCE)
            page.locator(".clad .js-plotly-plot .main-svg").first.wait_for(timeout=PATIENCE)
            page.wait_for_timeout(5000)
            (first, *others), stays = pictures(page)
            more = {"duration": stays, "loop": 0, "lossless": True, "method": 6}
            first.save(TARGET, save_all=True, append_images=others, **more)
            browser.close()
        finally:
            server.terminate()
            server.wait()
    print(f"{TARGET}: {TARGET.stat().st_size / 1e6:.2f} MB, {1 + len(others)} pictures")


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs"))
