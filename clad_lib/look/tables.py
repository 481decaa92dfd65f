"""Tables of results as HTML with a caption, which print as Markdown where no HTML is shown."""

from __future__ import annotations

import html
import zlib

import pandas as pd
from pandas.io.formats.style import Styler


class Table(Styler):
    """A styled table that prints as Markdown, so that stored outputs read well everywhere."""

    def __repr__(self) -> str:
        head, *rows = [f"| {line} |" for line in self.to_string(delimiter=" | ").splitlines()]
        return "\n".join([head, "| --- " * len(self.columns) + "|", *rows])


def results_table(
    frame: pd.DataFrame,
    *,
    caption: str,
    note: str = "",
    best: pd.DataFrame | None = None,
    decimals: int = 3,
) -> Table:
    """Return a table with a caption, in which the cells where `best` is true are bold.

    best: booleans with the rows and some columns of `frame`, true for all that cannot be told from
    the best. A named index comes first. Raises KeyError for unknown columns.
    """
    flat = frame.reset_index(drop=frame.index.name is None)
    table = Table(flat, uuid=f"{zlib.crc32(caption.encode()):08x}", cell_ids=False)
    table.format(precision=decimals, thousands=",", na_rep="–", escape="html")
    for name, marks in ({} if best is None else best).items():
        table.format(f"<b>{{:.{decimals}f}}</b>", subset=(flat.index[marks], [name]))
    words = flat.select_dtypes(exclude="number").columns
    table.set_properties(subset=words, **{"text-align": "left"})
    table.set_caption(f"<b>{html.escape(caption)}</b><br>{html.escape(note)}")
    return table.hide(axis="index").format_index(escape="html", axis="columns")
