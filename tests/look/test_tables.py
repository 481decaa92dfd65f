"""Tables: what is bold, missing, escaped; and their Markdown."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from clad_lib.look.tables import results_table

FRAME = pd.DataFrame(
    {
        "method": ["CLAD <x> & co", "OCSVM", "SVDD"],
        "AUROC": [0.9512, 0.9507, 0.61],
        "FPR": [np.nan, 0.3, 0.25],
        "images": [3, 12000, 7],
    }
)
BEST = pd.DataFrame({"AUROC": [True, True, False]})


class Reader(HTMLParser):
    """The cells of a table as text, and which of them are bold."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.bold, self.open, self.caption = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.bold.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.bold[-1].append(False)

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        if "caption" in self.open:
            self.caption += data
        elif {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data
            self.bold[-1][-1] |= "b" in self.open


def read(table):
    return Reader(table.to_html().replace("<br>", " "))


def test_cells_by_hand():
    found = read(results_table(FRAME, caption="Here & there", note="A note."))
    assert found.caption == "Here & there A note."
    assert found.rows == [
        ["method", "AUROC", "FPR", "images"],
        ["CLAD <x> & co", "0.951", "–", "3"],
        ["OCSVM", "0.951", "0.300", "12,000"],
        ["SVDD", "0.610", "0.250", "7"],
    ]


def test_all_that_cannot_be_told_from_the_best_are_bold():
    found = read(results_table(FRAME, caption="t", best=BEST))
    assert [row[1] for row in found.rows] == ["AUROC", "0.951", "0.951", "0.610"]
    assert found.bold[1:] == [[False, bold, False, False] for bold in (True, True, False)]
    assert not any(map(any, read(results_table(FRAME, caption="t")).bold[1:]))


def test_a_named_index_is_a_column_and_a_plain_one_is_not():
    named = FRAME.set_index("method")
    best = BEST.set_index(named.index)
    found = read(results_table(named, caption="t", best=best))
    assert found.rows[1][:2] == ["CLAD <x> & co", "0.951"]
    assert found.bold[2] == [False, True, False, False]
    assert read(results_table(FRAME.iloc[::-1], caption="t")).rows[1][0] == "SVDD"


def test_rows_in_another_order_keep_their_marks():
    turned = FRAME.iloc[[2, 0, 1]]
    found = read(results_table(turned, caption="t", best=BEST.iloc[[2, 0, 1]]))
    assert [row[1] for row in found.bold[1:]] == [False, True, True]


def test_nullable_numbers_and_truths():
    frame = pd.DataFrame({"rank": pd.array([1, None], dtype="Int64"), "ahead": [True, False]})
    assert read(results_table(frame, caption="t")).rows[1:] == [["1", "True"], ["–", "False"]]


def test_unknown_columns_are_refused():
    with pytest.raises(KeyError, match="AUPR"):
        results_table(FRAME, caption="t", best=BEST.rename(columns={"AUROC": "AUPR"}))


def test_markdown_has_as_many_cells_in_every_line():
    text = repr(results_table(FRAME, caption="t", best=BEST, decimals=2))
    lines = text.splitlines()
    assert lines[0] == "| method | AUROC | FPR | images |"
    assert lines[1] == "| --- | --- | --- | --- |"
    assert lines[3] == "| OCSVM | <b>0.95</b> | 0.30 | 12,000 |"
    assert {line.count("|") for line in lines} == {5}


def test_a_notebook_stores_the_same_bytes_every_time():
    tables = [results_table(FRAME, caption="t") for _ in range(2)]
    assert tables[0].to_html() == tables[1].to_html()
    assert repr(tables[0]) == repr(tables[1]) == str(tables[0])
    other = results_table(FRAME, caption="another")
    ids = [re.search('table id="([^"]+)"', each.to_html())[1] for each in (tables[0], other)]
    assert ids[0] != ids[1]
    assert tables[0]._repr_html_() == tables[0].to_html()
