"""A real JupyterLab and a real Voila on loopback, driven in Chromium: keys are pressed, and numbers read from the screen."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from clad_lib import calibration, headless, methods, operating, pipeline, plots
from clad_lib.config import make_config

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
SCREENS = ROOT / "test-artefacts"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PATIENCE = 180_000  # ms for a notebook to run on a slow machine


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Notebooks whose parameters point at a small finished run, and that run."""
    folder = tmp_path_factory.mktemp("lab")
    config = make_config("digits", "CUR", profile="smoke", clusters=4, ae_epochs=4, clf_epochs=2)
    study = pipeline.open_study(config, runs_root=folder / "runs", device="cpu", progress=False)
    pipeline.autoencoder(study), pipeline.latent_map(study), pipeline.clusters(study), pipeline.classifier(study)
    for name in (*methods.CLAD, *methods.CHOSEN):
        methods.scores(study, name)
    values = headless.notebook_parameters(config, folder / "runs", "cpu")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        document = nbformat.read(path, as_version=4)
        cell = next(cell for cell in document.cells if "parameters" in cell.metadata.get("tags", []))
        cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in values.items())
        for cell in document.cells:
            cell.pop("outputs", None) if cell.cell_type != "code" else cell.update(outputs=[], execution_count=None)
        nbformat.write(document, folder / path.name)
    return folder, study


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(line, port, path, **options):
    """A server process that answers on loopback before the block starts and is gone after it."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, "the server ended"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
                break
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def lab(project, tmp_path_factory):
    folder, _ = project
    settings = tmp_path_factory.mktemp("settings")
    for plugin, values in {"apputils-extension/notification": {"fetchNews": "false"},
                           "notebook-extension/tracker": {"windowingMode": "none"}}.items():  # fmt: skip
        path = settings / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    port = free_port()
    line = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
            "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(settings), "OMP_NUM_THREADS": "1"}
    with serving(line, port, "/api", env=environment) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome") or plots.find_browser()
    assert path, "make test-browser needs Chrome or Chromium: install one"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, request):
    page = chromium.new_page(viewport={"width": 1500, "height": 1100})
    page.set_default_timeout(60_000)
    yield page
    SCREENS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENS / f"{request.node.name}.png")
    page.close()


def run_all(page, lab, name, ready):
    """Open a notebook in JupyterLab, run all of it, and wait for the widget."""
    page.goto(f"{lab}/lab/tree/{name}.ipynb?reset")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=PATIENCE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(ready).first.wait_for(timeout=PATIENCE)


def confusion(page):
    """[caught, missed, false alarms, passed] as they stand on the screen."""
    return [int(text) for text in page.locator(".clad-confusion td").all_inner_texts()]


def changed(page, before, what=confusion):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if (now := what(page)) != before:
            return now
        time.sleep(0.05)
    raise AssertionError(f"still {before} after 20 s")


def typed(page):
    return float(page.get_by_label("as a number").input_value())


def by_hand(study, threshold):
    """The four counts from the scores on the disk."""
    table = pd.read_parquet(study.run.find("ODIN") / "scores.parquet").query("split == 'test'")
    alarm, anomaly = table.score > threshold, table.anomaly
    return [
        int((alarm & anomaly).sum()),
        int((~alarm & anomaly).sum()),
        int((alarm & ~anomaly).sum()),
        int((~alarm & ~anomaly).sum()),
    ]


def move_threshold(page, study, presses=40):
    """Press the arrow key until the counts change; both before and after must be those of the test."""
    first = confusion(page)
    assert first == by_hand(study, typed(page))
    handle = page.locator(".noUi-handle").nth(2)  # after temperature and epsilon
    handle.focus()
    for _ in range(presses):
        handle.press("ArrowLeft")
    now = changed(page, first)
    page.wait_for_timeout(1500)
    now = confusion(page)
    assert now == by_hand(study, typed(page))
    assert sum(now) == sum(first)
    assert now[2] >= first[2]  # lower: never fewer false alarms
    return now


def test_the_threshold_explorer_in_jupyterlab(lab, page, project):
    _, study = project
    run_all(page, lab, "05_odin_scoring", ".clad-confusion td")
    page.locator(".clad-confusion").scroll_into_view_if_needed()
    before = move_threshold(page, study)

    calibrated = methods.scores(study, "ODIN", make=False).calibration
    field = page.get_by_label("false-alarm rate wanted")
    for alpha, protocol in ((0.35, "oracle"), (0.1, "clean")):  # 0.1 is what the explorer opened with
        wanted = calibration.threshold_for(calibrated, alpha=alpha, delta=0.1)
        assert np.isfinite(wanted.value)
        field.fill(str(alpha))
        field.press("Tab")
        before = changed(page, before)
        assert before == by_hand(study, wanted.value)
        assert typed(page) == pytest.approx(wanted.value, rel=1e-6)
        page.get_by_role("button", name="Keep this threshold").click()
        page.get_by_text(f"protocol {protocol}:").wait_for()
        kept = operating.kept_threshold(study)
        assert kept["threshold"] == pytest.approx(wanted.value)
        assert (kept["protocol"], kept["alpha"], kept["score"]) == (protocol, alpha, "ODIN")
    explorer = page.locator(".jp-Cell", has=page.locator(".clad-confusion"))
    assert not explorer.locator("[data-mime-type='application/vnd.jupyter.stderr']").count()


def test_a_lasso_on_the_map_shows_images(lab, page):
    run_all(page, lab, "02_latent_space", ".clad-hover")
    plot = page.locator(".jp-Cell", has=page.locator(".clad-hover")).locator(".js-plotly-plot")
    plot.scroll_into_view_if_needed()
    plot.locator(".main-svg").first.wait_for()
    page.wait_for_timeout(1000)
    box = plot.locator(".nsewdrag").first.bounding_box()
    corners = [(0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92), (0.08, 0.1)]
    page.mouse.move(
        *(box[edge] + box[size] * share for edge, size, share in zip("xy", ("width", "height"), corners[0], strict=True))
    )
    page.mouse.down()
    for across, down in corners[1:]:
        page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * down, steps=12)
    page.mouse.up()
    page.locator(".clad-selection img").first.wait_for()
    found = int(re.search(r"([\d,]+) images selected", page.locator(".clad-selection").inner_text())[1].replace(",", ""))
    assert page.locator(".clad-selection img").count() == min(found, 24)
    assert found > 24


def test_a_scenario_is_built_by_ticking(lab, page):
    run_all(page, lab, "01_scenarios", "text=untick all >> visible=true")
    page.get_by_role("button", name="Untick all").click()
    for label in ("2", "7"):
        page.locator("label.widget-label-basic", has_text=re.compile(rf"^{label}$")).locator("input").check()
    line = page.locator("input[type=text]").filter(visible=True)
    deadline, said = time.monotonic() + 20, []
    while time.monotonic() < deadline:
        said = [field.input_value() for field in line.all()]
        if any("2+7" in text for text in said):
            break
        time.sleep(0.2)
    assert "python -m clad_lib study --dataset digits --scenario 2+7" in " ".join(said)


def test_the_dashboard_shows_no_code_and_answers(page, project):
    folder, study = project
    port = free_port()
    from clad_lib.dashboard import voila_command

    line = voila_command(folder / "dashboard.ipynb", ip="127.0.0.1", port=port, browser=False)
    with serving(line, port, "/voila/static/voila.js", env=os.environ | {"OMP_NUM_THREADS": "1"}) as address:
        page.goto(address)
        page.locator(".clad-confusion td").first.wait_for(timeout=PATIENCE)
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
        assert "import" not in page.locator("body").inner_text()
        move_threshold(page, study)
        page.locator(".clad-selection").first.wait_for(state="attached")
        page.screenshot(path=SCREENS / "dashboard_whole.png", full_page=True)
