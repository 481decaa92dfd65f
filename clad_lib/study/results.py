"""Finished runs as one table, open to SQL; the committed measurements; the paper's."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from clad_lib.config import Config, make_config
from clad_lib.study.store import RECORD

KEY = ("dataset", "scenario", "method", "profile", "settings", "protocol", "seed")  # one run
MEASURED: tuple[str, ...] = ("auroc", "auroc_low", "auroc_high", "unit", "auroc_without_copies")
MEASURED += ("aupr_anomaly", "aupr_normal", "fpr95", "f1", "false_alarm_rate", "alpha", "guarantee")
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


def collect_some(runs: str | Path) -> pd.DataFrame:
    """`collect`; ValueError says how to start where there is no finished run."""
    frame = collect(runs)
    if frame.empty:
        raise ValueError(
            f"no finished run in {runs}: `clad study` makes one, or name a folder with --runs"
        )
    return frame


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
    plain = plain_config(config["dataset"], config["scenario"], config["profile"])
    values = record["settings"] | {name: config.get(name) for name in ("split", "size")}
    differ = {name: value for name, value in values.items() if getattr(plain, name, value) != value}
    return ", ".join(f"{name}={value}" for name, value in sorted(differ.items()))


@cache
def plain_config(dataset: str, scenario: str, profile: str) -> Config:
    """The configuration that a profile gives a scenario, with nothing else changed."""
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
