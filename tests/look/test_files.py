"""Pages that ask no other machine for anything, and pictures where a browser is found."""

from __future__ import annotations

import io
import re

import plotly.graph_objects as go
import pytest
from PIL import Image

from clad_lib.look import files
from clad_lib.look.files import png_bytes, write_figure
from clad_lib.look.theme import finish
from clad_lib.study.store import StoreError


@pytest.fixture
def figure():
    bars = go.Figure(go.Bar(x=[1, 2], y=[3, 4]))
    return finish(bars, title='A "title" & more', note="A note.", alt="Two bars.")


@pytest.fixture
def no_browser(monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")


@pytest.mark.filterwarnings("ignore:no PNG")
def test_a_page_has_alt_text_and_no_foreign_address(figure, tmp_path, no_browser):
    assert write_figure(figure, tmp_path / "deep" / "figure.v1") == [
        tmp_path / "deep" / "figure.v1.html"
    ]
    page = (tmp_path / "deep" / "figure.v1.html").read_text(encoding="utf-8")
    assert 'aria-label="A &quot;title&quot; &amp; more. Two bars. A note."' in page
    assert "<title>A &quot;title&quot; &amp; more</title>" in page
    assert '<html lang="en">' in page
    assert re.findall(r'src="([^"]+)"', page) == ["plotly.min.js"]
    assert not re.findall(r"https?://(?!www\.w3\.org)", page)
    assert len(page) < 50_000


@pytest.mark.filterwarnings("ignore:no PNG")
def test_the_pages_of_a_folder_share_one_script(figure, tmp_path, no_browser):
    for name in ("one", "two"):
        write_figure(figure, tmp_path / name)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["one.html", "plotly.min.js", "two.html"]
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000


def test_without_a_browser_there_is_a_warning_and_no_picture(figure, no_browser):
    with pytest.warns(UserWarning, match="no PNG is drawn: .*nowhere"):
        assert png_bytes(figure) is None


def test_a_browser_that_ends_at_once_is_no_reason_to_wait(figure, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/bin/false")
    with pytest.warns(UserWarning, match="no PNG is drawn"):
        assert png_bytes(figure) is None


@pytest.mark.filterwarnings("ignore:no PNG")
def test_a_folder_that_cannot_be_written_is_named(figure, tmp_path, no_browser):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(StoreError, match="file"):
        write_figure(figure, tmp_path / "file" / "figure")


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
    picture = Image.open(io.BytesIO(png_bytes(figure, scale=2)))
    assert picture.mode == "P"
    assert picture.size == (1800, 960)
    assert asked["mathjax"] is False  # else kaleido asks a CDN for it
    assert (asked["width"], asked["height"], asked["scale"]) == (900, 480, 2)


@pytest.mark.browser
def test_a_real_browser_draws_the_bars(figure, tmp_path):
    paths = write_figure(figure, tmp_path / "figure", scale=1)
    assert [path.suffix for path in paths] == [".html", ".png"]
    picture = Image.open(paths[1]).convert("RGB")
    assert picture.size == (900, 480)
    colours = {colour for _, colour in picture.getcolors(300)}
    assert (
        min(sum((a - b) ** 2 for a, b in zip(c, (26, 78, 138), strict=True)) for c in colours) < 60
    )
    assert files.png_bytes(figure) == paths[1].read_bytes()
