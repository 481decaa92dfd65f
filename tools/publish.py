"""What maintainers publish: finished runs kept in results/, and the tables of results/README.md.

python tools/publish.py keep --runs runs --note "OMP_NUM_THREADS=1"
python tools/publish.py seconds --runs runs
python tools/publish.py tables
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from clad_lib.config import datasets
from clad_lib.study import results, tables
from clad_lib.study.measure import compare
from clad_lib.study.stages import ONE, needed, rows
from clad_lib.study.store import RECORD, read_json, write_atomically

RESULTS = Path(__file__).resolve().parents[1] / "results"
KEPT = ("command", *(name for name in results.COLUMNS if name != "folder"))
FIRST = ("CLAD", "OCSVM", "OCNN", "OCCNN", "SVDD", "DeepSVDD")  # the paper's columns
BEYOND = ("ODIN", "NearestImage", "PixelLOF", "Selected", "Patches", "Rotation", "Fused")
BEYOND += ("Contrastive", "FusedPhotographs", "Pretrained")
SCORES = ("ODIN", *("MSP", "MaxLogit", "Energy", "KNN", "Mahalanobis", "RelativeMahalanobis"))
SCORES += ("ViM", "RankAverage", "Selected", "Oracle")
JOINED, JOIN = ["Fused", "FusedPhotographs"], 1.0  # seconds
TAKEN = ("dataset", "scenario", "profile", "seed", "stage", "seconds", "threads", "commit")

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def keep(
    runs: Path = Path("runs"),
    note: Annotated[str, typer.Option(help="what else the command needs")] = "",
    into: Path = RESULTS,
) -> None:
    """Merge finished runs of committed code into measured, comparisons and verdicts.csv."""
    frame = results.collect_some(runs)
    reasons = frame.apply(why_not, axis=1)
    for reason in sorted(set(reasons) - {""}):
        typer.echo(f"{int((reasons == reason).sum())} rows not kept: {reason}", err=True)
    frame = frame[reasons == ""]
    fresh = frame.assign(command=[command(row, note) for _, row in frame.iterrows()])[list(KEPT)]
    merge(into / "measured.csv", fresh, list(results.KEY))
    compared = tables.comparisons(frame[frame.scenario.str.isupper()])  # of single classes none
    merge(into / "comparisons.csv", compared, [*tables.GROUP, "method"], replace=tables.GROUP)
    told = verdicts(frame)
    merge(into / "verdicts.csv", told, [*tables.GROUP, "seed"])
    typer.echo(f"{len(fresh)} rows kept, {len(compared)} comparisons, {len(told)} verdicts")


@app.command()
def seconds(runs: Path = Path("runs"), into: Path = RESULTS) -> None:
    """Merge the seconds of every stage and method, with a profile's settings, into seconds.csv."""
    files = sorted(runs.rglob(RECORD), key=lambda path: path.stat().st_mtime)
    records = [read_json(path) for path in files]
    timed = [each for each in records if each.get("seconds") and "-dirty" not in each["commit"]]
    made = [each for each in timed if not results.unusual(each)]
    found = [
        {name: each["config"][name] for name in TAKEN[:4]}
        | {name: each[name] for name in TAKEN[4:]}
        | {"machine": each["machine"]["cpu"]}
        for each in made
    ]
    merge(into / "seconds.csv", pd.DataFrame(found), list(TAKEN[:5]))
    typer.echo(f"{len(found)} rows kept")


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """Selected against the best one-boundary method of each run: the test that `clad study` prints.

    p is corrected for the number of one-boundary methods, since the best of them is taken.
    """
    found = []
    clean = frame[(frame.protocol == "clean") & frame.auroc.notna()]
    for run, known in clean.groupby([*tables.GROUP, "seed"], sort=False):
        table = known.drop_duplicates("method", keep="last").set_index("method")
        rivals = [name for name in table.index if rows()[name].block == ONE]
        if "Selected" not in table.index or not rivals:
            continue
        pair = ["Selected", table.auroc[rivals].idxmax()]
        one, other = map(tables.test_scores, table.folder[pair])
        truth = one.anomaly.to_numpy(), one.track.to_numpy()
        told = compare(one.score.to_numpy(), other.score.to_numpy(), *truth)
        p = min(1.0, told.p_value * len(rivals))
        found.append((*run, *pair, len(rivals), *told[:3], p))
    names = ["seed", "method", "rival", "rivals", "difference", "low", "high", "p"]
    return pd.DataFrame(found, columns=[*tables.GROUP, *names])


def why_not(row: pd.Series) -> str:
    """Why a run is left out; empty when it is kept."""
    if row.dataset not in datasets():
        return "its data set is a folder, which no other machine has"
    if row.profile == "smoke":
        return "its profile is smoke: read no number of it"
    if not re.fullmatch("[0-9a-f]{7,40}", str(row.commit)):
        return f"its commit is {row.commit!r}, expected a clean one"
    return "it has no AUROC" if pd.isna(row.auroc) else ""


def command(row: pd.Series, note: str = "") -> str:
    """The line that makes a row again, and the note in brackets."""
    parts = ["clad run --dataset", row.dataset, "--scenario", shlex.quote(row.scenario)]
    parts += ["--seed", str(row.seed), "--methods", row.method]
    if row.profile != "fast":  # the default
        parts += ["--profile", row.profile]
    for setting in filter(None, row.settings.split(", ")):
        parts += ["--set", shlex.quote(setting)]
    return " ".join(parts) + (f" ({note})" if note else "")


def merge(
    path: Path, fresh: pd.DataFrame, key: list[str], *, replace: list[str] | None = None
) -> None:
    """Put rows into a CSV file in place of those with the same `replace`, or else `key`."""
    fresh = fresh.round(4).drop_duplicates(key, keep="last")
    if path.is_file():
        old = pd.read_csv(path, dtype={"scenario": str, "settings": str}).fillna({"settings": ""})
        if list(old.columns) == list(fresh.columns):
            by = replace or key
            known = pd.MultiIndex.from_frame(old[by].astype(str))
            gone = known.isin(pd.MultiIndex.from_frame(fresh[by].astype(str)))
            fresh = pd.concat([old[~gone], fresh]) if (~gone).any() else fresh
    fresh = fresh.sort_values(key, kind="stable")
    write_atomically(path, fresh.to_csv(index=False, lineterminator="\n"))


@app.command()
def drop(
    commit: Annotated[str, typer.Option(help="rows measured at this commit go")],
    into: Path = RESULTS,
) -> None:
    """Remove the rows of a commit that the code would no longer give."""
    path = into / "measured.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    kept = table[~table.commit.str.startswith(commit)]
    write_atomically(path, kept.to_csv(index=False, lineterminator="\n"))
    typer.echo(f"{len(table) - len(kept)} rows removed, {len(kept)} left")


@app.command("tables")
def publish_tables(page: Path = RESULTS / "README.md", into: Path = RESULTS) -> None:
    """Write the tables between their marks in results/README.md, from the CSV files alone."""
    text = page.read_text(encoding="utf-8")
    for mark, made in made_tables(into).items():
        start, end = f"<!-- {mark} -->\n", "\n<!-- end -->"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            sys.exit(f"{page} has no {start.strip()} ... {end.strip()}: expected the marks")
        text = before + found + made + end + after
    write_atomically(page, text)


def made_tables(folder: Path = RESULTS) -> dict[str, str]:
    """mark -> Markdown table: beyond the paper, its methods, CLAD's scores, single classes, and
    CLAD's scores after the published training."""
    frame = pd.read_csv(folder / "measured.csv", dtype={"scenario": str, "settings": str})
    plain = frame[frame.settings.fillna("") == ""]
    table, published = (tables.summary(plain[plain.profile == name]) for name in ("fast", "paper"))
    path = folder / "comparisons.csv"
    nothing = tables.comparisons(frame.iloc[:0].assign(folder=""))
    pairs = pd.read_csv(path, dtype={"scenario": str}) if path.is_file() else nothing
    pairs = pairs[pairs.profile == "fast"]
    best = cannot_be_told(table, pairs)
    groups = table[table.scenario.str.isupper()], table[~table.scenario.str.isupper()]
    paper = ["ODIN", *FIRST[1:]]
    return {
        "beyond": markdown(groups[0], BEYOND, best, paper_best=True),
        "methods": markdown(groups[0], paper, best, paper=True),
        "scores": markdown(groups[0], SCORES, best),
        "single": markdown(groups[1], [*paper, *BEYOND[1:]], set(), paper=True, paper_best=True),
        "published": markdown(published, SCORES, set(), paper=True),
        "seconds": seconds_of(folder / "seconds.csv"),
        "gpu": speeds_on_gpu(folder / "gpu.jsonl"),
    }


def seconds_of(path: Path) -> str:
    """Markdown table of the seconds that all which a method needs takes: the median over seeds.

    To join scores takes less than JOIN; more was spent on fitting experts that are counted anyway.
    """
    table = pd.read_csv(path, dtype={"scenario": str}).query("profile == 'fast'")
    known = table.pivot(index=["dataset", "scenario", "seed"], columns="stage", values="seconds")
    known[JOINED] = known[JOINED].clip(upper=JOIN)
    sums = {
        name: known.reindex(columns=[need for need in needed([name]) if need != "copies"])
        .sum(axis=1, skipna=False)
        .groupby(level=[0, 1])
        .median()
        for name in BEYOND
    }
    lines = [["normal", *sums], ["---"] * (1 + len(sums))]
    for dataset, each in datasets().items():
        for scenario in each["scenarios"]:
            found = [every.get((dataset, scenario), float("nan")) for every in sums.values()]
            cells = ["–" if pd.isna(s) else f"{s:,.0f}" if s >= 1 else "< 1" for s in found]
            if {*cells} != {"–"}:
                lines.append([f"{dataset} {scenario}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def speeds_on_gpu(path: Path) -> str:
    """Markdown table of what benchmarks/gpu.py measured: what trains and scores how fast."""
    measured = pd.read_json(path, lines=True, dtype=False)
    ceiling = measured[measured.what == "matrix product, bfloat16"].flop_a_second.iloc[-1]
    lines = [["what", "images", "a second", "GFLOP an image", "share of the bfloat16 product"]]
    lines.append(["---"] * 5)
    for row in measured[measured.kind == "speed"].itertuples():
        rate, flop = row.images_a_second, row.flop_an_image
        share = f"{100 * rate * flop / ceiling:.2g} %"
        what = f"{row.what} ({row.dataset})"
        lines.append([what, f"{row.images:,.0f}", f"{rate:,.0f}", f"{flop / 1e9:.2g}", share])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cannot_be_told(table: pd.DataFrame, pairs: pd.DataFrame, level: float = 0.05) -> set[tuple]:
    """(data set, scenario, method) of the best clean method and all that cannot be told from it.

    `table` is `summary`'s for one profile, `pairs` is `comparisons`'. A rival without a comparison
    is not counted as equal.
    """
    best = table[table["rank"] == 1].drop_duplicates(tables.PLACE)
    close = pairs[(pairs.p >= level) & (pairs.settings.astype(object).fillna("") == "")]
    close = close.merge(best[[*tables.PLACE, "method"]].rename(columns={"method": "best"}))
    found = pd.concat([best, close])
    return set(found[[*tables.PLACE, "method"]].itertuples(index=False, name=None))


def markdown(
    table: pd.DataFrame,
    methods: list[str] | tuple[str, ...],
    best: set[tuple],
    *,
    paper: bool = False,
    paper_best: bool = False,
) -> str:
    """Scenarios by methods in percent: mean and deviation over seeds, bold for `best`.

    `paper` puts the published value of the same method in brackets, with an arrow where our whole
    95 % interval lies above it; `paper_best` adds the best published value as a column.
    """
    shown = [name for name in methods if name in set(table.method) and name in rows()]
    heads = ["normal", *["paper's best"] * paper_best, *shown]
    lines = [heads, ["---"] * len(heads)]
    published = results.paper_results()
    top = published.groupby(["dataset", "scenario"]).paper.max()
    for place, group in table.groupby(["dataset", "scenario"], sort=False):
        by_method = {row.method: row for row in group.itertuples()}
        if not set(shown) & set(by_method):
            continue
        cells = [f"{100 * top[place]:.1f}" if place in top.index else "–"] * paper_best
        reference = top.get(place) if paper_best else None
        cells += [_cell(by_method.get(name), place, best, paper, reference) for name in shown]
        lines.append([" ".join(place), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row, place: tuple, best: set[tuple], paper: bool, reference: float | None) -> str:
    if row is None:
        return "–"
    spread = "" if pd.isna(row.spread) else f" ± {100 * row.spread:.1f}"
    text = f"{100 * row.auroc:.1f}{spread}"
    text = f"**{text}**" if (*place, row.method) in best else text
    ahead = row.ahead if reference is None else row.low > reference
    text += " ▲" if ahead else ""
    return text + (f" ({100 * row.paper:.1f})" if paper and pd.notna(row.paper) else "")


if __name__ == "__main__":
    app()
