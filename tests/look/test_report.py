"""The page that can be sent, the pictures it takes from notebooks, and the tables as files."""

import base64
import gzip
import importlib.util
import io
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs

from clad_lib.config import make_config
from clad_lib.look import report
from clad_lib.look.theme import finish
from clad_lib.study import words
from clad_lib.study.batch import Report, in_words
from clad_lib.study.engine import open_study
from clad_lib.study.jobs import Job, Outcome, plan
from clad_lib.study.results import collect
from clad_lib.study.stages import methods
from clad_lib.study.store import StoreError

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def figure_of(title, alt, count=3):
    figure = go.Figure(go.Scatter(x=np.arange(count), y=np.random.default_rng(0).random(count)))
    figure.update_layout(meta={"title": title, "alt": alt}, title_text=title)
    return json.loads(figure.to_json())


def notebook(path, *outputs):
    document = nbformat.v4.new_notebook()
    document.cells = [nbformat.v4.new_markdown_cell("# Title")]
    document.cells += [nbformat.v4.new_code_cell("shown", outputs=[each]) for each in outputs]
    nbformat.write(document, path)
    return path


def display(data, **metadata):
    return nbformat.v4.new_output("display_data", data, metadata=metadata)


def unpacked(text):
    return gzip.decompress(base64.b64decode(text)).decode()


def figures_in(text):
    return [json.loads(unpacked(each)) for each in re.findall(r'data-figure="([^"]+)"', text)]


def test_pictures_have_a_title_and_words(tmp_path):
    shown = figure_of("ROC curves: two", "Two curves.")
    path = notebook(
        tmp_path / "05_made.ipynb",
        nbformat.v4.new_output("stream", text="no picture"),
        display({report.PLOTLY: shown, "image/png": DOT}),
        display({"text/html": "<table>"}),
        display({report.PLOTLY: {"data": [], "layout": {}}}),
    )
    one, bare = report.pictures_of(path)
    assert figures_in(one) == [shown]
    assert 'aria-label="Two curves."' in one
    assert "<figcaption>ROC curves: two</figcaption>" in one
    assert 'aria-label="picture"' in bare


def test_a_page_holds_all_that_it_shows(tmp_path):
    shown = figure_of("Two <of> {them}", 'Two "curves" & {braces}.')
    path = notebook(tmp_path / "05_made.ipynb", display({report.PLOTLY: shown}))
    text = report.page("A <title>", {"Verdict": "<p>{odd}</p>", "Empty": ""}, [path])
    assert figures_in(text) == [shown]
    assert unpacked(re.search(r'await unpack\("([^"]+)"', text)[1]) == get_plotlyjs()
    assert "<title>A &lt;title&gt;</title>" in text
    assert "<h2>Verdict</h2>\n<p>{odd}</p>" in text
    assert "Empty" not in text
    alt = "Two &quot;curves&quot; &amp; {braces}."
    assert f'role="figure" aria-label="{alt}"' in text
    assert "<figcaption>Two &lt;of&gt; {them}</figcaption>" in text
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", text)
    assert len(text.encode()) < 3_000_000


def test_pictures_that_are_too_large_are_left_out_and_counted(tmp_path, monkeypatch):
    small, large = figure_of("Small", "s"), figure_of("Large", "l", count=100_000)
    paths = [
        notebook(tmp_path / "05_made.ipynb", display({report.PLOTLY: large})),
        notebook(tmp_path / "06_made.ipynb", display({report.PLOTLY: small})),
    ]
    both = report.page("T", {}, paths)
    monkeypatch.setattr(report, "LARGEST", len(both.encode()) - 100_000)
    text = report.page("T", {}, paths)
    assert figures_in(text) == [small]
    assert "1 pictures are too large for this page" in text
    assert len(text.encode()) <= report.LARGEST
    assert "too large" not in both


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A study with four scored methods, one that failed, and the batch that made them."""
    root = tmp_path_factory.mktemp("runs")
    config = make_config("digits", "CUR", profile="smoke", clusters=4)
    names = ("OCSVM", "NearestImage", "PNGBytes")
    planned = [job for job in plan([config], names, root) if job.shows is None]
    study = open_study(config, runs=root, device="cpu", progress=False)
    for name in names:
        assert study[name].metrics["auroc"] > 0
    path = notebook(root / "06_baselines.ipynb", display({report.PLOTLY: figure_of("F", "An F.")}))
    shows = Job("06_baselines.ipynb", "06_baselines", planned[0].places, shows=names)
    bad = Job("bad", "DeepSVDD", planned[0].places)
    ended = [(job, Outcome(job.key, "done", 1.0)) for job in (*planned, shows)]
    ended.append((bad, Outcome("bad", "failed", 0.1, "TrainingError: collapsed <here>")))
    assert path.is_file()
    return study, Report(ended, 12.0)


def test_the_report_of_a_study_says_what_the_terminal_says(scored):
    study, ended = scored
    lines = [*words.scores_in_words(study, methods()), *in_words("study", ended)]
    path = report.write_report(study, ended)
    assert path == study.folder / "report.html"
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) <= report.LARGEST
    for name in ("OCSVM", "NearestImage", "PNGBytes"):
        metrics = study.find(name).metrics
        assert f"{100 * metrics['auroc']:.1f}" in text
        assert any(line.strip().startswith(name) for line in lines)
        assert words.promise(study, name, study.find(name)).partition(": ")[2] in text
    record = json.loads((study.path("OCSVM") / "config.json").read_text(encoding="utf-8"))
    for part in (
        record["commit"],
        record["data"],
        record["precision"],
        record["versions"]["torch"],
    ):
        assert str(part) in text
    assert "<td>4</td>" in text  # clusters, among the settings
    assert "DeepSVDD: TrainingError: collapsed &lt;here&gt;" in text
    assert any("1 failed" in line for line in lines)
    assert [figure["layout"]["meta"]["title"] for figure in figures_in(text)] == ["F"]
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert heads == ["Table", "What was not made", "What was promised", "Made by", "Settings"]


def test_the_report_of_a_batch_has_its_table_its_end_and_its_pictures(scored, tmp_path):
    _, ended = scored
    path = report.write_batch_report("Smoke", ended, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert "Smoke: 5 done, 1 failed, 0 blocked, 0 refused in 12 s" in text
    assert all(name in text for name in ("OCSVM", "NearestImage", "PNGBytes"))
    assert len(figures_in(text)) == 1
    nothing = Report([(job, Outcome(job.key, "blocked")) for job, _ in ended.ended[-1:]], 1.0)
    text = report.write_batch_report("None", nothing, path).read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["How it ended"]


def test_tables_and_figure_3_as_files(scored, tmp_path, monkeypatch):
    study, _ = scored
    frame = collect(study.root)
    varied = pd.concat(
        [
            frame.head(1).assign(
                method="ODIN", profile="fast", settings=settings, auroc=auroc, folder=settings
            )
            for settings, auroc in (("clusters=2", 0.7), ("clusters=4", 0.8), ("", 0.9))
        ]
    )
    monkeypatch.setattr(report, "png_bytes", lambda figure, scale: None)
    written = report.write_tables(pd.concat([frame, varied]), tmp_path / "out")
    assert [path.name for path in written] == [
        *("results.csv", "results.md", "ranks.csv", "ranks.md"),
        "figure3_digits_clusters.html",
    ]
    table = pd.read_csv(written[0], dtype={"scenario": str})
    assert set(table.method) == {"OCSVM", "NearestImage", "PNGBytes", "ODIN"}
    assert written[1].read_text(encoding="utf-8").startswith("| dataset |")
    page = written[-1].read_text(encoding="utf-8")
    (figure,) = figures_in(page)
    assert figure["data"][0]["y"] or len(figure["data"]) == 1
    assert "0.900" in page  # in the alternative text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(StoreError, match="file"):
        report.write_tables(frame, tmp_path / "file" / "out")


def test_committed_notebooks_read_without_a_kernel(tmp_path, monkeypatch):
    """A PNG with words beside each figure, a sentence for each widget, no progress bar."""
    place = Path(__file__).resolve().parents[2] / "tools" / "committed_notebooks.py"
    spec = importlib.util.spec_from_file_location("committed_notebooks", place)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, "png_bytes", lambda figure: f"PNG of {figure.layout.meta}".encode())
    bar = nbformat.v4.new_output("stream", name="stderr", text="epoch:  50%|##  | 1/2")
    done = nbformat.v4.new_output("stream", name="stderr", text="\repoch: done")
    path = notebook(
        tmp_path / "05_made.ipynb",
        *(bar, done, nbformat.v4.new_output("stream", text="100 % of 3 images")),
        display({tool.WIDGET: {"model_id": "1"}, "text/plain": "Explorer()"}),
        display({report.PLOTLY: figure_of("Two curves", "Two curves that meet.")}),
    )
    document = nbformat.read(path, as_version=4)
    document.metadata["papermill"] = {"output_path": "/home/me"}
    document.cells[1].metadata = {"papermill": {"duration": 1}, "tags": ["parameters"]}
    nbformat.write(document, path)
    tool.keep_static(path, tmp_path)
    stored = nbformat.read(path, as_version=4)
    outputs = [output for cell in stored.cells[1:] for output in cell.outputs]
    assert [output.output_type for output in outputs] == ["stream", "display_data", "display_data"]
    assert outputs[1].data["text/markdown"] == tool.INTERACTIVE
    assert outputs[2].metadata == {
        "image/png": {"alt": "Two curves that meet.", "title": "Two curves"}
    }
    png = base64.b64decode(outputs[2].data["image/png"])
    assert (tmp_path / "05_made-1-two_curves.png").read_bytes() == png
    assert "home" not in path.read_text(encoding="utf-8")
    assert stored.cells[1].metadata == {"tags": ["parameters"]}
    (picture,) = report.pictures_of(path)
    assert "Two curves that meet." in picture
    monkeypatch.setattr(tool, "png_bytes", lambda figure: None)
    with pytest.raises(tool.NotebookError, match="need Chrome or Chromium"):
        tool.keep_static(path, tmp_path)


@pytest.fixture
def figure():
    bars = go.Figure(go.Bar(x=[1, 2], y=[3, 4]))
    return finish(bars, title='A "title" & more', note="A note.", alt="Two bars.")


@pytest.fixture
def no_browser(monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")


def test_without_a_browser_there_is_a_warning_and_no_picture(figure, no_browser):
    with pytest.warns(UserWarning, match="no PNG is drawn: .*nowhere"):
        assert report.png_bytes(figure) is None


def test_a_browser_that_ends_at_once_is_no_reason_to_wait(figure, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/bin/false")
    with pytest.warns(UserWarning, match="no PNG is drawn"):
        assert report.png_bytes(figure) is None


def test_a_picture_has_the_wanted_size_in_few_colours(figure, monkeypatch):
    drawn = io.BytesIO()
    Image.effect_noise((1800, 960), 80).convert("RGB").save(drawn, "png")
    asked = {}

    def draw(picture, options, kopts):
        asked.update(options, **kopts)
        return drawn.getvalue()

    import kaleido

    monkeypatch.setattr(kaleido, "calc_fig_sync", draw)
    monkeypatch.setattr(kaleido, "start_sync_server", lambda **options: asked.update(options))
    picture = Image.open(io.BytesIO(report.png_bytes(figure, scale=2)))
    assert picture.mode == "P"
    assert picture.size == (1800, 960)
    assert asked["mathjax"] is False  # else kaleido asks a CDN for it
    assert (asked["width"], asked["height"], asked["scale"]) == (900, 480, 2)


@pytest.mark.browser
def test_a_real_browser_draws_the_bars(figure):
    picture = Image.open(io.BytesIO(report.png_bytes(figure))).convert("RGB")
    assert picture.size == (900, 480)
    colours = {colour for _, colour in picture.getcolors(300)}
    assert (
        min(sum((a - b) ** 2 for a, b in zip(c, (26, 78, 138), strict=True)) for c in colours) < 60
    )


@pytest.mark.browser
def test_the_page_opens_from_disk_without_a_network(scored, tmp_path):
    """In Chromium: figures are drawn as they come into view, and nothing is asked for."""
    from playwright.sync_api import sync_playwright

    path = notebook(
        tmp_path / "05_made.ipynb",
        *(display({report.PLOTLY: figure_of(f"F{n}", "An F.")}) for n in range(8)),
    )
    page = tmp_path / "report.html"
    page.write_text(report.page("T", {"Verdict": "<p>It works.</p>"}, [path]), encoding="utf-8")
    asked = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        tab = browser.new_context(offline=True).new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(page.as_uri())
        tab.wait_for_selector("figure:first-of-type .main-svg", timeout=30_000)
        assert tab.locator("figure .js-plotly-plot").count() < 8
        tab.locator("figure").last.scroll_into_view_if_needed()
        tab.wait_for_selector("figure:last-of-type .main-svg", timeout=30_000)
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []
