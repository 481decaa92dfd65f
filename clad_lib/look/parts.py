"""What the explorers share: numbers, messages and images in the colours of the page."""

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

# JupyterLab's own colours; the second of each pair is for pages without them. A dark theme turns
# the lightness of a figure round and keeps its hues: marks stay as far from their ground.
STYLE = """<style>
.clad { --ink: var(--jp-ui-font-color1, #212121); --line: var(--jp-border-color1, #bdbdbd);
  color: var(--ink); }
.clad-map { flex: 3 1 460px; min-width: 0; }
.clad-panel { flex: 1 1 300px; max-height: 560px; overflow: auto; min-width: 0; }
.clad-part { display: inline-block; vertical-align: top; margin-right: 28px; }
.clad table { border-collapse: collapse; line-height: 1.5; margin: 4px 0; }
.clad th, .clad td { padding: 2px 10px; text-align: right; border: 0 solid var(--line);
  border-bottom-width: 1px; }
.clad tbody th { text-align: left; font-weight: normal; }
@media (max-width: 600px) { .clad th, .clad td { padding: 2px 3px; font-size: 12px; } }
.clad-panel td { text-align: left; }
.clad .js-plotly-plot:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2);
  outline-offset: -2px; }
.clad p { margin: 0; line-height: 1.4; max-width: 75em; }
.clad .loud { border-left: 4px solid var(--jp-warn-color1, #b34700); padding-left: 8px; }
.clad figure { display: inline-block; margin: 2px; text-align: center; }
.clad img { image-rendering: pixelated; border: 2px solid var(--line); }
.clad figcaption { font-size: 11px; line-height: 1.2; }
.clad-tip { position: absolute; z-index: 9; pointer-events: none; padding: 4px; max-width: 190px;
  background: var(--jp-layout-color1, #fff); border: 1px solid var(--line); }
.clad-range { display: flex; gap: 12px; align-items: center; flex-wrap: wrap; }
.clad-range input { flex: 1 1 240px; min-width: 0; }
.clad-range input[readonly] { color: var(--ink); background: var(--jp-layout-color1, #fff);
  border: 1px solid var(--line); padding: 4px; font-family: monospace; }
[data-jp-theme-light="false"] .clad .js-plotly-plot { filter: invert(0.93) hue-rotate(180deg); }
</style>"""
ROW = {"flex_flow": "row wrap", "grid_gap": "4px 24px"}


def rows(*made: ipw.Widget | Sequence[ipw.Widget]) -> list[ipw.Widget]:
    """The children of an explorer: the style, then its rows, which wrap where it is narrow."""
    lines = [row if isinstance(row, ipw.Widget) else ipw.HBox(row, layout=ROW) for row in made]
    return [ipw.HTML(STYLE, layout={"display": "none"}), *lines]


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
    return ipw.VBox(rows(line)).add_class("clad")


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


def strip(images: np.ndarray, captions: Sequence[str], *, size: int = 48) -> str:
    """uint8 images (N, C, H, W) as HTML, each `size` px wide above its caption."""
    return "".join(
        f'<figure><img src="{as_uri(image.transpose(1, 2, 0))}" alt="{text}" width="{size}" '
        f'height="{size}"><figcaption>{text}</figcaption></figure>'
        for image, text in zip(images, map(html.escape, captions), strict=True)
    )
