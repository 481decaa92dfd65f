"""What every figure shares: colours that differ in grey, one template, title, note, alt text."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from plotly.graph_objects import Figure
from plotly.graph_objs.layout import Template

# In this order neighbours differ by at least 19 in lightness L*; each has contrast 3:1 on white.
PALETTE = (
    "#1A4E8A",
    "#B8860B",
    "#882255",
    "#2A9483",
    "#332288",
    "#CC5C6C",
    "#0E5A2A",
    "#B07CC6",
    "#7A4A1E",
    "#1B8FBF",
)
SYMBOLS = (  # nine beside ten colours: a pair comes back after 90; "x" is kept for anomalies
    "circle",
    "square",
    "diamond",
    "cross",
    "triangle-up",
    "triangle-left",
    "star",
    "triangle-down",
    "pentagon",
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PATTERNS = ("", "/", "x", ".", "\\", "-", "+", "|")
SHADES = ("#FFFFFF", "#5B9BD5")  # for cells with numbers: INK has contrast 4.5:1 on all between
AROUND_CHANCE = ("#E8A06A", *SHADES)
INK, QUIET, GRID = "#222222", "#595959", "#E3E3E3"
NORMAL, ANOMALOUS = "#1F3A6E", "#D9691E"
KINDS = {"normal": NORMAL, "anomalous": ANOMALOUS}
DASHED, DOTTED = ({"color": INK, "dash": dash, "width": 1.5} for dash in ("dash", "dot"))


_AXIS = {
    "gridcolor": GRID,
    "zeroline": False,
    "linecolor": QUIET,
    "tickcolor": QUIET,
    "ticks": "outside",
    "ticklen": 4,
    "automargin": True,
    "title_standoff": 8,
}
TEMPLATE = Template(
    layout={
        "font": {
            "family": "Helvetica, Arial, Liberation Sans, sans-serif",
            "size": 13,
            "color": INK,
        },
        "title": {
            "x": 0.012,
            "xanchor": "left",
            "yanchor": "top",
            "font_size": 18,
            "subtitle_font": {"size": 13, "color": QUIET},
        },
        "colorway": PALETTE,
        "colorscale_sequential": "Viridis",  # lightness rises with the value
        "coloraxis_colorbar": {"thickness": 14, "outlinewidth": 0, "title_side": "right"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "margin": {"l": 70, "r": 24, "b": 60},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 0.01,
            "yref": "container",
            "yanchor": "bottom",
            "itemwidth": 44,
        },
        "hoverlabel": {"font_size": 13, "align": "left"},
        "bargap": 0.06,
    },
    data={  # plotly express takes its sequences from here
        "scatter": [
            {"marker_symbol": s, "line_dash": d} for s, d in zip(SYMBOLS, DASHES * 2, strict=False)
        ],
        "bar": [{"marker_pattern": {"shape": shape, "size": 7}} for shape in PATTERNS],
    },
)


def finish(
    figure: Figure,
    *,
    title: str,
    note: str,
    alt: str = "",
    height: int = 480,
    above: int = 0,
    **layout: Any,
) -> Figure:
    """Give a figure the template, a title, a note on how to read it, and its alternative text.

    The width is the container's; `height`, and `above`, the room for headings of panels, are in
    pixels. `alt` tells readers who cannot see it what the data show beyond the title and the note.
    A heading keeps its value of plotly's "name=value". More keywords are settings of the layout.
    """
    figure.for_each_annotation(lambda head: head.update(text=head.text.partition("=")[2]))
    lines = textwrap.wrap(plain(note), 95)
    common = {
        "template": TEMPLATE,
        "autosize": True,
        "height": height,
        "meta": {"title": title, "alt": f"{title}. {alt} {note}"},
        "title_text": f"<b>{plain(title)}</b>",
        "title_subtitle_text": "<br>".join(lines),
        "title_y": 1 - 16 / height,
        "margin_t": 58 + 18 * len(lines) + above,
        "legend_title_text": "",
    }
    return figure.update_layout(**common | layout)


def plain(name: object) -> str:
    """Return a name as text, since plotly would read `<` and `&` as mark-up."""
    return html.escape(str(name), quote=False)


def listed(values: Any, form: str = "") -> str:
    """Return a mapping or a Series as words, "normal 90, anomalous 10", for alternative texts."""
    told = {" ".join(map(str, np.atleast_1d(name))): value for name, value in values.items()}
    return ", ".join(f"{name} {value:{form}}" for name, value in told.items())


def named(values: Any, names: Sequence[str] | None = None, *, word: str = "class") -> list[str]:
    """Return for each of the values (N,) its name `names[value]`, or `word value` without names."""
    return [plain(names[v]) if names else f"{word} {v}" for v in np.asarray(values, dtype=int)]


def log_axis(values: Any) -> dict[str, Any]:
    """Return settings of an axis that is logarithmic where positive values span a factor of 3.

    Ticks stand at each digit, at 1, 2 and 5, or at powers of ten, so that labels do not collide.
    """
    shown = np.asarray(values, dtype=float)
    span = np.nanmax(shown) / np.min(shown[shown > 0], initial=np.inf)
    step = "D1" if span < 6 else "D2" if span < 500 else 1
    return {"type": "log", "dtick": step, "tickformat": "~g"} if span > 3 else {}
