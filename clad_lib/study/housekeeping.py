"""What lies under a runs folder, how large it is, and what no current row can find any more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pandas as pd

from clad_lib.config import Config
from clad_lib.study.stages import Places, rows
from clad_lib.study.store import RECORD


def contents(root: Path) -> pd.DataFrame:
    """One row an artefact: dataset, scenario, name, seed, megabytes, stale, folder.

    `stale` marks what no current row can find, since its hash, version or settings have changed,
    or because it was never finished.
    """
    found = [_describe(root, folder) for folder in _folders(root)]
    names = ["dataset", "scenario", "name", "seed", "megabytes", "stale", "folder"]
    return pd.DataFrame(found, columns=names)


def remove_stale(root: Path) -> pd.DataFrame:
    """Remove the stale artefacts under `root`; returns their rows of `contents`."""
    table = contents(root)
    gone = table[table.stale]
    for folder in gone.folder:
        shutil.rmtree(folder, ignore_errors=True)
    return gone


def _folders(root: Path) -> Iterator[Path]:
    for folder in sorted(root.glob("*/*/*/seed*")):
        if not folder.parent.name.startswith("study-"):
            yield folder


def _describe(root: Path, folder: Path) -> tuple:
    dataset, scenario, name = folder.relative_to(root).parts[:3]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    known = (dataset, scenario, name.rpartition("-")[0], folder.name.removeprefix("seed"))
    return (*known, round(size, 2), _is_stale(root, folder), folder)


def _is_stale(root: Path, folder: Path) -> bool:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["stage"] not in rows() and not record["settings"]:
            return False  # one's own scores, added by `clad results --add`
        known = {each.name for each in fields(Config)}
        config = Config(**{name: v for name, v in record["config"].items() if name in known})
        found = record["stage"] in rows() and Places(root, config, record["data"]).path(
            record["stage"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return found != folder
