"""Keeping finished runs: the committed tidy file of measurements, and the command that makes each row again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from clad_lib.config import DATASETS
from clad_lib.results import COLUMNS, KEY
from clad_lib.runs import RunError
from clad_lib.whole import write_whole

KEPT = ("command", *(name for name in COLUMNS if name != "folder"))
COUNTS = ("seed", "peak_memory_mb", "train", "test")
PLACES = {"seconds": 2}  # decimals; all other floats have four


class Kept(NamedTuple):
    """How many rows are new, how many replaced one of the file, and one line for each run that was left out."""

    added: int
    replaced: int
    refused: tuple[str, ...]


def keep(frame: pd.DataFrame, into: Path, *, note: str = "") -> Kept:
    """Merge the runs of a results table into the tidy file: one row for each of results.KEY, that of `frame` replaces.

    A row is left out, and named, when its commit is dirty or unknown, when its data set is a folder, which no other
    machine has, and when it has no AUROC. `note` follows each command in brackets. The file, sorted by results.KEY, is
    written whole or not at all. ValueError for a file with other columns; RunError when it cannot be written.
    """
    reasons = frame.apply(_reason, axis=1)
    wanted = frame[reasons == ""]
    rows = pd.DataFrame([_record(row, note) for _, row in wanted.iterrows()], columns=list(KEPT), dtype=str)
    before = _read(into)
    known = pd.MultiIndex.from_frame(before[list(KEY)])
    fresh = pd.MultiIndex.from_frame(rows[list(KEY)])
    merged = pd.concat([before[~known.isin(fresh)], rows]).sort_values(list(KEY), kind="stable", key=_order)
    if len(rows):
        _write(into, merged.to_csv(index=False, lineterminator="\n"))
    replaced = int(fresh.isin(known).sum())
    return Kept(len(rows) - replaced, replaced, _lines(frame, reasons))


def command(row: pd.Series, note: str = "") -> str:
    """The line that makes a row of the results table again, and the note in brackets."""
    parts = ["python -m clad_lib run --dataset", row.dataset, "--scenario", shlex.quote(row.scenario), "--seed", str(row.seed)]
    if row.profile != "fast":  # the default
        parts += ["--profile", row.profile]
    for setting in filter(None, row.settings.split(", ")):
        parts += ["--set", shlex.quote(setting)]
    return " ".join(parts) + (f" ({note})" if note else "")


def _reason(row: pd.Series) -> str:
    """Why a run is left out, and what to do; empty when it is kept."""
    if row.dataset not in DATASETS:
        return "its data set is a folder, which would name a path of this machine: keep its table yourself"
    if not re.fullmatch("[0-9a-f]{7,40}", str(row.commit)):
        return f"its commit is {row.commit!r}, expected a clean one: commit the code, remove the run and run it again"
    if pd.isna(row.auroc):
        return "it has no AUROC: expected anomalies in its test images"
    return ""


def _lines(frame: pd.DataFrame, reasons: pd.Series) -> tuple[str, ...]:
    """One line a run (all its methods) and reason."""
    left = frame.assign(reason=reasons)[reasons != ""]
    runs = left.groupby(["dataset", "scenario", "profile", "settings", "seed", "reason"], sort=False).method.agg(", ".join)
    return tuple(
        f"not kept: {dataset} {scenario}, profile {profile}{f', {settings}' if settings else ''}, seed {seed} ({methods}): {why}"
        for (dataset, scenario, profile, settings, seed, why), methods in runs.items()
    )


def _record(row: pd.Series, note: str) -> dict[str, str]:
    return {"command": command(row, note)} | {name: _text(name, row[name]) for name in KEPT[1:]}


def _text(name: str, value: Any) -> str:
    if value is None or pd.isna(value):
        return ""
    if name in COUNTS:
        return str(int(value))
    return str(round(float(value), PLACES.get(name, 4))) if isinstance(value, float) else str(value)


def _order(column: pd.Series) -> pd.Series:
    return column.astype(int) if column.name == "seed" else column


def _read(path: Path) -> pd.DataFrame:
    """The file with every cell as it is written there, so that rows which stay keep their text."""
    if not path.exists():
        return pd.DataFrame(columns=list(KEPT), dtype=str)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if tuple(table.columns) != KEPT:
        raise ValueError(f"{path} has the columns {', '.join(table.columns)}: expected {', '.join(KEPT)}; name another file")
    return table


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; choose another file with --into") from error
