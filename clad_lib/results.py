"""All runs under a folder as one table, open to SQL, summarised over seeds and set beside the paper's figures."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import duckdb
import pandas as pd

from clad_lib.config import Config, make_config

COLUMNS = (
    "dataset", "scenario", "method", "profile", "settings", "protocol", "seed", "auroc", "auroc_low", "auroc_high",
    "aupr_anomaly", "aupr_normal", "fpr95", "f1", "false_alarm_rate", "alpha", "guarantee", "seconds",
    "peak_memory_mb", "train", "test", "commit", "machine", "folder",
)  # fmt: skip
KEY = ("dataset", "scenario", "method", "profile", "settings", "protocol", "seed")  # one row of a table is one of these
SCORE_COLUMNS = (*KEY, "split", "index", "hidden_class", "anomaly", "score")


def collect(runs: str | Path) -> pd.DataFrame:
    """One row for each finished method and seed under `runs`, with the columns COLUMNS; empty when there is none.

    Where several folders hold the same run, as after a change of a stage's version, the one written last counts.
    """
    paths = sorted(Path(runs).glob("*/*/*/seed*/metrics.json"), key=_written)
    frame = pd.DataFrame([row for row in map(_row, paths) if row], columns=list(COLUMNS))
    return frame.drop_duplicates(list(KEY), keep="last").sort_values("folder", ignore_index=True)


def _written(path: Path) -> float:
    try:
        return path.with_name("config.json").stat().st_mtime
    except OSError:
        return 0.0  # a folder that another process is just replacing


def _row(path: Path) -> dict | None:
    try:
        metrics, record = json.loads(path.read_text()), json.loads(path.with_name("config.json").read_text())
    except (OSError, ValueError):
        return None  # a folder that another process is just replacing
    config = record["config"]
    known = {name: config[name] for name in ("dataset", "scenario", "profile", "seed")}
    images = metrics.get("images", {})
    metrics |= {name: metrics.get("threshold", {}).get(name) for name in ("alpha", "guarantee")}
    metrics["false_alarm_rate"] = (metrics.get("confusion") or {}).get("false_alarm_rate")
    machine = record["machine"]
    return known | {name: metrics.get(name) for name in COLUMNS if name in metrics} | {
        "protocol": record.get("protocol", config["protocol"]), "method": record["stage"], "settings": _settings(record),
        "seconds": record["seconds"], "commit": record["commit"],
        "machine": f"{machine['cpu']}, {machine['cores']} cores, GPU {machine['gpu']}",
        "train": images.get("train"), "test": images.get("test"), "folder": str(path.parent),
    }  # fmt: skip


def _settings(record: dict) -> str:
    """What a result depends on and its profile would not have set: `clusters=4, latent=20`; empty for the plain profile."""
    config = record["config"]
    plain = _plain_config(config["dataset"], config["scenario"], config["profile"])
    differ = {name: value for name, value in record["settings"].items() if getattr(plain, name, value) != value}
    return ", ".join(f"{name}={value}" for name, value in sorted(differ.items()))


@cache
def _plain_config(dataset: str, scenario: str, profile: str) -> Config:
    return make_config(dataset, scenario, profile=profile)


def query(frame: pd.DataFrame, sql: str) -> pd.DataFrame:
    """DuckDB's answer to a question about two views: `results`, the table, and `scores`, its runs' scores.parquet.

    `scores` has one row an image of the calibration and test splits of each run, with the columns SCORE_COLUMNS; DuckDB
    reads the files themselves, and only for SQL that names the view. ValueError for wrong SQL names the columns of both.
    """
    connection = duckdb.connect()
    connection.register("results", frame)
    try:
        if re.search(r"\bscores\b", sql, re.IGNORECASE):
            _create_scores(connection, frame)
        return connection.execute(sql).df()
    except duckdb.Error as error:
        views = f"results({', '.join(frame.columns)}) and scores({', '.join(SCORE_COLUMNS)})"
        raise ValueError(f"SQL failed ({str(error).splitlines()[0]}): the views are {views}") from error


def _create_scores(connection: duckdb.DuckDBPyConnection, frame: pd.DataFrame) -> None:
    folders = frame["folder"].dropna() if "folder" in frame else []
    files = [f"{folder}/scores.parquet" for folder in folders if Path(folder, "scores.parquet").is_file()]
    if not files:
        empty = "'' AS split, 0 AS index, 0 AS hidden_class, false AS anomaly, 0.0 AS score"
        connection.execute(f"CREATE VIEW scores AS SELECT {', '.join(KEY)}, {empty} FROM results WHERE false")
        return
    literal = [re.sub(r"([\[*?])", r"[\1]", file) for file in files]  # DuckDB would read these marks as patterns
    connection.read_parquet(literal, filename=True, union_by_name=True).create_view("score_files")
    connection.execute(f"""
        CREATE VIEW scores AS SELECT {", ".join(SCORE_COLUMNS)}
        FROM score_files JOIN results ON score_files.filename = results.folder || '/scores.parquet'""")


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds for each scenario, method, profile, other settings and protocol."""
    return query(frame, """
        SELECT dataset, scenario, method, profile, settings, protocol, count(DISTINCT seed) AS seeds, avg(auroc) AS auroc,
               stddev_samp(auroc) AS spread, avg(aupr_anomaly) AS aupr, avg(fpr95) AS fpr95, avg(seconds) AS seconds
        FROM results GROUP BY ALL ORDER BY dataset, scenario, profile, settings, auroc DESC""")  # fmt: skip


def committed() -> pd.DataFrame:
    """The measurements that come with the project, results/measured.csv: a command and the columns COLUMNS but folder."""
    return pd.read_csv(_project_file("measured.csv"), dtype={"scenario": str, "settings": str}).fillna({"settings": ""})


def _project_file(name: str) -> Path:
    return Path(__file__).resolve().parents[1] / "results" / name


def wide(frame: pd.DataFrame, *, profile: str = "fast") -> pd.DataFrame:
    """AUROC in percent, one row a method and one column a scenario: mean, and sample deviation where seeds are several.

    Only runs with nothing but the profile's settings count. The best mean is marked with an asterisk; Oracle never is.
    """
    means = _plain(frame, profile)
    spread = means.spread.map(lambda value: "" if pd.isna(value) else f"±{100 * value:.1f}")
    place = means.dataset + " " + means.scenario
    best = means[means.protocol == "clean"].groupby(place).auroc.transform("max").reindex(means.index) == means.auroc
    means["cell"] = (100 * means.auroc).map("{:.1f}".format) + spread + best.map({True: "*", False: ""})
    table = means.assign(place=place).pivot_table(index="method", columns="place", values="cell", aggfunc="first", sort=False)
    return table.rename_axis(None, axis=1).reset_index()


def _plain(frame: pd.DataFrame, profile: str) -> pd.DataFrame:
    return summary(frame[(frame.profile == profile) & (frame.settings.fillna("") == "")])


def paper_results() -> pd.DataFrame:
    """The paper's AUROC, in [0, 1]: columns dataset, scenario, method, paper (tables 1 to 4)."""
    table = pd.read_csv(_project_file("paper.csv"), dtype={"normal": str}).rename(columns={"normal": "scenario"})
    return table.assign(paper=table.auroc / 100)[["dataset", "scenario", "method", "paper"]]


def beside_paper(frame: pd.DataFrame, *, profile: str = "fast") -> pd.DataFrame:
    """Columns scenario, method, auroc, low, high, paper for one profile; CLAD stands for our ODIN."""
    means = _plain(frame, profile)
    means["method"] = means.method.replace({"ODIN": "CLAD", "MSP": "CLAD, MSP score"})
    first = ["CLAD", "CLAD, MSP score", "OCSVM", "OCNN", "OCCNN", "SVDD", "DeepSVDD"]
    place = means.method.map({name: number for number, name in enumerate(first)}).fillna(len(first))
    means = means.assign(place=place).sort_values(["dataset", "scenario", "place"])
    joined = means.merge(paper_results(), how="left", on=["dataset", "scenario", "method"])
    spread = joined.spread.fillna(0)
    return pd.DataFrame({
        "scenario": joined.dataset + " " + joined.scenario, "method": joined.method, "auroc": joined.auroc,
        "low": joined.auroc - spread, "high": joined.auroc + spread, "paper": joined.paper,
    })  # fmt: skip
