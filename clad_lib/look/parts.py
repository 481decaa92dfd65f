"""What the explorers share: rows, numbers, messages and images in the colours of the page."""

from __future__ import annotations

import contextlib
import html
import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral

import ipywidgets as ipw
import numpy as np
import pandas as pd

from clad_lib.look.images import as_uri

WRAP = {"flex_flow": "row wrap", "grid_gap": "4px 24px"}
WHOLE = {"description_width": "initial"}  # of a control whose label must not be cut


class Explorer(ipw.VBox):
    """Rows of widgets, which wrap where the page is narrow."""

    def __init__(self, *rows: ipw.Widget | Sequence[ipw.Widget]):
        boxes = (row if isinstance(row, ipw.Widget) else ipw.HBox(row, layout=WRAP) for row in rows)
        super().__init__([*boxes])
        self.add_class("clad")


def say(line: ipw.HTML, text: str, *, loud: bool = False) -> None:
    """Write plain sentences into a place; `loud` marks what went wrong. Screen readers hear it."""
    kind = "loud" if loud else "quiet"
    line.value = f'<p role="status" class="{kind}">{html.escape(text)}</p>' if text else ""


@contextlib.contextmanager
def guarded(line: ipw.HTML) -> Iterator[None]:
    """In a widget's callback, turn an error into a sentence: a traceback would be seen nowhere."""
    try:
        yield
    except Exception as error:
        say(line, str(error) or type(error).__name__, loud=True)


def or_sentence(make: Callable[[], ipw.Widget]) -> ipw.Widget:
    """The explorer that is made, or a sentence that says why it cannot be."""
    line = ipw.HTML()
    with guarded(line):
        return make()
    return Explorer(line)


def number(value: float, spread: float) -> str:
    """A number with three digits of the spread of its kind: 2.2987 where they spread by 0.05."""
    digits = min(2 - math.floor(math.log10(spread or 1)), 12)
    return f"{round(value, digits):,.{max(digits, 0)}f}".replace("-", "\N{MINUS SIGN}")


def per_cent(share: float) -> str:
    """A share with three digits; a dash for a share of nothing, NaN."""
    return "\N{EN DASH}" if math.isnan(share) else f"{100 * share:.3g} %"


def read_number(text: str, what: str, low: float, high: float) -> float:
    """The number that was typed; ValueError says what was typed and what is expected."""
    with contextlib.suppress(ValueError):
        value = float(text.replace("\N{MINUS SIGN}", "-").strip(" %"))
        if low <= value <= high:
            return value
    span = f"a number from {low:.4g} to {high:.4g}, with a point before its decimals"
    raise ValueError(f"{what} cannot be {text.strip()[:30]!r}: expected {span}.")


def table(frame: pd.DataFrame, title: str, name: str = "table") -> str:
    """A small table in HTML under its title, found on the page as `.clad-<name>`.

    Whole numbers are counts and get commas, others are shares and stand in per cent.
    """
    told = frame.map(lambda c: f"{c:,}" if isinstance(c, Integral) else c)
    told = told.map(lambda c: per_cent(c) if isinstance(c, float) else c).to_html(border=0)
    return f'<div class="clad-part clad-{name}"><b>{html.escape(title)}</b>{told}</div>'


def strip(images: np.ndarray, captions: Sequence[str], *, title: str = "", size: int = 48) -> str:
    """uint8 images (N, C, H, W) as HTML under a title, each `size` px wide above its caption."""
    shown = (
        f'<figure><img src="{as_uri(image.transpose(1, 2, 0))}" alt="{text}" width="{size}" '
        f'height="{size}"><figcaption>{text}</figcaption></figure>'
        for image, text in zip(images, map(html.escape, captions), strict=True)
    )
    return f"<p>{title}</p>{''.join(shown)}"
