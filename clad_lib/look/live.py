"""Widgets that ipywidgets and plotly lack: a slider that says what it stands at, a line to copy, a
figure that follows its container. All figures of a page share one copy of plotly's script.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as ipw
import traitlets
from plotly import graph_objects
from plotly.offline import get_plotlyjs

HERE = Path(__file__).parent


class Slider(anywidget.AnyWidget):
    """A slider from 0 to `max` that shows, and reads out, `text` in place of its position.

    `value` changes from the page only by a hand on it.
    """

    _esm = HERE / "slider.js"
    value, max, step = (traitlets.Float(each).tag(sync=True) for each in (0.0, 100.0, 1.0))
    label, text = (traitlets.Unicode().tag(sync=True) for _ in range(2))


class CopyLine(anywidget.AnyWidget):
    """A line of text with a button that copies it."""

    _esm, _css = HERE / "copy_line.js", HERE / "explorers.css"
    value, label = (traitlets.Unicode().tag(sync=True) for _ in range(2))


class Script(ipw.Widget):
    """plotly's script, packed: sent to a page once for all its figures."""

    source = traitlets.Bytes().tag(sync=True)


@cache
def _script() -> Script:
    return Script(source=gzip.compress(get_plotlyjs().encode("utf-8"), 1))


def plotly_script() -> Script:
    """The one Script of this process, made anew where it was closed with all other widgets."""
    if _script().comm is None:
        _script.cache_clear()
    return _script()


class Figure(anywidget.AnyWidget):
    """A figure of plotly, given as plain traces and layout, as wide as its container.

    What is drawn is always the present state. `narrow` is what the layout takes below 760 px.
    A figure that `acts` sends messages {what, rows}, a row being the first entry of a point's
    customdata: "show" for the point under the pointer, beside which `tip` is then shown, "open"
    for a click, "select" for a lasso or a box. By keyboard the arrows go from point to point,
    Enter opens one, and the space bar selects the 24 nearest. Screen readers say `alt`.
    """

    _esm, _css = HERE / "figure.js", HERE / "explorers.css"
    script = traitlets.Instance(Script).tag(sync=True, **ipw.widget_serialization)
    traces: Any = traitlets.List().tag(sync=True)
    frame, narrow = (traitlets.Dict().tag(sync=True) for _ in range(2))
    alt, tip = (traitlets.Unicode().tag(sync=True) for _ in range(2))
    acts = traitlets.Bool(False).tag(sync=True)

    def draw(self, figure: graph_objects.Figure, alt: str, **frame: Any) -> None:
        """Show a figure; keywords take the place of settings of its layout."""
        plain = json.loads(figure.to_json() or "")
        with self.hold_sync():
            self.traces, self.frame, self.alt = plain["data"], plain["layout"] | frame, alt
