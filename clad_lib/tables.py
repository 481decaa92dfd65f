"""Ready tables over many runs: mean and spread, interval, the paper's figure, ranks, and whether the best is really better."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clad_lib import evaluation, results, sweeps
from clad_lib.marks import GROUP, LEGEND, marked, shaded

PAPER_NAME = {"ODIN": "CLAD"}
SIX = {"ODIN": "CLAD (ODIN)", "OCSVM": "OCSVM", "OCNN": "OCNN", "OCCNN": "OCCNN", "SVDD": "SVDD", "DeepSVDD": "DeepSVDD"}
SCORES = (
    "ODIN",
    "MSP",
    "MaxLogit",
    "Energy",
    "KNN",
    "Mahalanobis",
    "RelativeMahalanobis",
    "ViM",
    "RankAverage",
    "Selected",
    "Oracle",
)
NOTE = "Written by `make figures` from results/measured.csv."


def ready(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a scenario, method, profile, other settings and protocol; all AUROC in [0, 1].

    Columns besides: seeds; auroc and spread, mean and sample deviation over seeds; low and high, the bootstrap bounds
    over test images, averaged over seeds; paper and difference; rank among the protocol `clean`, 1 = best; p, of the
    best against the second: bootstrap paired on images and seeds where the scores are there, else a paired t-test
    over seeds, else missing.
    """
    table = results.query(frame, """
        SELECT dataset, scenario, profile, settings, method, protocol,
               count(DISTINCT seed) AS seeds, avg(auroc) AS auroc,
               stddev_samp(auroc) AS spread, avg(auroc_low) AS low, avg(auroc_high) AS high
        FROM results WHERE auroc IS NOT NULL GROUP BY ALL
        ORDER BY dataset, scenario, profile, settings, round(avg(results.auroc), 9) DESC, method""")  # fmt: skip
    named = table.assign(named=table.method.replace(PAPER_NAME))
    paper = results.paper_results().rename(columns={"method": "named"})
    table["paper"] = named.merge(paper, how="left", on=["dataset", "scenario", "named"]).paper.to_numpy()
    table["difference"] = table.auroc - table.paper
    clean = table[table.protocol == "clean"]
    rounded = clean.assign(auroc=clean.auroc.round(9))  # the same runs in another order are as good
    table["rank"] = rounded.groupby(GROUP).auroc.rank(ascending=False, method="min").reindex(table.index).astype("Int64")
    table["p"] = np.nan
    for _, rows in clean.groupby(GROUP):
        if len(rows) > 1:
            table.loc[rows.index[0], "p"] = p_value(frame, rows.iloc[0], rows.iloc[1])
    return table


def p_value(frame: pd.DataFrame, first: pd.Series, second: pd.Series) -> float:
    """Two-sided p of no difference between two rows of `ready`, over the seeds that both have; NaN without a basis."""
    keys = [*GROUP, "method", "protocol"]
    parts = [frame[(frame[keys] == row[keys]).all(axis=1)].set_index("seed").sort_index() for row in (first, second)]
    shared = parts[0].index.intersection(parts[1].index)
    one, other = (part.loc[shared] for part in parts)
    scored = [_scores(part) for part in (one, other)]
    if len(shared) and all(each is not None for each in scored):
        (a, truth), (b, _) = scored[0], scored[1]  # type: ignore[misc]
        return evaluation.paired_comparison(a, b, truth, resamples=500, seed=0).p_value
    if len(shared) > 1:
        return evaluation.paired_over_seeds(one.auroc, other.auroc).p_value
    return float("nan")


def _scores(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
    """Test scores (S, N) and anomaly (N,) of one method's runs; None where they are not there or not of the same images."""
    if "folder" not in part or part.folder.isna().any():
        return None
    paths = [Path(folder) / "scores.parquet" for folder in part.folder]
    if not all(path.is_file() for path in paths):
        return None
    tables = [pd.read_parquet(path).query("split == 'test'").sort_values("index") for path in paths]
    if any(not np.array_equal(each["index"], tables[0]["index"]) for each in tables):
        return None
    return np.stack([each["score"].to_numpy() for each in tables]), tables[0]["anomaly"].to_numpy()


def average_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """method, rank and scenarios: the mean rank over the scenarios of `ready`'s table in which all these methods were run."""
    plain = table[(table["rank"].notna()) & (table.settings == "")]
    wide = plain.pivot_table(index=["dataset", "scenario", "profile"], columns="method", values="rank", aggfunc="first").dropna()
    ranks = wide.rank(axis=1).mean()
    return pd.DataFrame({"method": ranks.index, "rank": ranks.to_numpy(), "scenarios": len(wide)}).sort_values(
        "rank", ignore_index=True
    )


def formatted(table: pd.DataFrame, form: str) -> str:
    """A table as `text`, `markdown` or `csv`; ValueError for another form."""
    if form == "csv":
        return table.to_csv(index=False)
    rounded = table.copy()
    for name in rounded.select_dtypes("float").columns:
        rounded[name] = rounded[name].map(lambda value: "–" if pd.isna(value) else f"{value:.3f}")
    if form == "text":
        return rounded.to_string(index=False)
    if form == "markdown":
        rows = [[str(cell).replace("|", "\\|") for cell in row] for row in rounded.itertuples(index=False)]
        return "\n".join(["| " + " | ".join(row) + " |" for row in [list(rounded.columns), ["---"] * rounded.shape[1], *rows]])
    raise ValueError(f"unknown format {form!r}: expected text, markdown or csv")


def methods_table(table: pd.DataFrame, profile: str = "fast") -> str:
    """The README's first table from `ready`'s: scenarios by the paper's six methods, percent, the paper's in brackets.

    The best clean one of each row is bold.
    """
    plain = table[(table.profile == profile) & (table.settings == "")]
    heads = "| normal | " + " | ".join(SIX.values()) + " |\n|" + "---|" * (len(SIX) + 1)
    return "\n".join([heads, *(f"| {_place(*place)} | " + " | ".join(_cell(rows, name, SIX, paper=True) for name in SIX) + " |"
                               for place, rows in _scenarios(plain))])  # fmt: skip


def scores_table(table: pd.DataFrame, profile: str = "fast") -> str:
    """The README's second table: scenarios by the scores of CLAD's classifier, percent.

    The best clean one of each row is bold: Oracle never is.
    """
    plain = table[(table.profile == profile) & (table.settings == "")]
    places = [(place, rows) for place, rows in _scenarios(plain) if {"ODIN", "ViM", "Oracle"} <= set(rows.method)]
    heads = "| normal | " + " | ".join(_spaced(name) for name in SCORES) + " |\n|" + "---|" * (len(SCORES) + 1)
    return "\n".join([heads, *(f"| {_place(*place)} | " + " | ".join(_cell(rows, name, SCORES) for name in SCORES) + " |"
                               for place, rows in places)])  # fmt: skip


def _spaced(name: str) -> str:
    """`RelativeMahalanobis` in two words, so that the head of a narrow column can break."""
    return re.sub(r"(?<=[a-z]{3})(?=[A-Z])", " ", name)


def _scenarios(plain: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Scenarios in the paper's order, single classes last."""
    order = pd.concat([pd.DataFrame({"dataset": "digits", "scenario": ["CUR", "STR", "MIX"]}), results.paper_results()])
    known = list(dict.fromkeys(zip(order.dataset, order.scenario, strict=True)))
    groups: dict[Any, pd.DataFrame] = dict(list(plain.groupby(["dataset", "scenario"])))
    chosen = [place for place in known if place in groups]
    return [(place, groups[place]) for place in sorted(chosen, key=lambda place: not place[1].isupper())]


def _place(dataset: str, scenario: str) -> str:
    return f"{dataset} {scenario}" + ("" if scenario.isupper() else " alone")


def _cell(rows: pd.DataFrame, method: str, rivals: Collection[str], *, paper: bool = False) -> str:
    """Percent, bold where it is the best clean one of at least two rivals in the scenario; in brackets the paper's."""
    found = rows[rows.method == method]
    if found.empty:
        return "–"
    row, clean = found.iloc[0], rows[rows.method.isin(rivals) & (rows.protocol == "clean")]
    spread = "" if pd.isna(row.spread) else f" ± {100 * row.spread:.1f}"
    text = f"{100 * row.auroc:.1f}{spread}"
    if len(clean) > 1 and row.protocol == "clean" and round(row.auroc, 9) == round(clean.auroc.max(), 9):
        text = f"**{text}**"
    return text + (f" ({100 * row.paper:.1f})" if paper and pd.notna(row.paper) else "")


def write_all(project: Path) -> list[Path]:
    """README's tables between their marks, figures/table_* and figures/figure3_*, from results/measured.csv alone."""
    frame = results.committed()
    table = ready(frame)
    readme = project / "README.md"
    text = readme.read_text()
    for mark, made in (("methods", methods_table(table)), ("scores", scores_table(table))):
        before, found, rest = text.partition(f"<!-- {mark} -->\n")
        _, end, after = rest.partition("\n<!-- end -->")
        if not found or not end:
            raise ValueError(f"{readme} has no <!-- {mark} --> ... <!-- end -->: expected the marks around the table")
        text = before + found + made + end + after
    readme.write_text(text)
    written = [readme]
    for name, part in (("table_scenarios", table), ("table_ranks", average_ranks(table[table.method.isin(SIX)]))):
        base = project / "figures" / name
        base.with_suffix(".csv").write_text(formatted(part, "csv"))
        base.with_suffix(".md").write_text(f"{formatted(marked(part), 'markdown')}\n\n{LEGEND}\n\n*{NOTE}*\n")
        figure = shaded(part, title=name.replace("_", " "), note=f"Bold, †: best, second best. {NOTE}")
        figure.write_html(base.with_suffix(".html"), include_plotlyjs="cdn")
        written += [base.with_suffix(suffix) for suffix in (".csv", ".md", ".html")]
    return written + sweeps.write_figures(frame, project / "figures", note=NOTE)
