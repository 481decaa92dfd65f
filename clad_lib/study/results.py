"""Finished runs as one table: open to SQL, averaged over seeds, tested, beside the paper."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from clad_lib.config import Config, datasets, make_config
from clad_lib.judge import metrics
from clad_lib.study.stages import rows
from clad_lib.study.store import RECORD

KEY = ("dataset", "scenario", "method", "profile", "settings", "protocol", "seed")  # one run
GROUP = ["dataset", "scenario", "profile", "settings"]  # methods are compared within one of these
MEASURED = ("auroc", "auroc_low", "auroc_high", "unit", "auroc_without_copies", "aupr_anomaly")
MEASURED += ("aupr_normal", "fpr95", "f1", "false_alarm_rate", "alpha", "guarantee")
MADE = ("seconds", "peak_memory_mb", "train", "test", "threads", "precision", "device", "data")
COLUMNS = (*KEY, *MEASURED, *MADE, "source", "commit", "machine", "folder")
SCORES = (*KEY, "split", "index", "track", "hidden_class", "anomaly", "score")


def collect(runs: str | Path) -> pd.DataFrame:
    """One row for each finished method and seed under `runs`, with the columns COLUMNS.

    Where several folders hold the same run, as after a change of a row's version, the one written
    last counts. A folder that cannot be read is left out. Empty when there is none.
    """
    paths = sorted(Path(runs).glob("*/*/*/seed*/metrics.json"), key=_written)
    found = [each for each in map(_one_run, paths) if each]
    frame = pd.DataFrame(found, columns=list(COLUMNS))
    return frame.drop_duplicates(list(KEY), keep="last").sort_values("folder", ignore_index=True)


def _written(path: Path) -> float:
    try:
        return path.with_name(RECORD).stat().st_mtime
    except OSError:
        return 0.0  # a folder that another process is just replacing


def _one_run(path: Path) -> dict[str, Any] | None:
    try:
        measured = json.loads(path.read_text(encoding="utf-8"))
        record = json.loads(path.with_name(RECORD).read_text(encoding="utf-8"))
        config, machine = record["config"], record["machine"]
        known = {name: config[name] for name in ("dataset", "scenario", "profile", "seed")}
        known |= {"method": record["stage"], "settings": _settings(record)}
        known |= {"machine": f"{machine['cpu']}, {machine['cores']} cores, GPU {machine['gpu']}"}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # another program's file, or a folder that another process is just replacing
    measured |= {name: measured.get("threshold", {}).get(name) for name in ("alpha", "guarantee")}
    measured["false_alarm_rate"] = (measured.get("confusion") or {}).get("false_alarm_rate")
    known |= {name: measured.get("images", {}).get(name) for name in ("train", "test")}
    return record | measured | known | {"folder": str(path.parent)}


def _settings(record: dict[str, Any]) -> str:
    """What a result depends on and its profile would not have set, as `clusters=4, latent=20`."""
    config = record["config"]
    plain = _plain(config["dataset"], config["scenario"], config["profile"])
    values = record["settings"] | {name: config.get(name) for name in ("split", "size")}
    differ = {name: value for name, value in values.items() if getattr(plain, name, value) != value}
    return ", ".join(f"{name}={value}" for name, value in sorted(differ.items()))


@cache
def _plain(dataset: str, scenario: str, profile: str) -> Config:
    return make_config(dataset, scenario, profile=profile)


def query(frame: pd.DataFrame, sql: str) -> pd.DataFrame:
    """DuckDB's answer to a question about two views: `results`, and `scores`, one row an image.

    `scores` has the columns SCORES; DuckDB reads its Parquet files itself, and only for SQL that
    names it. Raises ValueError for wrong SQL, with the columns of both views.
    """
    import duckdb

    connection = duckdb.connect()
    connection.register("results", frame)
    try:
        if re.search(r"\bscores\b", sql, re.IGNORECASE):
            _create_scores(connection, frame)
        return connection.execute(sql).df()
    except duckdb.Error as error:
        views = f"results({', '.join(frame.columns)}) and scores({', '.join(SCORES)})"
        raise ValueError(
            f"SQL failed ({str(error).splitlines()[0]}): the views are {views}"
        ) from error


def _create_scores(connection: Any, frame: pd.DataFrame) -> None:
    files = [f"{folder}/scores.parquet" for folder in frame.folder.dropna()]
    literal = [re.sub(r"([\[*?])", r"[\1]", file) for file in files if Path(file).is_file()]
    if not literal:
        raise ValueError("no scores are kept here: the view `scores` needs runs under --runs")
    connection.read_parquet(literal, filename=True, union_by_name=True).create_view("score_files")
    connection.execute(
        f"CREATE VIEW scores AS SELECT {', '.join(SCORES)} FROM score_files "
        "JOIN results ON score_files.filename = results.folder || '/scores.parquet'"
    )


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a scenario, profile, settings, method and protocol: the mean over seeds.

    Columns besides: seeds; auroc and spread, mean and sample deviation over seeds; low and high,
    95 % bounds of the mean over seeds and over test images or tracks: the half width is
    sqrt((1.96 s_image)^2 + (t s_seed / sqrt(S))^2) with s_image from the bootstrap of each run and
    t of S - 1 degrees, without the second term for one seed; paper, the published value; ahead,
    whether low lies above it; rank among the methods that used no test label; seconds.
    """
    keys = [*GROUP, "method", "protocol"]
    known = frame[frame.auroc.notna()].assign(settings=frame.settings.fillna(""))
    known = known.assign(image=(known.auroc_high - known.auroc_low) / (2 * 1.96))
    table = known.groupby(keys, sort=False).agg(
        seeds=("seed", "nunique"),
        auroc=("auroc", "mean"),
        spread=("auroc", "std"),
        image=("image", lambda each: np.sqrt((each**2).mean())),
        fpr95=("fpr95", "mean"),
        seconds=("seconds", "mean"),
    )
    table = table.reset_index()
    student = stats.t.ppf(0.975, np.maximum(table.seeds - 1, 1)) / np.sqrt(table.seeds)
    half = np.hypot(1.96 * table.image, (student * table.spread).fillna(0))
    table = table.assign(low=(table.auroc - half).clip(0), high=(table.auroc + half).clip(upper=1))
    table["paper"] = _paper_of(table)
    table["ahead"] = table.low > table.paper
    clean = table[table.protocol == "clean"].auroc.round(9)
    ranks = clean.groupby([table[key] for key in GROUP]).rank(ascending=False, method="min")
    table["rank"] = ranks.reindex(table.index).astype("Int64")
    order = {name: place for place, name in enumerate(scenario_order())}
    place = [
        order.get(pair, len(order)) for pair in zip(table.dataset, table.scenario, strict=True)
    ]
    table = table.assign(place=place).drop(columns="image")
    return (
        table.sort_values(["place", *GROUP, "auroc"], ascending=[True] * 5 + [False])
        .drop(columns="place")
        .reset_index(drop=True)
    )


def _paper_of(table: pd.DataFrame) -> np.ndarray:
    names = {name: each.paper or name for name, each in rows().items()}
    named = table[["dataset", "scenario"]].assign(
        method=table.method.map(lambda m: names.get(m, m))
    )
    return named.merge(paper_results(), how="left").paper.to_numpy()


def scenario_order() -> list[tuple[str, str]]:
    """All named scenarios and single classes in the order of the tables."""
    facts = datasets()
    named = [(name, scenario) for name in facts for scenario in facts[name].get("scenarios", {})]
    counts = [(name, str(label)) for name in facts for label in range(len(facts[name]["classes"]))]
    return named + counts


def comparisons(frame: pd.DataFrame, *, resamples: int = 500) -> pd.DataFrame:
    """The best clean method of each scenario against each other one, by a paired test.

    A bootstrap paired on seeds and on test images, or tracks where there are any, over the seeds
    that both have; p is corrected by Holm's method for the number of rivals. Columns: GROUP, best,
    method, seeds, difference, low, high, p. Runs whose score files are gone are left out.
    """
    clean = frame[(frame.protocol == "clean") & frame.auroc.notna() & frame.folder.notna()]
    found = []
    for group, runs in clean.groupby(GROUP, sort=False):
        means = runs.groupby("method").auroc.mean().sort_values(ascending=False)
        best, *rivals = means.index
        pairs = [_compare(runs, str(best), str(rival), resamples) for rival in rivals]
        kept = [(rival, *pair) for rival, pair in zip(rivals, pairs, strict=True) if pair]
        corrected = metrics.holm([pair[-1] for pair in kept]) if kept else []
        for (rival, seeds, difference, low, high, _), p in zip(kept, corrected, strict=True):
            found.append((*group, best, rival, seeds, difference, low, high, float(p)))
    names = [*GROUP, "best", "method", "seeds", "difference", "low", "high", "p"]
    return pd.DataFrame(found, columns=names)


def _compare(runs: pd.DataFrame, best: str, rival: str, resamples: int) -> tuple | None:
    parts = [runs[runs.method == name].set_index("seed").sort_index() for name in (best, rival)]
    shared = parts[0].index.intersection(parts[1].index)
    tables = [[_test_scores(folder) for folder in part.folder.loc[shared]] for part in parts]
    flat = [table for each in tables for table in each]
    if not flat or any(table is None or len(table) != len(flat[0]) for table in flat):
        return None
    one, other = (np.stack([table["score"].to_numpy() for table in each]) for each in tables)
    anomaly, track = flat[0]["anomaly"].to_numpy(), flat[0]["track"].to_numpy()
    units = track if len(np.unique(track)) < len(track) else None
    pair = metrics.paired_comparison(one, other, anomaly, resamples=resamples, seed=0, units=units)
    return len(shared), pair.difference, pair.low, pair.high, pair.p_value


def _test_scores(folder: str) -> pd.DataFrame | None:
    path = Path(folder) / "scores.parquet"
    if not path.is_file():
        return None
    table = pd.read_parquet(path, columns=["split", "index", "track", "anomaly", "score"])
    return table[table.split == "test"].sort_values("index")


def average_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """method, rank and scenarios: mean rank over the scenarios in which all these methods stand."""
    plain = table[table["rank"].notna() & (table.settings == "")]
    wide = plain.pivot_table(index=GROUP[:3], columns="method", values="auroc", aggfunc="first")
    ranks = wide.dropna().rank(axis=1, ascending=False).mean().sort_values()
    return pd.DataFrame({"method": ranks.index, "rank": ranks, "scenarios": len(wide.dropna())})


def sweep(frame: pd.DataFrame, dataset: str, setting: str, *, method: str = "ODIN") -> pd.DataFrame:
    """Figure 3's table: `summary` of a method at each value of one setting, varied alone.

    Runs count in which nothing but that setting differs from the profile `fast`, and the plain
    profile at its own value; scenarios with a single value are left out. Column `value` is added.
    """
    table = summary(frame[(frame.dataset == dataset) & (frame.method == method)])
    table = table[table.profile == "fast"]
    other = table.settings.str.extract(rf"^{re.escape(setting)}=([^, ]+)$")[0]
    plain = [getattr(_plain(dataset, name, "fast"), setting) for name in table.scenario]
    value = pd.to_numeric(other, errors="coerce").where(table.settings != "", plain)
    table = table.assign(value=value).dropna(subset="value")
    many = table.groupby("scenario").value.transform("nunique") > 1
    return table[many].sort_values(["scenario", "value"], ignore_index=True)


def project_file(name: str) -> Path:
    """A file of results/: in the installed package, or in the checkout beside it."""
    package = Path(__file__).resolve().parents[1]
    places: Sequence[Path] = (package / "results", package.parent / "results")
    return next((place / name for place in places if (place / name).is_file()), places[1] / name)


def committed(name: str = "measured.csv") -> pd.DataFrame:
    """The measurements that come with the project: measured.csv or comparisons.csv."""
    table = pd.read_csv(project_file(name), dtype={"scenario": str, "settings": str})
    return table.fillna({"settings": ""})


@cache
def paper_results() -> pd.DataFrame:
    """The paper's AUROC in [0, 1], tables 1 to 4: dataset, scenario, method, paper."""
    table = pd.read_csv(project_file("paper.csv"), dtype={"normal": str})
    table = table.rename(columns={"normal": "scenario"}).assign(paper=table.auroc / 100)
    return table[["dataset", "scenario", "method", "paper"]]
