"""Colours that survive a grey print and a bright page, and what `finish` promises."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import plotly.express as px
import plotly.graph_objects as go
import pytest

from clad_lib.look import theme


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def lightness(colour):
    return 116 * luminance(colour) ** (1 / 3) - 16


def contrast(one, other):
    dark, bright = sorted([luminance(one), luminance(other)])
    return (bright + 0.05) / (dark + 0.05)


def between(one, other, share):
    ends = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (one, other)]
    mixed = np.array(ends[0]) * (1 - share) + np.array(ends[1]) * share
    return "#" + "".join(f"{round(channel):02X}" for channel in mixed)


def test_the_measures_themselves():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)  # WCAG's own example
    assert lightness("#FFFFFF") == pytest.approx(100)


def test_neighbours_in_the_palette_differ_in_grey():
    assert len({*theme.PALETTE}) == 10
    for one, other in pairwise([*theme.PALETTE, theme.PALETTE[0]]):
        assert abs(lightness(one) - lightness(other)) > 19, (one, other)
    assert abs(lightness(theme.NORMAL) - lightness(theme.ANOMALOUS)) > 19


def test_marks_and_text_stand_out_from_the_page():
    for colour in (*theme.PALETTE, theme.NORMAL, theme.ANOMALOUS):
        assert contrast(colour, "#FFFFFF") >= 3, colour
    for colour in (theme.INK, theme.QUIET):
        assert contrast(colour, "#FFFFFF") >= 4.5


def test_numbers_are_readable_in_every_cell():
    for scale in (theme.SHADES, theme.AROUND_CHANCE):
        for one, other in pairwise(scale):
            for share in np.linspace(0, 1, 21):
                assert contrast(theme.INK, between(one, other, share)) >= 4.5


def test_categories_differ_in_colour_or_symbol_for_long():
    pairs = zip(theme.PALETTE * 9, theme.SYMBOLS * 10, strict=True)
    assert len({*pairs}) == 90
    assert "x" not in theme.SYMBOLS  # the mark of the anomalies


def test_plotly_express_draws_the_same_looks():
    codes = list(range(12))
    names = [f"class {k}" for k in codes]
    figure = px.scatter(x=codes, y=codes, color=names, symbol=names, template=theme.TEMPLATE)
    for code, trace in zip(codes, figure.data, strict=True):
        wanted = theme.PALETTE[code % 10], theme.SYMBOLS[code % 9]
        assert (trace.marker.color, trace.marker.symbol) == wanted
    assert list(theme.KINDS) == ["normal", "anomalous"]


def test_finish_gives_title_note_alt_and_the_width_of_the_container():
    note = "Short words. " * 20
    figure = theme.finish(go.Figure(), title="A < B & C", note=note, alt="Nothing is drawn.")
    assert figure.layout.width is None
    assert figure.layout.autosize
    assert figure.layout.title.text == "<b>A &lt; B &amp; C</b>"
    lines = figure.layout.title.subtitle.text.split("<br>")
    assert " ".join(lines) == note.strip()
    assert max(map(len, lines)) <= 95
    assert figure.layout.margin.t > 58 + 18 * (len(lines) - 1)  # the lines have room
    assert figure.layout.meta["alt"] == f"A < B & C. Nothing is drawn. {note}"
    assert figure.layout.meta["title"] == "A < B & C"


def test_alt_text_survives_a_notebook():
    figure = theme.finish(go.Figure(), title="One", note="Two.", alt="Three.", height=300)
    again = go.Figure(json.loads(figure.to_json()))
    assert again.layout.meta["alt"] == "One. Three. Two."
    assert again.layout.height == 300


def test_more_keywords_are_settings_of_the_layout():
    figure = theme.finish(go.Figure(), title="t", note="n", xaxis_title="epoch", bargap=0)
    assert figure.layout.xaxis.title.text == "epoch"
    assert figure.layout.bargap == 0


def test_headings_of_panels_keep_the_value_alone():
    figure = px.scatter(x=[1, 2], y=[1, 2], facet_col=["a=b", "c"])
    heads = theme.finish(figure, title="t", note="n").layout.annotations
    assert [head.text for head in heads] == ["a=b", "c"]


def test_names_for_labels():
    assert theme.named([1, 0, 1], ["a<b", "c"]) == ["c", "a&lt;b", "c"]
    assert theme.named(np.array([2, 0]), word="cluster") == ["cluster 2", "cluster 0"]
    with pytest.raises(IndexError):
        theme.named([2], ["a", "b"])
    assert theme.listed({("a", 1): 0.5, "b": 0.25}, ".2f") == "a 1 0.50, b 0.25"


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(1, 2.9, None), (1, 4, "D1"), (1, 100, "D2"), (0.1, 1000, 1), (0, 50, "D2")],
)
def test_ticks_of_logarithmic_axes_do_not_collide(low, high, step):
    axis = theme.log_axis([low, (low + high) / 2, 1, high, np.nan] if low else [0, 1, high])
    assert axis.get("dtick") == step
    assert ("type" in axis) == (step is not None)


def test_nothing_positive_needs_no_logarithm():
    assert theme.log_axis([0, 0]) == {}
