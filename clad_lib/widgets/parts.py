"""What the explorers share: strips of images, messages in place of tracebacks, and figures that live in a widget."""

from __future__ import annotations

import base64
import contextlib
import html
import io
from collections.abc import Iterator, Sequence

import ipywidgets as ipw
import numpy as np
import plotly.graph_objects as go
from PIL import Image

from clad_lib.plots.images import as_bytes

THUMBNAIL = 48  # px on the screen
QUIET_LINE, LOUD_LINE = "#595959", "#B34700"


def strip(images: np.ndarray, captions: Sequence[str] = (), *, size: int = THUMBNAIL, colour: str = "#BBBBBB") -> str:
    """Images (N, C, H, W), uint8 or float in [0, 1], as one line of HTML, each `size` px wide above its caption."""
    if not len(images):
        return "<i>no images</i>"
    texts = [*map(html.escape, captions), *[""] * (len(images) - len(captions))]
    cells = [
        f'<figure style="display:inline-block;margin:2px;text-align:center"><img src="{thumbnail(image)}" '
        f'alt="{text or "image"}" '
        f'width="{size}" height="{size}" style="image-rendering:pixelated;border:2px solid {colour}">'
        f'<figcaption style="font-size:11px;line-height:1.2">{text}</figcaption></figure>'
        for image, text in zip(as_bytes(images), texts, strict=False)
    ]
    return f'<div style="line-height:1">{"".join(cells)}</div>'


def thumbnail(image: np.ndarray) -> str:
    """One uint8 image (C, H, W), C 1 or 3, as the data URI of a PNG."""
    stream = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))).save(stream, "png")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def message_line() -> ipw.HTML:
    """An empty line for `guarded` and `say` to write to."""
    return ipw.HTML(layout=ipw.Layout(min_height="22px"))


def say(line: ipw.HTML, text: str, *, loud: bool = False) -> None:
    """Write plain text into a message line; `loud` is for what went wrong. Screen readers hear it."""
    colour = LOUD_LINE if loud else QUIET_LINE
    line.value = f'<span role="status" style="color:{colour};line-height:1.3">{html.escape(text)}</span>' if text else ""


@contextlib.contextmanager
def guarded(line: ipw.HTML) -> Iterator[None]:
    """Inside a widget's callback: an error becomes a line of text in the widget, since a traceback would be seen nowhere."""
    try:
        yield
    except Exception as error:
        say(line, str(error) or type(error).__name__, loud=True)


def live(figure: go.Figure, *, height: int | None = None) -> go.FigureWidget:
    """A figure as a widget that fills the width it is given. Traces must be there already: later ones are not drawn by Voila."""
    figure.update_layout(autosize=True, height=height or figure.layout.height)
    return go.FigureWidget(figure)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A small HTML table; the first cell of each row is its name."""
    cell = 'style="padding:2px 10px;text-align:right;border-bottom:1px solid #DDD"'
    top = "".join(f'<th scope="col" {cell}>{html.escape(str(name))}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row" {cell}>{html.escape(str(row[0]))}</th>'
        + "".join(f"<td {cell}>{html.escape(str(value))}</td>" for value in row[1:]) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f'<table style="border-collapse:collapse;line-height:1.4"><tr>{top}</tr>{body}</table>'
