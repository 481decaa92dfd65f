"""Finished runs as MLflow runs, for those who keep their experiments there; MLflow is imported here alone, when asked for."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from clad_lib.environment import environment

PARAMS = ("dataset", "scenario", "method", "profile", "settings", "seed")
TAGS = ("protocol", "commit", "machine", "guarantee")
MARK = "clad.run"  # the tag by which an exported run is found again
# MLflow 3 asks for a database, which mlflow-skinny cannot open, unless told that a folder will do
ENVIRONMENT = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


class Exported(NamedTuple):
    """How many runs were logged now, and how many were there already."""

    logged: int
    known: int


def export(frame: pd.DataFrame, where: str, *, experiment: str = "clad") -> Exported:
    """Log each run of a results table to an MLflow folder or tracking server, once: a second export adds what is new.

    One MLflow run for each method and seed: PARAMS as parameters (settings `none` for the plain profile), the numbers as
    metrics, TAGS as tags. `where` is a
    folder, which is made, or an address such as http://host:5000. What an interrupted export left half is replaced.
    ValueError without MLflow, and where it cannot log to.
    """
    with environment({name: value for name, value in ENVIRONMENT.items() if name not in os.environ}):
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ValueError("MLflow is not installed: pip install mlflow-skinny") from error
        address = where if "://" in where or where == "databricks" else Path(where).resolve().as_uri()
        try:
            return _export(MlflowClient(tracking_uri=address), frame, experiment)
        except (MlflowException, OSError) as error:
            reason = str(error).strip().partition("\n")[0].partition(". ")[0]
            raise ValueError(f"MLflow cannot log to {where} ({reason}): expected a folder or http://host:port of a server; "
                             "a database needs the full package, pip install mlflow") from error  # fmt: skip


def _export(client: Any, frame: pd.DataFrame, experiment: str) -> Exported:
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    known = _finished(client, number)
    rows = [row for _, row in frame.iterrows() if _mark(row) not in known]
    for row in rows:
        _log(client, number, row)
    return Exported(len(rows), len(frame) - len(rows))


def _finished(client: Any, number: str) -> set[str]:
    """Marks of the runs that are there whole; a half one of an earlier export is removed."""
    page = client.search_runs([number], max_results=1000)
    runs = list(page)
    while page.token:
        page = client.search_runs([number], max_results=1000, page_token=page.token)
        runs += page
    marks: set[str] = set()
    for run in runs:
        mark = run.data.tags.get(MARK)
        if mark and run.info.status == "FINISHED":
            marks.add(mark)
        elif mark:
            client.delete_run(run.info.run_id)
    return marks


def _log(client: Any, number: str, row: pd.Series) -> None:
    from mlflow.entities import Metric, Param

    tags = {MARK: _mark(row)} | {name: str(row[name]) for name in TAGS if pd.notna(row[name])}
    name = f"{row.dataset} {row.scenario} {row.method} seed {row.seed}"
    run = client.create_run(number, tags=tags, run_name=name).info.run_id
    now = int(1000 * time.time())
    metrics = [Metric(name, float(value), now, 0) for name, value in _numbers(row).items()]
    client.log_batch(run, metrics=metrics, params=[Param(name, str(row[name]) or "none") for name in PARAMS])
    client.set_terminated(run)


def _numbers(row: pd.Series) -> dict[str, float]:
    taken = {*PARAMS, *TAGS, "folder"}
    return {str(name): value for name, value in row.items() if name not in taken and pd.notna(value)}


def _mark(row: pd.Series) -> str:
    """dataset/scenario/method-hash/seed@commit: one measurement, wherever the runs folder lies."""
    return f"{'/'.join(Path(row.folder).parts[-4:])}@{row.commit}"
