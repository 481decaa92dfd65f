"""Grids of runs as TOML files, checked whole before anything runs."""

import itertools
import re
import tomllib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clad_lib.config import Config, check_fields, check_type, datasets, make_config, unknown
from clad_lib.study.stages import choose_methods

KEYS: dict[str, Any] = {
    "title": str,
    "profile": str,
    "seeds": list[int],
    "methods": list[str],  # or "all"
    "scenarios": dict[str, list[str]],
    "overrides": dict[str, object],
    "vary": dict[str, list[object]],
}
OWN = ("dataset", "scenario", "profile", "seed")  # set by the keys above, so that no override may


@dataclass(frozen=True)
class Grid:
    """Every scenario, seed and method, with each value of each varied setting if there are any."""

    name: str
    title: str
    methods: tuple[str, ...]
    configs: tuple[Config, ...]


def read_grid(path: str | Path) -> Grid:
    """The study in a TOML file; ValueError names the first wrong line and what is allowed there.

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
        raise ValueError(
            'no scenarios: expected a table [scenarios] with lines such as mnist = ["CUR"]'
        )
    except OSError as error:
        where = f"{error.strerror}; the project's own are in studies/"
        raise ValueError(f"cannot read the study {path}: {where}") from error
    except UnicodeDecodeError as error:
        line, reason = 1 + error.object[: error.start].count(b"\n"), "not UTF-8 text"
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line, reason = int(found[1]) if found else len(text.splitlines()), f"not TOML: {error}"
    except ValueError as error:
        line, reason = _line(text, str(error)), str(error)
    raise ValueError(f"{path}, line {max(line, 1)}: {reason}")


def _line(text: str, reason: str) -> int:
    """The line with which the complaint begins: the file up to there is already refused for it."""
    lines = text.splitlines()
    for number in range(1, len(lines)):
        try:
            _grid("", tomllib.loads("\n".join(lines[:number])))
        except ValueError as error:  # a file that is cut off may be no TOML
            if str(error) == reason:
                return number
    return len(lines)


def _grid(name: str, raw: dict[str, Any]) -> Grid:
    """The study that a parsed file describes; ValueError says what is wrong."""
    from clad_lib.data.scenarios import get_scenario  # here: it imports torch

    for key, value in raw.items():
        if key not in KEYS:
            raise ValueError(unknown("key", key, KEYS))
        if (key, value) != ("methods", "all"):
            _check(key, value, KEYS[key])
    seeds, profile = raw.get("seeds", [0]), raw.get("profile", "fast")
    for seed in seeds:
        make_config(profile=profile, seed=seed)
    methods = choose_methods(raw.get("methods", "all"))
    places = [(data, each) for data, names in raw.get("scenarios", {}).items() for each in names]
    for data, scenario in places:
        if data in datasets():
            get_scenario(data, scenario)
        elif not Path(data).is_dir():
            raise ValueError(unknown("data set", data, datasets()))
    varied = [{key: value} for key, values in raw.get("vary", {}).items() for value in values]
    overrides = raw.get("overrides", {})
    for settings in (overrides, *varied):
        if own := set(settings) & {*OWN}:
            wanted = f"expected under one of {', '.join(KEYS)}"
            raise ValueError(f"{own.pop()} is not set here: {wanted}")
        check_fields(settings)
    configs = [
        make_config(*place, profile=profile, seed=seed, **overrides | each)
        for place, each, seed in itertools.product(places, varied or [{}], seeds)
    ]
    return Grid(name, raw.get("title", name), methods, tuple(dict.fromkeys(configs)))


def _check(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError unless the value is what the hint says; lists hold something, each once."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    check_type(name, value, kind)
    items = (
        value.items() if kind is dict else [(name, item) for item in value] if kind is list else []
    )
    for key, item in items:
        _check(key, item, inner[-1])
    if kind is list and (not value or any(item in value[:n] for n, item in enumerate(value))):
        raise ValueError(
            f"{name} is {value!r}: expected a list of at least one, none of them twice"
        )
