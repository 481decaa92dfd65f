"""What every figure shares: colours that also differ in grey, marks besides colour, the template, title and alt text."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

WIDTH = 900  # px; what the fonts are chosen for

# after Paul Tol's muted colours (2021), the pale ones darker; neighbours differ by at least 14 in lightness L*
PALETTE = (
    "#3B6FA8", "#CFAE3C", "#AA4499", "#3FA092", "#117733", "#332288", "#CC6677", "#882255", "#8A8A2B", "#7CC4EC",
)  # fmt: skip
SYMBOLS = (
    "circle", "square", "diamond", "cross", "triangle-up", "x", "triangle-down", "star", "pentagon", "hexagram",
)  # fmt: skip
SYMBOL_NUMBERS = (0, 1, 2, 3, 5, 4, 6, 17, 13, 18)  # the same as plotly numbers them, which it checks faster
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PATTERNS = ("", "/", "x", ".", "\\", "-", "+", "|")
SCALE = "Viridis"  # lightness rises with the value
INK, QUIET, GRID = "#222222", "#595959", "#E3E3E3"


class Look(NamedTuple):
    """How one category is drawn: by colour, and by symbol, dash or hatching where colour is not seen."""

    colour: str
    symbol: str
    dash: str
    pattern: str
    number: int = 0  # of the symbol

    @property
    def fill(self) -> dict[str, Any]:
        """A bar's marker: the colour, hatched in white."""
        hatch = dict(shape=self.pattern, fillmode="overlay", fgcolor="white", fgopacity=0.85, size=7, solidity=0.3)
        return dict(color=self.colour, pattern=hatch, line=dict(width=0))


NORMAL = Look("#1F3A6E", "circle", "solid", "")
ANOMALOUS = Look("#EE8033", "x", "dash", "/")


def look(index: int) -> Look:
    """The look of category `index`; colour and symbol together repeat only after a hundred categories."""
    turn = index + index // len(PALETTE)
    return Look(PALETTE[index % 10], SYMBOLS[turn % 10], DASHES[index % 6], PATTERNS[turn % 8], SYMBOL_NUMBERS[turn % 10])


def lightness(colour: str) -> float:
    """CIE lightness L* of "#RRGGBB", from 0 (black) to 100 (white): what is left of a colour in a grey print."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * luminance ** (1 / 3) - 16 if luminance > 216 / 24389 else luminance * 24389 / 27


def colour_bar(title: str, **settings: Any) -> dict[str, Any]:
    """A slim colour bar with its title along the side."""
    return dict(title=dict(text=title, side="right", font=dict(size=13)), thickness=14, outlinewidth=0) | settings


def _axis() -> dict[str, Any]:
    return dict(
        gridcolor=GRID, zeroline=False, linecolor=QUIET, ticks="outside", tickcolor=QUIET, ticklen=4, automargin=True,
        title=dict(font=dict(size=14), standoff=8),
    )  # fmt: skip


TEMPLATE = go.layout.Template(
    layout=dict(
        font=dict(family="Helvetica, Arial, Liberation Sans, sans-serif", size=13, color=INK),
        title=dict(
            x=0.012, xanchor="left", xref="container", y=0.97, yanchor="top", yref="container",
            font=dict(size=18), subtitle=dict(font=dict(size=13, color=QUIET)),
        ),
        colorway=PALETTE, paper_bgcolor="white", plot_bgcolor="white", xaxis=_axis(), yaxis=_axis(),
        margin=dict(l=70, r=24, t=90, b=60),
        legend=dict(font=dict(size=13), title=dict(font=dict(size=13)), itemsizing="constant", tracegroupgap=4),
        hoverlabel=dict(font=dict(size=13), align="left"), bargap=0.06, colorscale=dict(sequential=SCALE),
    ),
)  # fmt: skip
pio.templates["clad"] = TEMPLATE


def finish(figure: go.Figure, *, title: str, note: str, alt: str, height: int = 520, bottom: int | None = None) -> go.Figure:
    """Give a figure the template, its title, a line on how to read it, and its alternative text (see `alt_text`)."""
    lines = [plain(line) for line in textwrap.wrap(note, 146)]
    figure.update_layout(
        template="clad", height=height, meta={"alt": alt, "title": title},
        title=dict(text=f"<b>{plain(title)}</b>", subtitle=dict(text="<br>".join(lines)), y=1 - 16 / height),
        margin=dict(t=58 + 18 * max(1, len(lines))) | ({} if bottom is None else dict(b=bottom)),
    )  # fmt: skip
    return figure


def alt_text(figure: go.Figure) -> str:
    """The figure in words, for readers who cannot see it."""
    return _meta(figure).get("alt") or title_text(figure)


def title_text(figure: go.Figure) -> str:
    """The figure's title without mark-up."""
    return _meta(figure).get("title") or str(figure.layout.title.text or "figure")


def _meta(figure: go.Figure) -> dict[str, str]:
    return figure.layout.meta if isinstance(figure.layout.meta, dict) else {}


def plain(name: object) -> str:
    """A name as text; plotly would read `<` and `&` as mark-up."""
    return html.escape(str(name), quote=False)


def names_for(values: np.ndarray, names: Sequence[str] | None, *, word: str = "") -> dict[int, str]:
    """Each value that occurs -> its name, `names[value]`, or `word value` where there are no names."""
    found = [int(value) for value in np.unique(values)]
    if names is None:
        return {value: f"{word} {value}".strip() for value in found}
    if found and not 0 <= found[0] <= found[-1] < len(names):
        raise ValueError(f"got labels from {found[0]} to {found[-1]} and {len(names)} names: expected a name for each")
    return {value: plain(names[value]) for value in found}


def same_length(**arrays: Any) -> None:
    """ValueError unless all arrays have the same first dimension, which must not be 0."""
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) != 1:
        listed = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise ValueError(f"got {listed}: expected as many of each")
    if 0 in sizes.values():
        raise ValueError(f"got no {next(iter(sizes))}: expected at least one")


def finite(name: str, values: Any) -> np.ndarray:
    """`values` as an array; ValueError when any is NaN or infinite."""
    array = np.asarray(values)
    bad = int((~np.isfinite(array.astype(np.float64))).sum())
    if bad:
        raise ValueError(f"{bad} of {array.size} {name} are NaN or infinite: expected finite numbers; make them anew")
    return array
