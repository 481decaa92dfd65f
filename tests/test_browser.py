"""A real JupyterLab and a real Voila on loopback, driven in Chromium: keys are pressed, numbers read.

The page is the dashboard, which holds all three explorers, over a small finished run. Every number
on it is compared with numbers that the test computes from the files of the run. Screenshots of each
state go to test-artefacts/: look at them.
"""

import contextlib
import html
import io
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
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clad_lib.config import make_config
from clad_lib.judge import guarantees
from clad_lib.look import operating_point
from clad_lib.look.operating_point import HAND, NAMED, Setting
from clad_lib.look.parts import number
from clad_lib.study.dashboard import voila_command
from clad_lib.study.engine import open_study
from clad_lib.study.notebooks import prepare_notebook

pytestmark = pytest.mark.browser
SCREENS = Path(__file__).parents[1] / "test-artefacts"
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
PATIENCE = 240_000  # ms for a page on a busy machine
MADE = ("latent_map", "ODIN", "MSP", "KNN", "Mahalanobis", "RankAverage", "OCSVM", "odin_grid")
START = Setting("ODIN", 1000.0, 0.0014)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small finished run, with the dashboard's notebook beside it."""
    folder = tmp_path_factory.mktemp("lab")
    config = make_config("digits", "CUR", profile="smoke", clusters=4, ae_epochs=4, clf_epochs=2)
    opened = open_study(config, runs=folder / "runs", device="cpu", progress=False)
    for name in MADE:
        assert opened[name]
    prepare_notebook("dashboard.ipynb", opened, folder / "dashboard.ipynb")
    return opened


@pytest.fixture(scope="module")
def sheets(study):
    return sheets_of(study, MADE)


def sheets_of(study, names):
    """Scores and truth of every setting, read here from the files of the run."""
    found, split = {}, study.split
    for name in names:
        path = study.path(name) / "scores.parquet"
        if path.is_file():
            table = pd.read_parquet(path)
            test = table[table.split == "test"]
            calibration = table.score[table.split == "calibration"].to_numpy()
            setting = START if name == "ODIN" else Setting(name)
            found[setting] = calibration, test.score.to_numpy(), test.anomaly.to_numpy()
    if not study.has("odin_grid"):
        return found
    grid = study.find("odin_grid")
    for i, temperature in enumerate(grid.temperatures):
        for j, epsilon in enumerate(grid.epsilons):
            truth = split.answers.test_anomaly[grid.test_rows]
            scores = grid.calibration[i, j], grid.test[i, j], truth
            found.setdefault(Setting("ODIN", float(temperature), float(epsilon)), scores)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(line, port, path, **variables):
    """A server process that answers on loopback before the block starts and is gone after it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    process = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, "the server ended"
            address = f"http://127.0.0.1:{port}"
            with contextlib.suppress(OSError), urllib.request.urlopen(address + path, timeout=5):
                break
            time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "make test-browser needs Chrome or Chromium: install one"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened_page(kind, study, chromium, settings):
    """The dashboard, run whole in JupyterLab or by Voila: its page, and all that it asked for."""
    folder, port = study.root.parent, free_port()
    if kind == "voila":
        notebook = folder / "dashboard.ipynb"
        line, path = (
            voila_command(notebook, ip="127.0.0.1", port=port, browser=False),
            "/voila/static/voila.js",
        )
    else:
        line = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1"]
        line += [f"--port={port}", "--allow-root", "--IdentityProvider.token="]
        line, path = [*line, f"--ServerApp.root_dir={folder}"], "/api"
    variables = {"JUPYTERLAB_SETTINGS_DIR": str(lab_settings(settings))}
    with serving(line, port, path, **variables) as address:
        context = chromium.new_context(viewport={"width": 1440, "height": 1000})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.asked, page.kind, page.failures, page.address = [], kind, [], address
        page.on("request", lambda asked: page.asked.append(asked))
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        if kind == "lab":
            run_in_lab(page, f"{address}/lab/tree/dashboard.ipynb?reset")
        else:
            page.goto(address, timeout=PATIENCE)
        page.locator(".clad-counts td").first.wait_for(timeout=PATIENCE)
        yield page
        context.close()


@pytest.fixture(scope="module", params=["lab", "voila"])
def site(request, study, chromium, tmp_path_factory):
    settings = tmp_path_factory.mktemp("settings")
    with opened_page(request.param, study, chromium, settings) as page:
        page.locator(".clad-map .gl-canvas-context").first.wait_for(timeout=PATIENCE)
        page.wait_for_timeout(1500)
        yield page


def lab_settings(folder):
    for plugin, values in {
        "apputils-extension/notification": {"fetchNews": "false"},
        "notebook-extension/tracker": {"windowingMode": "none"},
    }.items():
        path = folder / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    return folder


def run_in_lab(page, address):
    page.goto(address, timeout=PATIENCE)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=PATIENCE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(".clad-counts td").first.wait_for(timeout=PATIENCE)
    page.keyboard.press("Control+b")  # the list of files takes a third of the page


@pytest.fixture(autouse=True)
def picture(request):
    site = request.getfixturevalue("site") if "site" in request.fixturenames else None
    yield
    if site is not None:
        keep_picture(site, request.node.name)


def keep_picture(page, name):
    SCREENS.mkdir(exist_ok=True)
    plain = re.sub(r"[^\w-]+", "-", name)
    page.screenshot(path=SCREENS / f"{plain}.png", full_page=page.kind == "voila")


def explorer(page):
    """The part of the page that holds the threshold explorer."""
    return page.locator(".clad", has=page.locator("input[type=range]"))


def counts(page):
    """[caught, missed, false alarms, passed] as they stand on the page."""
    cells = explorer(page).locator(".clad-counts td").all_inner_texts()
    return [int(cell.replace(",", "")) for cell in cells]


def shown(page):
    """All that the explorer says of its line, to be compared and waited for."""
    told = explorer(page)
    shape = """plot => [plot.layout.shapes[0].x0, plot.layout.shapes[1].xanchor,
                        plot.layout.shapes[1].yanchor]"""
    return {
        "counts": counts(page),
        "slider": told.locator("input[type=range]").get_attribute("aria-valuetext"),
        "position": float(told.locator("input[type=range]").input_value()),
        "typed": told.get_by_label("score at the line", exact=True).input_value(),
        "sentences": " ".join(told.locator("p[role=status]").all_inner_texts()),
        "rates": told.locator(".clad-rates td").all_inner_texts(),
        "drawn": told.locator(".js-plotly-plot").evaluate(shape),
    }


def settled(page, right, seconds=30):
    """What is shown once `right` holds for it and nothing changes any more."""
    deadline, before = time.monotonic() + seconds, None
    while True:
        now = shown(page)
        if right(now) and now == before:
            return now
        assert time.monotonic() < deadline, f"after {seconds} s the page still says {now}"
        before = now
        time.sleep(0.05)


def by_hand(sheet, threshold):
    _, test, anomaly = sheet
    alarm = test > threshold
    return [
        int(part.sum())
        for part in (alarm & anomaly, ~alarm & anomaly, alarm & ~anomaly, ~alarm & ~anomaly)
    ]


def agrees(page, sheet, threshold, words):
    """Wait until the page shows this threshold, then compare all that it says with the sheet."""
    calibration, test, _ = sheet
    typed = number(threshold, test.std())
    now = settled(
        page, lambda found: found["typed"] == typed and found["counts"] == by_hand(sheet, threshold)
    )
    above, n = int((calibration > threshold).sum()), len(calibration)
    assert (
        now["slider"]
        == f"{100 * above / n:.3g} % ({above:,} of {n:,} calibration images), score {typed}"
    )
    assert now["position"] == pytest.approx(100 * above / n, abs=0.51 * max(100 / n, 0.1))
    caught, missed, false, passed = by_hand(sheet, threshold)
    wanted = [threshold, false / (false + passed), caught / (caught + missed)]
    assert now["drawn"] == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    assert now["rates"][-1] == f"{1000 * false / (false + passed):.1f}"
    assert now["rates"][1] == f"{1000 * (above + 1) / (n + 1):.1f}"
    assert words in now["sentences"], now["sentences"]
    return now


def line_for(sheet, alpha):
    """The line that a rate gives, and how the sentence about it begins."""
    found = guarantees.threshold_for(sheet[0], alpha=alpha, delta=0.1)
    if found.guarantee == guarantees.NONE:
        return sheet[0].max(), f"{100 * alpha:.3g} % cannot be promised: that needs"
    return found.value, "Promised"


def choose(page, setting):
    told = explorer(page)
    told.get_by_label("score", exact=True).select_option(setting.score)
    if setting.temperature is not None:
        told.get_by_label("temperature", exact=True).select_option(f"{setting.temperature:,g}")
        told.get_by_label("epsilon", exact=True).select_option(f"{setting.epsilon:,g}")


def wish(page, per_cent):
    field = explorer(page).get_by_label("false alarms wanted")
    field.fill(per_cent)
    field.press("Enter")


def reset(page, sheets):
    """Back to where the explorer opened."""
    choose(page, START)
    wish(page, "10")
    explorer(page).get_by_role("button", name="Set by this rate").click()
    return agrees(page, sheets[START], *line_for(sheets[START], 0.1))


@pytest.mark.browser_short
def test_score_temperature_and_epsilon_on_a_page(chromium, tmp_path):
    """The short one, for every change: a page of Voila over a run of two scores and ODIN's grid."""
    config = make_config("digits", "CUR", profile="smoke", clusters=4, ae_epochs=1, clf_epochs=1)
    study = open_study(config, runs=tmp_path / "runs", device="cpu", progress=False)
    names = ("ODIN", "MSP", "odin_grid")
    assert all(study[name] for name in names)
    prepare_notebook("dashboard.ipynb", study, tmp_path / "dashboard.ipynb")
    sheets = sheets_of(study, names)
    grid = [setting for setting in sheets if setting.score == "ODIN" and setting != START]
    other = min(grid, key=lambda setting: setting[1:])  # another temperature, another epsilon
    with opened_page("voila", study, chromium, tmp_path / "settings") as page:
        for setting in (START, Setting("MSP"), other, START):
            choose(page, setting)
            agrees(page, sheets[setting], *line_for(sheets[setting], 0.1))
        wish(page, "35")
        now = agrees(page, sheets[START], *line_for(sheets[START], 0.35))
        assert "if it had been fixed before looking" in now["sentences"]
        slider = explorer(page).locator("input[type=range]")
        slider.press("Home")
        agrees(page, sheets[START], sheets[START][0].max(), HAND)
        keep_picture(page, "short")
        asks_no_other_machine(page)


def test_what_is_painted_first_is_final(site, sheets):
    agrees(site, sheets[START], *line_for(sheets[START], 0.1))
    site.wait_for_timeout(3000)
    agrees(site, sheets[START], *line_for(sheets[START], 0.1))


def test_the_rule_survives_every_score_temperature_and_epsilon(site, sheets):
    reset(site, sheets)
    for setting in [*sheets, START]:
        choose(site, setting)
        agrees(site, sheets[setting], *line_for(sheets[setting], 0.1))


def test_a_hand_keeps_its_share_over_all_scores(site, sheets):
    reset(site, sheets)
    slider = explorer(site).locator("input[type=range]")
    slider.focus()
    started, before = time.monotonic(), counts(site)
    slider.press("ArrowRight")
    now = settled(site, lambda found: found["counts"] != before or HAND in found["sentences"])
    print(f"from key to changed label {time.monotonic() - started:.2f} s")
    for key in ("ArrowRight",) * 5 + ("PageUp",):
        slider.press(key)
    site.wait_for_timeout(1000)
    share = float(slider.input_value()) / 100
    for setting in (START, Setting("MSP"), Setting("Mahalanobis"), START):
        choose(site, setting)
        scores = np.sort(sheets[setting][0])
        agrees(site, sheets[setting], scores[-1 - round(share * len(scores))], HAND)
    assert now["position"] > 0


def test_the_ends_of_the_slider(site, sheets):
    reset(site, sheets)
    slider = explorer(site).locator("input[type=range]")
    calibration = sheets[START][0]
    slider.press("Home")
    agrees(site, sheets[START], calibration.max(), HAND)
    slider.press("End")
    agrees(site, sheets[START], np.nextafter(calibration.min(), -np.inf), HAND)
    box = slider.bounding_box()
    site.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    now = settled(site, lambda found: 40 < found["position"] < 60)
    assert HAND in now["sentences"]


def test_nonsense_is_refused_with_a_word_and_moves_nothing(site, sheets):
    before = reset(site, sheets)
    field = explorer(site).get_by_label("score at the line", exact=True)
    for typed in ("2,29", "1e99", "-1e99", "nan", "two", "<b>7</b>"):
        field.fill(typed)
        field.press("Enter")
        now = settled(site, lambda found, typed=typed: f"cannot be '{typed}'" in found["sentences"])
        assert {**now, "typed": 0, "sentences": 0} == {**before, "typed": 0, "sentences": 0}
    for typed in ("0", "100", "ten", "1e-9"):
        wish(site, typed)
        now = settled(site, lambda found, typed=typed: f"cannot be '{typed}'" in found["sentences"])
        assert now["counts"] == before["counts"]


def test_a_rate_that_cannot_be_promised_says_exactly_that(site, sheets):
    reset(site, sheets)
    wish(site, "0.1")
    n = len(sheets[START][0])
    words = f"0.1 % cannot be promised: that needs {guarantees.images_needed(0.001):,}"
    now = agrees(site, sheets[START], sheets[START][0].max(), words)
    assert f"the highest of {n}" in now["sentences"]
    assert "othing alarms" not in now["sentences"]


def test_what_is_kept_carries_its_protocol(site, sheets, study):
    reset(site, sheets)
    for rate, setting, protocol in (
        ("35", START, "oracle"),
        ("10", START, "clean"),
        ("10", Setting("MSP"), "oracle"),
    ):
        choose(site, setting)
        wish(site, rate)
        threshold, words = line_for(sheets[setting], float(rate) / 100)
        agrees(site, sheets[setting], threshold, words)
        explorer(site).get_by_role("button", name="Keep this threshold").click()
        settled(site, lambda found, protocol=protocol: f"as {protocol}:" in found["sentences"])
        kept = json.loads((study.folder / "threshold.json").read_text(encoding="utf-8"))
        assert kept["threshold"] == pytest.approx(threshold)
        assert (kept["protocol"], kept["score"]) == (protocol, setting.score)
        assert kept["chosen_by"] == (NAMED if rate == "10" else operating_point.RATE)


def test_the_map_shows_images_where_one_points_and_selects(site, study):
    plot = site.locator(".clad-map .js-plotly-plot")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".nsewdrag").first.bounding_box()

    def move(across, down, steps=1):
        site.mouse.move(
            box["x"] + box["width"] * across, box["y"] + box["height"] * down, steps=steps
        )

    move(0.02, 0.02)
    site.mouse.down()
    for across, down in ((0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.04)):
        move(across, down, steps=12)
    site.mouse.up()
    panel = site.locator(".clad-panel")
    panel.get_by_text("images selected").wait_for()
    total = len(study.find("latent_map").rows)
    assert f"{total:,} images selected, 100 % of the map" in panel.inner_text()
    assert panel.locator("img").count() == min(total, 24)
    clusters = pd.Series(
        study.find("clusters").labels[study.find("latent_map").rows]
    ).value_counts()
    for cluster, many in clusters.items():
        assert f"cluster {cluster}: {many:,}" in panel.inner_text()
    far = abs(panel.bounding_box()["x"] - (box["x"] + box["width"]))
    assert far < 200, "the images stand beside the map"


def test_the_map_by_keyboard(site, study):
    plot = site.locator(".clad-map .js-plotly-plot")
    plot.focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        site.keyboard.press(key)
    tip = site.locator(".clad-map .clad-tip")
    tip.locator("img").wait_for()
    cluster = re.search(r"cluster \d+", tip.inner_text())[0]
    site.keyboard.press("Enter")
    panel = site.locator(".clad-panel")
    panel.get_by_text(f"in {cluster},").wait_for()
    members = (
        study.find("clusters").labels[study.find("latent_map").rows] == int(cluster[8:])
    ).sum()
    assert f"{members:,} images in {cluster}" in panel.inner_text()
    site.keyboard.press("Space")
    panel.get_by_text("24 images selected").wait_for()
    for colour in ("confidence", "hidden class (analysis)", "anomaly score (MSP)", "cluster"):
        site.get_by_label("colour by", exact=True).select_option(colour)
        site.wait_for_function(
            """word => document.querySelector('.clad-map .js-plotly-plot').ariaLabel.includes(word)""",
            arg=f"by {colour}",
        )
    site.wait_for_timeout(1000)
    assert "24 images selected" in panel.inner_text()  # another colour selects nothing else
    told = dict(part.rsplit(" ", 1) for part in tip.inner_text().split(", ") if "score" in part)
    assert all(len(value.strip("-0.")) <= 4 for value in told.values()), told


def test_a_scenario_is_built_by_ticking_and_its_command_copied(site):
    builder = site.locator(".clad", has=site.get_by_role("button", name="Untick all"))
    builder.get_by_role("button", name="Untick all").click()
    for label in ("2", "7"):
        builder.get_by_label(label, exact=True).press("Space")
    line = builder.get_by_label("command", exact=True)
    site.wait_for_function(
        "() => [...document.querySelectorAll('input[readonly]')].some(i => i.value.includes('2+7'))"
    )
    assert line.input_value().startswith(
        "clad study --dataset digits --scenario 2+7 --profile smoke"
    )
    builder.get_by_role("button", name="Copy: command").click()
    builder.get_by_text("copied").wait_for()
    assert site.evaluate("navigator.clipboard.readText()") == line.input_value()
    builder.get_by_label("scenario", exact=True).select_option("STR")
    builder.get_by_text("Normal: straight digits.").wait_for()


def luminance(colour):
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


TEXTS = """() => [...document.querySelectorAll('.clad p, .clad td, .clad th, .clad label, .clad output')]
    .filter(e => e.offsetWidth && e.innerText.trim()).map(e => {
        let back = e, seen = 'rgba(0, 0, 0, 0)';
        while (back && (seen = getComputedStyle(back).backgroundColor).endsWith(', 0)')) back = back.parentElement;
        return [e.innerText, getComputedStyle(e).color, seen]; })"""


WIDTHS = """() => [...document.querySelectorAll('.clad .js-plotly-plot')].map(plot =>
    [plot.parentElement.clientWidth, plot.querySelector('.main-svg').clientWidth])"""


def in_theme(page, theme):
    """The same page in JupyterLab's theme of that name, light or dark."""
    if page.kind == "voila":
        page.goto(f"{page.address}?theme={theme.lower()}", timeout=PATIENCE)
        page.locator(".clad-map .gl-canvas-context").first.wait_for(timeout=PATIENCE)
    else:
        page.get_by_role("menuitem", name="Settings", exact=True).click()
        page.locator(".lm-Menu-item", has_text=re.compile("^Theme")).first.click()
        page.locator(".lm-Menu-item", has_text=f"JupyterLab {theme}").first.click()
        page.locator(f"body[data-jp-theme-name='JupyterLab {theme}']").wait_for(state="attached")
    page.wait_for_timeout(1500)


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_size_and_contrast_in_both_themes(site, theme):
    in_theme(site, theme)
    for width in (1440, 900, 420):
        site.set_viewport_size({"width": width, "height": 1000})
        site.wait_for_timeout(2500)
        for number_of, part in enumerate(site.locator(".clad").all(), start=1):
            part.screenshot(path=SCREENS / f"{site.kind}-{theme}-{width}-{number_of}.png")
        site.screenshot(path=SCREENS / f"{site.kind}-{theme}-{width}.png")
        sizes = site.evaluate(WIDTHS)
        assert len(sizes) == 2
        assert all(taken == pytest.approx(room, abs=2) for room, taken in sizes), sizes
        wide = site.evaluate(
            "() => [...document.querySelectorAll('.clad')].map(e => [e.scrollWidth, e.clientWidth])"
        )
        assert all(inside <= room + 2 for inside, room in wide), wide
        stands_out(site, theme)
    site.set_viewport_size({"width": 1440, "height": 1000})
    site.wait_for_timeout(2500)
    assert all(taken == pytest.approx(room, abs=2) for room, taken in site.evaluate(WIDTHS))


def stands_out(page, theme):
    """Text has contrast 4.5 with its ground, and marks of figures 3."""
    texts = page.evaluate(TEXTS)
    assert len(texts) > 20
    for text, ink, ground in texts:
        pair = [[float(n) for n in re.findall(r"[\d.]+", colour)][:4] for colour in (ink, ground)]
        shade = pair[0][3] if len(pair[0]) > 3 else 1.0
        mixed = [shade * a + (1 - shade) * b for a, b in zip(pair[0][:3], pair[1][:3], strict=True)]
        assert contrast(mixed, pair[1][:3]) >= 4.5, (text, ink, ground)
    for plot in page.locator(".clad .js-plotly-plot").all():
        pixels = np.asarray(Image.open(io.BytesIO(plot.screenshot())).convert("RGB"))
        colours, many = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        ground = colours[many.argmax()]
        assert contrast(ground, (255, 255, 255) if theme == "Dark" else (0, 0, 0)) > 10
        marks = colours[(np.ptp(colours.astype(int), axis=1) > 60) & (many > 150)]
        assert len(marks)
        assert all(contrast(mark, ground) >= 3 for mark in marks), marks


def test_every_control_has_a_name_and_every_picture_a_text(site):
    nameless = site.evaluate(
        """() => [...document.querySelectorAll('.clad :is(input, select, button, img, [role=application], [role=img])')]
            .filter(e => !e.closest('.modebar') && !(e.ariaLabel || e.alt || e.innerText
                || [...(e.labels || [])].some(label => label.innerText))).map(e => e.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
    chosen = (
        explorer(site)
        .get_by_label("temperature", exact=True)
        .evaluate("e => e.selectedOptions[0].text")
    )
    assert chosen == "1,000"  # what a screen reader says


def serious(page, context=None):
    """What axe-core calls serious or critical: rule, and the first elements that break it."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context=context).response["violations"]
    return [
        (each["id"], [node["html"][:160] for node in each["nodes"]][:3])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def test_axe_finds_nothing_serious(site):
    assert serious(site, ".clad") == []


def test_axe_finds_nothing_serious_on_the_site(chromium):
    """What `make site` built, each page from disk."""
    home = Path(__file__).parents[1] / "site"
    pages = sorted(home.rglob("*.html"))
    if not pages:
        pytest.skip("make site has not been run")
    page, wrong = chromium.new_page(), {}
    for path in pages:
        page.goto(path.as_uri())
        page.wait_for_timeout(500)
        if found := serious(page):
            wrong[str(path.relative_to(home))] = found
    page.close()
    assert not wrong, html.unescape(json.dumps(wrong, indent=1))


def asks_no_other_machine(page):
    """Of all that the page asked for since it was opened, nothing is left but loopback."""
    outside = {
        asked.url
        for asked in page.asked
        if urlsplit(asked.url).scheme in ("http", "https", "ws", "wss")
        and urlsplit(asked.url).hostname != "127.0.0.1"
        and asked.failure != "csp"  # which the page itself forbids
    }
    assert not outside


def test_nothing_leaves_the_machine(site):
    """Last: over all that was done before."""
    asks_no_other_machine(site)
    assert not [
        each for each in site.failures if "clad" in each.lower() or "plotly" in each.lower()
    ]
    assert "import" not in site.locator("body").inner_text() or site.kind == "lab"
