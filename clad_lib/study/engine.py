"""One study: a configuration on its split, and the one function that finds or makes an artefact."""

from __future__ import annotations

import json
import time
import typing
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from clad_lib.clad.scores import Scored
from clad_lib.clad.training import gains_from_bf16, pick_device, seeded
from clad_lib.config import Config, Settings, as_dict, check_fields
from clad_lib.data.scenarios import load_split, split_key
from clad_lib.data.split import Split
from clad_lib.study import measure
from clad_lib.study.stages import Places, function_of, row, settings_of, short_hash
from clad_lib.study.store import (
    RECORD,
    StoreError,
    atomic_folder,
    load_artefact,
    save_artefact,
    stamp,
)

CONDITIONS = ("threads", "precision", "device")  # they decide the bits of a result


class ReuseWarning(UserWarning):
    """An artefact that was made under other conditions than this study's is used again."""


class Scores(NamedTuple):
    """Anomaly scores of calibration (n,) and test images (m,), and the metrics of the test."""

    calibration: np.ndarray
    test: np.ndarray
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A configuration with its split, its artefacts under `root`, and the device it computes on."""

    config: Config
    split: Split
    places: Places
    device: torch.device
    threads: int
    progress: bool = True
    _loaded: dict[Path, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def root(self) -> Path:
        """The folder under which all artefacts lie."""
        return self.places.root

    @property
    def folder(self) -> Path:
        """Where executed notebooks, pictures and the report of this very configuration go."""
        text = json.dumps(as_dict(self.config), sort_keys=True) + self.places.data
        return self.places.scenario / f"study-{short_hash(text)}" / f"seed{self.config.seed}"

    def path(self, name: str) -> Path:
        """The folder of a stage's or method's artefact, whether or not it is there."""
        return self.places.path(name)

    def has(self, name: str) -> bool:
        """Whether the stage or method was finished with these settings."""
        return self.places.has(name)

    def __getitem__(self, name: str) -> Any:
        """The artefact of a stage or the Scores of a method: found, or made with all it needs."""
        if not self.has(name):
            self._make(name)
        return self.find(name)

    def find(self, name: str) -> Any:
        """What is there already; StoreError names the notebook that makes it."""
        folder = self.path(name)
        if not self.has(name):
            notebook = row(name).shown_in
            raise StoreError(
                f"no {name} for these settings in {folder}: run notebook {notebook} first"
            )
        if folder not in self._loaded:
            self._warn_of_other_conditions(name)
            if row(name).block:
                self._loaded[folder] = load_scores(folder)
            else:
                kind = typing.get_type_hints(function_of(name))["return"]
                self._loaded[folder] = load_artefact(folder, kind, device=self.device)
        return self._loaded[folder]

    def settings(self, name: str, *also: str) -> Settings:
        """The view of the configuration that the row of that name gets, with other settings."""
        reads = (*row(name).reads, *also)
        return Settings(self.config, reads, device=self.device, progress=self.progress)

    def fit(self, name: str) -> Any:
        """What the row's function returns, made now and not kept: a fitted Scorer, for example."""
        needs = [self[need] for need in row(name).needs]
        with seeded(self.config.seed):
            return function_of(name)(self.split, self.settings(name), *needs)

    def with_settings(self, **settings: Any) -> Study:
        """The same split under other settings; ValueError for a wrong one."""
        config = replace(self.config, **check_fields(settings))
        return replace(self, config=config, places=self.places._replace(config=config))

    @property
    def conditions(self) -> dict[str, Any]:
        """What decides the bits of a result besides its settings and its images."""
        precision = "bf16" if gains_from_bf16(self.device) else "fp32"
        values = (self.threads, precision, self.device.type)
        return dict(zip(CONDITIONS, values, strict=True))

    def _make(self, name: str) -> None:
        needs = [self[need] for need in row(name).needs]
        started = time.perf_counter()
        with atomic_folder(self.path(name)) as draft:
            with seeded(self.config.seed):
                made = function_of(name)(self.split, self.settings(name), *needs)
                if row(name).block:
                    self._write_scores(draft, name, made)
                else:
                    save_artefact(draft, made)
            self._write_record(draft, name, time.perf_counter() - started)

    def _write_scores(self, draft: Path, name: str, made: Any) -> None:
        scored = made if isinstance(made, Scored) else apply(made, self.split)
        copies = self["copies"].test_in_train
        table, metrics = measure.measure(
            self.config, self.split, scored, method=name, copies=copies
        )
        table.to_parquet(draft / "scores.parquet", index=False)
        (draft / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")

    def _write_record(self, draft: Path, name: str, seconds: float) -> None:
        protocol = None if self.config.defects else row(name).protocol
        record = {
            "stage": name,
            "config": as_dict(self.config),
            "protocol": protocol or self.config.protocol,
            "settings": settings_of(name, self.config),
            "data": self.places.data,
            "source": self.split.source,
            "seconds": round(seconds, 2),
        }
        text = json.dumps(record | self.conditions | stamp(), indent=1)
        (draft / RECORD).write_text(text, encoding="utf-8")

    def _warn_of_other_conditions(self, name: str) -> None:
        record = read_json(self.path(name) / RECORD)
        if record.get("stage") != name:
            raise StoreError(
                f"{self.path(name)} holds {record.get('stage')!r}, expected {name!r}: remove it"
            )
        differ = [
            f"{key} {record.get(key)}"
            for key in CONDITIONS
            if record.get(key) != self.conditions[key]
        ]
        if differ:
            warnings.warn(f"{name} was made with {', '.join(differ)}", ReuseWarning, stacklevel=3)


def open_study(
    config: Config,
    *,
    runs: str | Path = "runs",
    device: str = "auto",
    threads: int = 1,
    progress: bool = True,
) -> Study:
    """Load the images, make the split, and point at the artefacts; nothing is trained.

    `threads` holds for torch and for the numerical libraries in this process: another number adds
    in another order and gives other bits.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads!r}: expected 1 or more")
    target = pick_device(device)
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    split = load_split(config, progress=progress)
    places = Places(Path(runs), config, split_key(split))
    return Study(config, split, places, target, threads, progress)


def apply(scorer: Any, split: Split) -> Scored:
    """The scores of a fitted method on calibration and test images."""
    parts = (scorer(part) for part in (split.calibration, split.test))
    calibrated, tested = (np.asarray(part, dtype=np.float64) for part in parts)
    method = getattr(scorer, "method", None)  # how a kernel method was solved
    return Scored(calibrated, tested, extra={} if method is None else {"method": str(method)})


def load_scores(folder: Path) -> Scores:
    """The scores and metrics of a finished method's folder."""
    table = pd.read_parquet(folder / "scores.parquet", columns=["split", "score"])
    calibrated, tested = (
        table.score[table.split == part].to_numpy() for part in ("calibration", "test")
    )
    return Scores(calibrated, tested, read_json(folder / "metrics.json"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of an artefact; StoreError when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} cannot be read ({error}): remove its folder and run again"
        ) from error
