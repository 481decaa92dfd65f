"""What is known beforehand, as TOML tables: data sets, profiles, the published settings."""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _tables(path: Path) -> dict[str, dict[str, Any]]:
    with path.open("rb") as file:
        return tomllib.load(file)


def profiles() -> dict[str, dict[str, Any]]:
    """What each profile changes in the defaults of Config: the tables of profiles.toml."""
    return _tables(Path(__file__).parent / "profiles.toml")


def datasets() -> dict[str, dict[str, Any]]:
    """What is known of each data set: the tables of data/datasets.toml, name -> facts.

    A file datasets.toml in the folder that CLAD_DATA names adds its tables to them.
    """
    known = _tables(Path(__file__).parent / "data" / "datasets.toml")
    more = Path(os.environ.get("CLAD_DATA", ""), "datasets.toml")
    return known | _tables(more) if os.environ.get("CLAD_DATA") and more.is_file() else known


def published(dataset: str, scenario: str) -> dict[str, Any]:
    """The settings of the published run scripts; other groupings take the data set's own."""
    facts = datasets().get(dataset, {})
    facts = facts if "published" in facts else datasets()["cifar10"]
    single = facts.get("one_class", {}) if scenario.isdigit() else {}
    row = facts.get("scenarios", {}).get(scenario, single)
    return facts["published"] | row.get("published", {})
