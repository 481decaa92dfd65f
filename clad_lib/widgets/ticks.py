"""What ticked classes mean: the scenario by its name, how many images it has, and the command that runs it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clad_lib.config import Config, overrides_of
from clad_lib.data import ImageData
from clad_lib.scenarios import SCENARIOS, Scenario, Split, get_scenario, make_split
from clad_lib.sources import DataError


class Counts(NamedTuple):
    """How many images a scenario trains on, sets thresholds on, and tests on."""

    train: int
    calibration: int
    test_normal: int
    test_anomalous: int


def split_rows(train: ImageData, test: ImageData, scenario: Scenario, config: Config) -> Split:
    """`make_split` with images of no pixels: the same rows and the same errors, and no image is read."""
    one, other = (dataclasses.replace(data, images=data.images[:, :0]) for data in (train, test))
    return make_split(
        one, other, scenario, seed=config.seed, calibration=config.calibration, max_train=config.max_train,
        max_test=config.max_test,
    )  # fmt: skip


def count(train: ImageData, test: ImageData, scenario: Scenario, config: Config) -> Counts:
    """The size of each part of the split that a config makes; DataError where it makes none."""
    return counts_of(split_rows(train, test, scenario, config))


def spell(dataset: str, class_names: Sequence[str], normal: Sequence[int]) -> Scenario:
    """The scenario whose normal classes are these labels, under the name that the command line understands.

    A scenario of the paper under its own name, others by label, those of a folder by class name where that can be
    written. DataError for none, for all, and for classes that cannot be named.
    """
    if not normal:
        raise DataError("no class is ticked: tick the classes that count as normal")
    if len(normal) == len(class_names):
        raise DataError(f"all classes ({len(normal)}) are normal: nothing is left to be an anomaly; untick one")
    for name, labels in SCENARIOS.get(dataset, {}).items():
        if set(labels) == set(normal):
            return get_scenario(dataset, name)
    parts = []
    for label in normal:
        ways = [str(label)] if dataset in SCENARIOS else [class_names[label], str(label)]
        known = [way for way in ways if _means(dataset, way, class_names) == (label,)]
        if not known:
            raise DataError(f"class {class_names[label]!r} cannot be named in a command: rename its folder, without + and spaces "
                            "at the ends")  # fmt: skip
        parts.append(known[0])
    return get_scenario(dataset, "+".join(parts), class_names=class_names)


def command_of(config: Config) -> str:
    """The line for a shell that runs the study of a configuration without a notebook open."""
    line = ["python", "-m", "clad_lib", "study", "--dataset", config.dataset, "--scenario", config.scenario]
    line += ["--profile", config.profile] if config.profile != Config.profile else []
    line += ["--seed", str(config.seed)] if config.seed != Config.seed else []
    return shlex.join(line + [part for name, value in overrides_of(config).items() for part in ("--set", f"{name}={value}")])


def counts_of(split: Split) -> Counts:
    """The size of each part of a split."""
    anomalies = int(split.answers.test_anomaly.sum())
    return Counts(len(split.train_index), len(split.calibration_index), len(split.test_index) - anomalies, anomalies)


def folder_of(text: str) -> str:
    """What was typed, as the absolute path of a folder, so that a command works from any directory; DataError for none."""
    if not text.strip():
        raise DataError("type the path of a folder of images: one sub-folder a class")
    folder = Path(text.strip().removeprefix("folder:")).expanduser().resolve()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: type one that holds images, one sub-folder a class")
    return str(folder)


def _means(dataset: str, name: str, class_names: Sequence[str]) -> tuple[int, ...]:
    try:
        return get_scenario(dataset, name, class_names=class_names).normal
    except DataError:
        return ()
