"""Grids of runs as TOML files, checked whole before anything runs."""

from __future__ import annotations

import itertools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clad_lib.config import Config, check_fields, make_config, unknown
from clad_lib.facts import datasets, profiles
from clad_lib.study.stages import choose_methods

TEXT, TABLE = (str, "text in quotes"), (dict, "a table in brackets")
KEYS: dict[str, tuple[Any, str]] = {
    "title": TEXT,
    "profile": TEXT,
    "seeds": (list, "a list of integers"),
    "methods": ((str, list), '"all" or a list of texts in quotes'),
    "scenarios": TABLE,
    "overrides": TABLE,
    "vary": TABLE,
}
OWN = ("dataset", "scenario", "profile", "seed")  # set by the keys above, so that no override may


class GridError(ValueError):
    """A study file that cannot be run: file, line, what was found and what is allowed."""


@dataclass(frozen=True)
class Grid:
    """Every scenario, seed and method, with each value of each varied setting if there are any."""

    name: str
    title: str
    methods: tuple[str, ...]
    configs: tuple[Config, ...]


def read_grid(path: str | Path) -> Grid:
    """The study in a TOML file; GridError names the first wrong line and what is allowed there.

    Keys: title; profile; seeds, a list of integers; methods, "all" or a list; [scenarios], data
    set = list of scenarios; [overrides], settings of Config for every run; [vary], setting = list
    of values, each varied alone.
    """
    path, text = Path(path), ""
    try:
        text = path.read_text(encoding="utf-8")
        grid = _grid(path.stem, tomllib.loads(text))
        if grid.configs:
            return grid
        reason = 'no scenarios: expected a table [scenarios] with lines such as mnist = ["CUR"]'
        line = len(text.splitlines())
    except OSError as error:
        where = f"{error.strerror}; the project's own are in studies/"
        raise GridError(f"cannot read the study {path}: {where}") from error
    except UnicodeDecodeError as error:
        line, reason = 1 + error.object[: error.start].count(b"\n"), "not UTF-8 text"
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line, reason = int(found[1]) if found else len(text.splitlines()), f"not TOML: {error}"
    except (ValueError, TypeError) as error:
        line, reason = _line(text, str(error)), str(error)
    raise GridError(f"{path}, line {max(line, 1)}: {reason}")


def _line(text: str, reason: str) -> int:
    """The line with which the complaint begins: the file up to there is already refused for it."""
    lines = text.splitlines()
    for number in range(1, len(lines)):
        try:
            _grid("", tomllib.loads("\n".join(lines[:number])))
        except (ValueError, TypeError) as error:
            if str(error) == reason:
                return number
    return len(lines)


def _grid(name: str, raw: dict[str, Any]) -> Grid:
    """The study that a parsed file describes; ValueError or TypeError says what is wrong."""
    for key, value in raw.items():
        if key not in KEYS:
            raise GridError(unknown("key", key, KEYS))
        if not isinstance(value, KEYS[key][0]):
            raise GridError(f"{key} is {value!r}: expected {KEYS[key][1]}")
    profile = raw.get("profile", "fast")
    if profile not in profiles():
        raise GridError(unknown("profile", profile, profiles()))
    seeds = _listed("seeds", raw.get("seeds", [0]), int)
    for seed in seeds:
        check_fields({"seed": seed})
    methods = raw.get("methods", "all")
    methods = choose_methods(methods if methods == "all" else _listed("methods", methods, str))
    places = [place for pair in raw.get("scenarios", {}).items() for place in _places(*pair)]
    overrides = raw.get("overrides", {})
    varied = [
        {key: value}
        for key, values in raw.get("vary", {}).items()
        for value in _listed(key, values, object)
    ]
    for settings in (overrides, *varied):
        for key in settings:
            if key in OWN:
                raise GridError(f"{key} is not set here: expected under one of {', '.join(KEYS)}")
        check_fields(settings)
    configs = [
        make_config(*place, profile=profile, seed=seed, **overrides | each)
        for place, each, seed in itertools.product(places, varied or [{}], seeds)
    ]
    return Grid(name, raw.get("title", name), methods, tuple(dict.fromkeys(configs)))


def _places(dataset: str, names: Any) -> list[tuple[str, str]]:
    from clad_lib.data.scenarios import get_scenario  # here: it imports torch

    if dataset not in datasets() and not Path(dataset).is_dir():
        raise GridError(unknown("data set", dataset, datasets()))
    for name in _listed(dataset, names, str):
        if dataset in datasets():
            get_scenario(dataset, name)
    return [(dataset, name) for name in names]


def _listed(where: str, value: Any, kind: type) -> list[Any]:
    """The value, which must be a list with at least one item of that kind, each once."""
    wanted = {int: "integers", str: "texts in quotes"}.get(kind, "values")
    if not isinstance(value, list) or not value:
        raise GridError(f"{where} is {value!r}: expected a list of {wanted} with at least one")
    for number, item in enumerate(value):
        if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):
            raise GridError(f"{where} holds {item!r}: expected {wanted}")
        if item in value[:number]:
            raise GridError(f"{where} holds {item!r} twice: expected each once")
    return value
