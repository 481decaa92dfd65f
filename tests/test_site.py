"""The site's pages: what a notebook becomes, and what a page may not ask for."""

import base64
import gzip
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs", reason="the group `site` is not installed: make site")
pytest.importorskip("latex2mathml", reason="the group `site` is not installed: make site")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import site_pages
from mkdocs.exceptions import PluginError


def cell(kind, source, *outputs):
    return {"cell_type": kind, "source": [source], "outputs": list(outputs)}


def test_a_notebook_keeps_its_outputs_and_its_figures_stay_alive():
    figure = {"data": [{"y": [1, 2]}], "layout": {}, "frames": [{"name": "a"}]}
    png = base64.b64encode(b"picture").decode()
    shown = {
        "data": {site_pages.PLOTLY: figure, "image/png": png},
        "metadata": {"image/png": {"alt": 'Bars of "1" & 2'}},
    }
    told = {"output_type": "stream", "text": ["1 <b>\n"]}
    table = {"data": {"text/html": ["<table></table>"], "text/plain": ["| |"]}}
    text, pictures = site_pages.page_of(
        {"cells": [cell("markdown", "# Title"), cell("code", "x = 1", shown, told, table)]}, "n"
    )
    assert text.startswith("# Title\n\n```python\nx = 1\n```")
    assert pictures == {"n-1.png": b"picture"}
    packed = re.search(r'data-figure="([^"]+)"', text)[1]
    assert json.loads(gzip.decompress(base64.b64decode(packed))) == figure
    assert 'alt="Bars of &quot;1&quot; &amp; 2"' in text
    assert "```text\n1 <b>\n```" in text
    assert "<table></table>" in text
    assert "| |" not in text


def test_formulas_need_no_script():
    text = site_pages.with_formulas("mean $\\frac{1}{N}$, and\n\n$$ z_i = f(x_i) $$\n\n5 $ left")
    assert text.count("<math") == 2
    assert "<mfrac>" in text
    assert 'display="block"' in text
    assert text.endswith("5 $ left")


def test_links_to_notebooks_lead_to_pages():
    text = site_pages.on_page_markdown("[a](notebooks/01_x.ipynb), `b.ipynb`, [c](x.md)")
    assert text == "[a](notebooks/01_x.md), `b.ipynb`, [c](x.md)"


@pytest.mark.parametrize(
    "asks",
    [
        '<script async src="https://cdn.plot.ly/plotly.js"></script>',
        '<link rel="stylesheet" href="//fonts.example.org/css">',
        "<img alt='x' src=http://example.org/x.png>",
        "<style>@font-face { src: url('https://example.org/f.woff2') }</style>",
        "<style>@import 'https://example.org/a.css';</style>",
    ],
)
def test_a_page_that_asks_another_machine_fails_the_build(asks, tmp_path):
    config = SimpleNamespace(site_dir=str(tmp_path))
    page = tmp_path / "page.html"
    page.write_text('<a href="https://example.org">a link</a><img src="x.png">', encoding="utf-8")
    site_pages.on_post_build(config)
    page.write_text(asks, encoding="utf-8")
    with pytest.raises(PluginError, match=r"page\.html: "):
        site_pages.on_post_build(config)
