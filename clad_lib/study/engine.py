"""One study: a configuration on its split, and the one function that finds or makes an artefact."""

import json
import time
import typing
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from clad_lib.clad.scores import Scored
from clad_lib.clad.training import gains_from_bf16, pick_device, seeded
from clad_lib.config import Config, Settings, as_dict, check_fields
from clad_lib.data.scenarios import load_split, split_key
from clad_lib.data.split import Split
from clad_lib.study.artefacts import load_artefact, save_artefact
from clad_lib.study.measure import measure, write_scores
from clad_lib.study.stages import Places, before, function_of, row, rows, settings_of
from clad_lib.study.store import (
    RECORD,
    StoreError,
    atomic_folder,
    read_json,
    short_hash,
    stamp,
    write_json,
)


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
    _scorers: dict[Path, Any] = field(default_factory=dict, compare=False, repr=False)

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
            first = f"run notebook {row(name).shown_in} first"
            raise StoreError(f"no {name} for these settings in {folder}: {first}")
        if folder not in self._loaded:
            try:
                record, self._loaded[folder] = read_json(folder / RECORD), self._read(name)
            except Exception as error:  # damaged files raise whatever their reader raises
                cure = f"({type(error).__name__}: {error}): remove it and run again"
                raise StoreError(f"{folder} cannot be read {cure}") from error
            other = [
                f"{k} {record.get(k)}" for k, v in self.conditions.items() if record.get(k) != v
            ]
            if other:
                warnings.warn(
                    f"{name} was made with {', '.join(other)}", ReuseWarning, stacklevel=2
                )
        return self._loaded[folder]

    def settings(self, name: str, *also: str) -> Settings:
        """The view of the configuration that the row of that name gets, with other settings."""
        reads = (*row(name).reads, *also)
        return Settings(self.config, reads, device=self.device, progress=self.progress)

    def fit(self, name: str) -> Any:
        """What the row's function returns, made now, such as a fitted Scorer; nothing is written.

        Scorers that others can join, having `normals`, are kept in memory for them.
        """
        function, needs = function_of(name), row(name).needs
        if hasattr(typing.get_type_hints(function).get("return"), "join"):
            given = [  # the last first, since it refuses more images than the others
                self._scorers.get(self.path(need)) or self.fit(need) for need in reversed(needs)
            ][::-1]
        else:
            given = [self[need] for need in needs]
        with seeded(self.config.seed):
            made = function(self.split, self.settings(name), *given)
        if hasattr(made, "normals"):
            self._scorers[self.path(name)] = made
        return made

    def with_settings(self, **settings: Any) -> Self:
        """The same split under other settings; ValueError for a wrong one."""
        config = replace(self.config, **check_fields(settings))
        return replace(self, config=config, places=self.places._replace(config=config))

    @property
    def conditions(self) -> dict[str, Any]:
        """What decides the bits of a result besides its settings and its images."""
        precision = "bf16" if gains_from_bf16(self.device) else "fp32"
        return {"threads": self.threads, "precision": precision, "device": self.device.type}

    def record(self, name: str, **more: Any) -> dict[str, Any]:
        """Where an artefact comes from; `more` replaces what is not so."""
        protocol = None if self.config.defects or name not in rows() else row(name).protocol
        return {
            "stage": name,
            "config": as_dict(self.config),
            "data": self.places.data,
            "protocol": protocol or self.config.protocol,
            "source": self.split.source,
            **self.conditions,
            **stamp(),
            **more,
        }

    def _make(self, name: str) -> None:
        for need in reversed(before(name)):  # the last first, as in `fit`
            self[need]
        started = time.perf_counter()
        with atomic_folder(self.path(name)) as draft, seeded(self.config.seed):
            made = self.fit(name)
            if row(name).block:
                scored = self._scored(name, made)
                copies = self["copies"].test_in_train
                write_scores(
                    draft, *measure(self.config, self.split, scored, method=name, copies=copies)
                )
            else:
                save_artefact(draft, made)
            seconds = round(time.perf_counter() - started, 2)
            settings = settings_of(name, self.config)
            write_json(draft / RECORD, self.record(name, settings=settings, seconds=seconds))

    def _scored(self, name: str, made: Any) -> Scored:
        """What a method gave: the scores of calibration and test images, or what scores them."""
        parts = self.split.calibration, self.split.test
        if isinstance(made, Scored):
            scores: Any = made[:2]
        elif hasattr(made, "join"):
            known = [self[need] for need in row(name).needs]
            scores = map(made.join, zip(*(each[:2] for each in known), strict=True))
        elif callable(made):
            scores = map(made, parts)
        else:
            raise ValueError(f"{name} gave a {type(made).__name__}: expected a Scorer or Scored")
        scores = [np.asarray(each, np.float64) for each in scores]
        if (found := [each.shape for each in scores]) != [(len(part),) for part in parts]:
            raise ValueError(
                f"{name} gave scores {found}: expected one an image, {[*map(len, parts)]}"
            )
        told = {"method": str, "accuracy": float}  # of kernel methods, and of Rotation
        extra = {k: kind(getattr(made, k)) for k, kind in told.items() if hasattr(made, k)}
        return made if isinstance(made, Scored) else Scored(scores[0], scores[1], extra=extra)

    def _read(self, name: str) -> Any:
        folder = self.path(name)
        if not row(name).block:
            kind = typing.get_type_hints(function_of(name))["return"]
            return load_artefact(folder, kind, device=self.device)
        table = pd.read_parquet(folder / "scores.parquet", columns=["split", "score"])
        calibrated, tested = (
            table.score[table.split == part].to_numpy() for part in ("calibration", "test")
        )
        return Scores(calibrated, tested, read_json(folder / "metrics.json"))


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
    target = pick_device(device)
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    split = load_split(config, progress=progress)
    places = Places(Path(runs), config, split_key(split))
    return Study(config, split, places, target, threads, progress)
