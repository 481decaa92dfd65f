"""Studies: a grid of runs as a TOML file, checked whole before anything runs."""

from __future__ import annotations

import difflib
import itertools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clad_lib.config import DATASETS, PROFILES, Config, check_fields, make_config
from clad_lib.methods import METHODS
from clad_lib.scenarios import get_scenario
from clad_lib.sources import DataError

KEYS = ("title", "profile", "seeds", "methods", "scenarios", "overrides", "vary")
_GRID = {"dataset", "scenario", "profile", "seed"}  # what the grid itself sets, so that no override may


class StudyError(ValueError):
    """A study file that cannot be run: file, line, what was found and what is allowed."""


@dataclass(frozen=True)
class StudyFile:
    """A grid: every scenario, seed and method, with each value of each varied setting where there are any."""

    name: str
    title: str
    methods: tuple[str, ...]
    configs: tuple[Config, ...]


def read_study(path: str | Path) -> StudyFile:
    """The study in a TOML file; StudyError names the first wrong line and what is allowed there.

    Keys: title; profile; seeds, a list of integers; methods, "all" or a list; [scenarios], data set = list of scenarios;
    [overrides], settings of Config for every run; [vary], setting = list of values, each varied alone.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        return _Reader(path, text).study(tomllib.loads(text))
    except OSError as error:
        raise StudyError(f"cannot read the study {path}: {error.strerror}; the project's own are in studies/") from error
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise StudyError(f"{path}, line {line}: not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        place = int(found[1]) if found else len(text.splitlines())  # tomllib says "at end of document"
        raise StudyError(f"{path}, line {place}: not TOML: {error}") from error


@dataclass(frozen=True)
class _Reader:
    """Checks the parsed file against the text, so that every complaint has a line."""

    path: Path
    text: str

    def study(self, raw: dict[str, Any]) -> StudyFile:
        for key in raw:
            self._known(key, KEYS, "key", key)
        profile = self._value(raw, "profile", str, default="fast")
        self._known(profile, PROFILES, "profile", "profile")
        seeds = self._list(raw.get("seeds", [0]), int, "seeds")
        if bad := [seed for seed in seeds if seed < 0]:
            self._refuse("seeds", f"seed {bad[0]}: expected integers of at least 0")
        runs = self._scenarios(raw)
        overrides = self._settings(raw, "overrides")
        grid = self._varied(raw, overrides) or [overrides]
        configs = [make_config(d, s, profile=profile, seed=seed, **each)
                   for (d, s), each, seed in itertools.product(runs, grid, seeds)]  # fmt: skip
        return StudyFile(self.path.stem, self._value(raw, "title", str, default=self.path.stem), self._methods(raw),
                         tuple(dict.fromkeys(configs)))  # fmt: skip

    def _scenarios(self, raw: dict[str, Any]) -> list[tuple[str, str]]:
        table = self._value(raw, "scenarios", dict, default=None)
        if not table:
            self._refuse("scenarios", 'no scenarios: expected a table [scenarios] with lines such as mnist = ["CUR", "STR"]')
        found = []
        for dataset, names in table.items():
            if not Path(dataset).is_dir():
                self._known(dataset, DATASETS, "data set", f"scenarios.{dataset}")
            for name in self._list(names, str, f"scenarios.{dataset}"):
                self._scenario(dataset, name)
                found.append((dataset, name))
        return found

    def _scenario(self, dataset: str, name: str) -> None:
        if dataset not in DATASETS or (dataset == "cifar10" and re.search("[a-z]", name)):
            return  # classes by name: known when the data are read
        try:
            get_scenario(dataset, name)
        except DataError as error:
            self._refuse(f"scenarios.{dataset}", str(error), value=name)

    def _methods(self, raw: dict[str, Any]) -> tuple[str, ...]:
        wanted = raw.get("methods", "all")
        if wanted == "all":
            return METHODS
        for name in self._list(wanted, str, "methods"):
            self._known(name, METHODS, "method", "methods", value=name)
        return tuple(wanted)

    def _settings(self, raw: dict[str, Any], table: str) -> dict[str, Any]:
        values = self._value(raw, table, dict, default={})
        for name, value in values.items():
            if name in _GRID:
                self._refuse(f"{table}.{name}", f"{name} is not set here: the study's own keys are {', '.join(KEYS)}")
            self._check(table, name, value)
        return values

    def _varied(self, raw: dict[str, Any], overrides: dict[str, Any]) -> list[dict[str, Any]]:
        found = []
        for name, values in self._value(raw, "vary", dict, default={}).items():
            if name in _GRID:
                self._refuse(f"vary.{name}", f"{name} is not varied here: list scenarios and seeds under their own keys")
            for value in self._list(values, object, f"vary.{name}"):
                self._check("vary", name, value)
                found.append(overrides | {name: value})
        return found

    def _check(self, table: str, name: str, value: Any) -> None:
        try:
            check_fields({name: value})
        except (ValueError, TypeError) as error:
            self._refuse(f"{table}.{name}", str(error))

    def _value(self, raw: dict[str, Any], key: str, kind: type, *, default: Any) -> Any:
        value = raw.get(key, default)
        if key in raw and not isinstance(value, kind):
            wanted = "text in quotes" if kind is str else f"a table, [{key}]"
            self._refuse(key, f"{key} is {value!r}: expected {wanted}")
        return value

    def _list(self, value: Any, kind: type, where: str) -> list[Any]:
        name = {int: "integers", str: "texts in quotes"}.get(kind, "values")
        if not isinstance(value, list) or not value:
            self._refuse(where, f"{where} is {value!r}: expected a list of {name} with at least one")
        for number, item in enumerate(value):
            if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):
                self._refuse(where, f"{where} holds {item!r}: expected {name}", value=item)
            if item in value[:number]:
                self._refuse(where, f"{where} holds {item!r} twice: name each once", value=item)
        return value

    def _known(self, name: str, allowed: tuple[str, ...], kind: str, where: str, *, value: str = "") -> None:
        if name not in allowed:
            near = difflib.get_close_matches(str(name), allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            self._refuse(where, f"unknown {kind} {name!r}{hint} Allowed: {', '.join(allowed)}", value=value)

    def _refuse(self, where: str, reason: str, *, value: Any = None) -> None:
        raise StudyError(f"{self.path}, line {self._line(where, value)}: {reason}")

    def _line(self, where: str, value: Any) -> int:
        """The line of the key (`table.key`), or further down of the value in its list; else of the table; else the last."""
        lines, (table, _, key) = self.text.splitlines(), where.rpartition(".")
        section, start, fallback = "", 0, len(lines)
        for number, line in enumerate(lines, 1):
            if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
                section = header[1].strip("\"'")
                fallback = number if section == (table or key) else fallback
            elif section == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                start = number
                break
        if not start:
            return max(fallback, 1)
        wanted = (f'"{value}"', f"'{value}'") if isinstance(value, str) else (str(value),)
        below = itertools.takewhile(lambda n: n == start or not re.match(r"\s*(\[\w|[\w\"']+\s*=)", lines[n - 1]),
                                    range(start, len(lines) + 1))  # fmt: skip
        return next((n for n in below if value is not None and any(text in lines[n - 1] for text in wanted)), start)
