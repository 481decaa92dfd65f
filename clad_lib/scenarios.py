"""Scenarios: which classes are normal, and the split of a data set into training, calibration and test images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clad_lib.config import Config
from clad_lib.data import ImageData, load_dataset
from clad_lib.sources import DataError

_DIGITS = {"CUR": (0, 3, 8), "STR": (1, 4, 7), "MIX": (2, 5, 6, 9)}

SCENARIOS: dict[str, dict[str, tuple[int, ...]]] = {
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "gtsrb": {
        "SPDL": (0, 1, 2, 3, 4, 5, 7, 8),
        "INST": (9, 10, 15, 16),
        "WARN": (11, *range(18, 32)),
        "DIRC": tuple(range(33, 41)),
        "SPEC": (12, 13, 14, 17),
        "REGN": (6, 32, 41, 42),
    },
    "cifar10": {"THG": (0, 1, 8, 9), "LIV": (2, 3, 4, 5, 6, 7)},
    "tiny_imagenet": {
        name: tuple(range(8 * place, 8 * place + 8)) for place, name in enumerate(("ANML", "ISCT", "ISTM", "STRT", "VHCL"))
    },
}  # fmt: skip

TITLES = {
    "CUR": "curly digits", "STR": "straight digits", "MIX": "mixed digits", "SPDL": "speed limits",
    "INST": "driving instructions", "WARN": "warnings", "DIRC": "directions", "SPEC": "special signs",
    "REGN": "regulations", "THG": "things", "LIV": "living beings", "ANML": "animals", "ISCT": "insects",
    "ISTM": "instruments", "STRT": "structures", "VHCL": "vehicles",
}  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """The labels that count as normal; every other class of the data set is anomalous."""

    dataset: str
    name: str
    title: str
    normal: tuple[int, ...]


@dataclass(frozen=True)
class Answers:
    """Hidden classes and test labels, for analysis only: nothing that trains, selects or calibrates reads them."""

    train_class: np.ndarray
    calibration_class: np.ndarray
    test_class: np.ndarray
    test_anomaly: np.ndarray


@dataclass(frozen=True)
class Split:
    """train and calibration: normal images; test: normal and anomalous. uint8 (N, C, H, W); *_index: rows of the data.

    Calibration images of one track are frames of one object, hence not independent of each other.
    """

    scenario: Scenario
    train: Tensor
    calibration: Tensor
    test: Tensor
    answers: Answers
    class_names: tuple[str, ...]
    train_index: np.ndarray
    calibration_index: np.ndarray
    test_index: np.ndarray
    calibration_tracks: np.ndarray


def get_scenario(dataset: str, name: str, *, class_names: Sequence[str] | None = None) -> Scenario:
    """The scenario of that name: `CUR`; one class by label, `3`; a grouping by label or class name, `0+3+8`, `cat+dog`.

    `ALL` makes every class normal, for folders whose anomalies are unknown. DataError lists what is known.
    """
    table = SCENARIOS.get(dataset, {})
    if name in table:
        return Scenario(dataset, name, TITLES[name], table[name])
    names = list(class_names) if class_names is not None else [str(label) for label in range(_count(table))]
    if name == "ALL" and dataset not in SCENARIOS:
        return Scenario(dataset, name, "all classes", tuple(range(len(names))))
    parts = [part.strip() for part in name.split("+")]
    labels = [names.index(part) if part in names else int(part) if part.isdigit() else -1 for part in parts]
    if bad := [part for part, label in zip(parts, labels, strict=True) if not 0 <= label < len(names)]:
        known = ", ".join(table) or "ALL"
        some = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise DataError(f"unknown scenario {name!r} ({bad[0]!r}): expected {known}, a label or class (of {some}), or several "
                        "joined by +")  # fmt: skip
    if len(set(labels)) != len(labels):
        raise DataError(f"scenario {name!r} names a class twice: name each normal class once")
    return Scenario(dataset, name, " + ".join(names[label] for label in labels), tuple(sorted(labels)))


def _count(table: dict[str, tuple[int, ...]]) -> int:
    return 1 + max((label for labels in table.values() for label in labels), default=-1)


def make_split(
    train: ImageData,
    test: ImageData,
    scenario: Scenario,
    *,
    seed: int,
    calibration: float = 0.1,
    max_train: int | None = None,
    max_test: int | None = None,
) -> Split:
    """Training normals without a random share for calibration, drawn by whole track, and the whole test split.

    Which normal class an image has never matters here, only that it is normal. DataError for a normal class without
    training images, a test split of one kind only (unless the scenario is `ALL`), or too few normals to hold any out.
    """
    for label in scenario.normal:
        if not (train.labels == label).any():
            raise DataError(f"scenario {scenario.name}: class {_name(train, label)!r} has no training images; leave it out")
    anomaly = ~np.isin(test.labels, scenario.normal)
    if scenario.name != "ALL" and anomaly.all() | ~anomaly.any():
        found = "anomalies" if len(anomaly) and anomaly.all() else "normal images"
        raise DataError(f"scenario {scenario.name}: the test split has only {found}; choose other normal classes")
    random = np.random.default_rng(seed)
    normal = np.flatnonzero(np.isin(train.labels, scenario.normal))
    held = _hold_out(train.tracks[normal], calibration, random)
    kept, aside = normal[~held], normal[held]
    if not len(kept) or not len(aside):
        raise DataError(f"scenario {scenario.name}: {len(normal)} normal training images are too few to hold out a share of "
                        f"{calibration:g} for calibration; add images")  # fmt: skip
    kept, rows = _at_most(kept, max_train, random), _at_most(np.arange(len(test.labels)), max_test, random)
    aside = _at_most(aside, max_train, random)
    answers = Answers(train.labels[kept], train.labels[aside], test.labels[rows], anomaly[rows])
    return Split(scenario, _take(train, kept), _take(train, aside), _take(test, rows), answers, train.class_names,
                 kept, aside, rows, train.tracks[aside])  # fmt: skip


def load_split(config: Config) -> Split:
    """The split that a config describes: `load_dataset`, `get_scenario` and `make_split` in one."""
    if config.dataset in SCENARIOS and not any(mark in config.scenario for mark in "+0123456789"):
        get_scenario(config.dataset, config.scenario)  # a wrong name is refused before any download
    train, test = load_dataset(config.dataset)
    scenario = get_scenario(config.dataset, config.scenario, class_names=train.class_names)
    return make_split(
        train, test, scenario, seed=config.seed, calibration=config.calibration, max_train=config.max_train,
        max_test=config.max_test,
    )  # fmt: skip


def split_key(split: Split) -> str:
    """A short hash of the images of the split; hidden classes and test labels do not enter it."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (split.train, split.calibration, split.test):
        digest.update(f"{tuple(part.shape)}".encode())
        digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()


def _hold_out(tracks: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Which images are calibration: whole tracks in random order until the share is reached, at least one image."""
    names, position, sizes = np.unique(tracks, return_inverse=True, return_counts=True)
    order = random.permutation(len(names))
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = order[before < share * len(tracks)]
    return np.isin(position, chosen)


def _at_most(rows: np.ndarray, limit: int | None, random: np.random.Generator) -> np.ndarray:
    if limit is None or len(rows) <= limit:
        return rows
    return np.sort(random.permutation(rows)[:limit])


def _take(data: ImageData, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(data.images[rows]))


def _name(data: ImageData, label: int) -> str:
    return data.class_names[label] if label < len(data.class_names) else str(label)
