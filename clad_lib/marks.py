"""The best and the second best of a ready table, marked for Markdown and for a figure."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from clad_lib import plots

GROUP = ["dataset", "scenario", "profile", "settings"]  # methods are compared within one of these
LEGEND = "**Bold**: best; †: second best, among the methods that chose nothing with test labels."
SHADES = {1: "#BFD3EE", 2: "#E3ECF8"}  # of the best and the second best


def standing(table: pd.DataFrame) -> pd.Series:
    """1 for the best, 2 for the second, 0 for all other rows of the tables of `ready` and `average_ranks`.

    A method alone in its scenario is not marked, and nothing that chose with test labels is.
    """
    if "auroc" not in table:
        place = table["rank"].rank(method="min")
        return place.where((place <= 2) & (len(table) > 1), 0).astype(int)
    rivals = table.groupby(GROUP, dropna=False)["rank"].transform("count")
    return table["rank"].where((table["rank"] <= 2) & (rivals > 1), 0).fillna(0).astype(int)


def marked(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its AUROC, or else its rank, as Markdown: the best in bold, the second with a dagger (LEGEND)."""
    column = "auroc" if "auroc" in table else "rank"
    forms = {1: "**{:.3f}**", 2: "{:.3f}†", 0: "{:.3f}"}
    cells = [forms[place].format(value) for place, value in zip(standing(table), table[column], strict=True)]
    return table.assign(**{column: cells})


def shaded(table: pd.DataFrame, *, title: str, note: str = "", without: Sequence[str] = ()) -> go.Figure:
    """The table of `ready` or `average_ranks` as a figure: the best bold and dark, the second with a dagger and pale.

    `without` are columns that are not drawn, such as those that are the same in all rows.
    """
    drawn = table.drop(columns=list(without))
    figure = plots.results_table(drawn, title=title, note=note)
    place, cells = list(drawn.columns).index("auroc" if "auroc" in table else "rank"), figure.data[0].cells
    forms = {1: "<b>{}</b>", 2: "{}†", 0: "{}"}
    fills, texts = [list(column) for column in cells.fill.color], [list(column) for column in cells["values"]]
    for row, mark in enumerate(standing(table)):
        texts[place][row] = forms[mark].format(texts[place][row])
        fills[place][row] = SHADES.get(mark, fills[place][row])
    figure.update_traces(cells=dict(values=texts, fill_color=fills))
    return figure
