"""What lies under a runs folder; its results as a table, open to SQL; the published ones."""

import re
from collections import ChainMap
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from clad_lib.config import Config, make_config
from clad_lib.study.stages import Places, rows
from clad_lib.study.store import RECORD, project_folder, read_json

KEY = ("dataset", "scenario", "method", "profile", "settings", "protocol", "seed")  # one run
AREAS = ("auroc", "auroc_low", "auroc_high", "unit", "auroc_without_copies")
RATES = ("aupr_anomaly", "aupr_normal", "fpr95", "f1", "false_alarm_rate", "alpha", "guarantee")
MADE = ("seconds", "peak_memory_mb", "train", "test", "threads", "precision", "device", "data")
COLUMNS = (*KEY, *AREAS, *RATES, *MADE, "source", "commit", "machine", "folder")
_plain = cache(make_config)  # the same few for thousands of runs
SCORES = (*KEY, "split", "index", "track", "hidden_class", "anomaly", "score")


def collect(runs: str | Path) -> pd.DataFrame:
    """One row for each finished method and seed under `runs`, with the columns COLUMNS.

    Where several folders hold the same run, as after a change of a row's version, the one written
    last counts. A folder that cannot be read is left out. Empty when there is none.
    """
    found = [each for each in map(_one_run, Path(runs).glob("*/*/*/seed*")) if each]
    frame = pd.DataFrame(found, columns=[*COLUMNS, "written"]).sort_values("written", kind="stable")
    frame = frame.drop_duplicates(list(KEY), keep="last").sort_values("folder", ignore_index=True)
    return frame.drop(columns="written")


def collect_some(runs: str | Path) -> pd.DataFrame:
    """`collect`; ValueError says how to start where there is no finished run."""
    if len(frame := collect(runs)):
        return frame
    cure = "`clad study` makes one, or name a folder with --runs"
    raise ValueError(f"no finished run in {runs}: {cure}")


def _one_run(folder: Path) -> dict[str, Any] | None:
    try:
        measured, record = read_json(folder / "metrics.json"), read_json(folder / RECORD)
        own = {
            "method": record["stage"],
            "settings": unusual(record),
            "folder": str(folder),
            "machine": "{cpu}, {cores} cores, GPU {gpu}".format(**record["machine"]),
            "written": (folder / RECORD).stat().st_mtime,
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a stage, or a folder that another process is just replacing
    inner = [measured.get(name) or {} for name in ("threshold", "images", "confusion")]
    return dict(ChainMap(own, record, record["config"], measured, *inner))


def unusual(record: dict[str, Any]) -> str:
    """What a result depends on and its profile would not have set, as `clusters=4, latent=20`."""
    config = record["config"]
    plain = _plain(config["dataset"], config["scenario"], profile=config["profile"])
    values = record["settings"] | {name: config.get(name) for name in ("split", "size")}
    differ = {name: value for name, value in values.items() if getattr(plain, name, value) != value}
    return ", ".join(f"{name}={value}" for name, value in sorted(differ.items()))


def contents(root: Path) -> pd.DataFrame:
    """One row an artefact: dataset, scenario, name, seed, megabytes, stale, folder.

    `stale` marks what no current row can find, since its hash, version or settings have changed,
    or because it was never finished.
    """
    found = []
    for folder in sorted(root.glob("*/*/*/seed*")):
        dataset, scenario, name, seed = folder.relative_to(root).parts
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        known = (dataset, scenario, name.rpartition("-")[0], seed.removeprefix("seed"))
        if not name.startswith("study-"):
            found.append((*known, round(size, 2), _is_stale(root, folder), folder))
    names = ["dataset", "scenario", "name", "seed", "megabytes", "stale", "folder"]
    return pd.DataFrame(found, columns=names)


def _is_stale(root: Path, folder: Path) -> bool:
    try:
        record = read_json(folder / RECORD)
        stage, known = record["stage"], {each.name for each in fields(Config)}
        config = Config(**{name: v for name, v in record["config"].items() if name in known})
        if stage in rows():
            return Places(root, config, record["data"]).path(stage) != folder
        return bool(record["settings"])  # without any they are one's own: `clad results --add`
    except (OSError, ValueError, KeyError, TypeError):
        return True


def query(frame: pd.DataFrame, sql: str) -> pd.DataFrame:
    """DuckDB's answer to a question about two views: `results`, and `scores`, one row an image.

    `scores` has the columns SCORES; DuckDB reads its Parquet files itself, and only for SQL that
    names it. Raises ValueError for wrong SQL, with the columns of both views.
    """
    connection = duckdb.connect()
    connection.register("results", frame)
    try:
        if re.search(r"\bscores\b", sql, re.IGNORECASE):
            paths = [Path(folder, "scores.parquet") for folder in frame.folder.dropna()]
            kept = [re.sub(r"([\[*?])", r"[\1]", str(path)) for path in paths if path.is_file()]
            if not kept:
                raise ValueError(
                    "no scores are kept here: the view `scores` needs runs under --runs"
                )
            files = connection.read_parquet(kept, filename=True, union_by_name=True)
            files.create_view("score_files")
            connection.execute(
                f"CREATE VIEW scores AS SELECT {', '.join(SCORES)} FROM score_files JOIN results "
                "ON parse_path(score_files.filename)[:-2] = parse_path(results.folder)"
            )
        return connection.execute(sql).df()
    except duckdb.Error as error:
        views = f"results({', '.join(frame.columns)}) and scores({', '.join(SCORES)})"
        first = str(error).partition("\n")[0]
        raise ValueError(f"SQL failed ({first}): the views are {views}") from error


def committed(name: str = "measured.csv") -> pd.DataFrame:
    """The measurements that come with the project, or another table of them."""
    path = project_folder("results") / name
    return pd.read_csv(path, dtype={"scenario": str, "settings": str}).fillna({"settings": ""})


@cache
def paper_results() -> pd.DataFrame:
    """The paper's AUROC in [0, 1], tables 1 to 4: dataset, scenario, method, paper."""
    table = pd.read_csv(project_folder("results") / "paper.csv", dtype={"normal": str})
    table = table.rename(columns={"normal": "scenario"}).assign(paper=table.auroc / 100)
    return table[["dataset", "scenario", "method", "paper"]]
