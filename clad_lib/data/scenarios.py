"""Which classes are normal, and the split of a data set into training, calibration and test."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from clad_lib.config import Config, datasets, unknown
from clad_lib.data.pictures import DataError
from clad_lib.data.reading import ImageData, load_dataset, source_of, units_of
from clad_lib.data.split import Answers, Scenario, Split


def scenarios_of(dataset: str) -> dict[str, Scenario]:
    """The scenarios that datasets.toml names for a data set, by name; none for a folder."""
    facts = datasets().get(dataset, {})
    kind = {each: facts.get(each, False) for each in ("mirror", "turnable")}
    return {
        name: Scenario(dataset, name, row["title"], tuple(row["normal"]), **kind)
        for name, row in facts.get("scenarios", {}).items()
    }


def get_scenario(dataset: str, name: str, *, class_names: Sequence[str] | None = None) -> Scenario:
    """The scenario of that name: `CUR`, one class, `3` or `cat`, or several joined by +, `cat+dog`.

    A class is given by its name or by its label; `class=3` and `label=3` say which is meant where
    the two differ. `ALL` makes every class normal, for folders whose anomalies are unknown.
    Raises DataError for a name that is unknown, ambiguous or names a class twice.
    """
    table, facts = scenarios_of(dataset), datasets().get(dataset)
    if name in table:
        return table[name]
    names = list(class_names or (facts or {}).get("classes", []))
    if name == "ALL" and facts is None:
        return Scenario(dataset, name, "all classes", tuple(range(len(names))))
    readings = list(dict.fromkeys(_readings(name.split("+"), names)))
    if not readings:
        known = unknown("scenario", name, [*table, *([] if facts else ["ALL"]), *names])
        raise DataError(f"{known}, a label, or several of these joined by +")
    if len(readings) > 1:
        one, other = (" + ".join(names[label] for label in labels) for labels in readings[:2])
        raise DataError(
            f"scenario {name!r} is ambiguous, {one!r} or {other!r}: write class=NAME or label=3"
        )
    if len(set(readings[0])) != len(readings[0]):
        raise DataError(f"scenario {name!r} names a class twice: name each normal class once")
    kind = {each: (facts or {}).get(each, False) for each in ("mirror", "turnable")}
    title, normal = " + ".join(names[label] for label in readings[0]), tuple(sorted(readings[0]))
    return Scenario(dataset, name, title, normal, **kind)


def _readings(parts: Sequence[str], names: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Every way to read parts joined by + as classes, whose names may hold a + themselves."""
    if not parts:
        yield ()
    for end in range(1, len(parts) + 1):
        text = "+".join(parts[:end]).strip()
        meant = {k for k, name in enumerate(names) if text in (name.strip(), f"class={name}")}
        number = text.removeprefix("label=")
        if number.isascii() and number.isdecimal() and int(number) < len(names):
            meant.add(int(number))
        for label in sorted(meant):
            yield from ((label, *rest) for rest in _readings(parts[end:], names))


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
    """Training normals without a random share for calibration, and the whole test part.

    The share is drawn by whole track, copies of an image counted as one track. Which normal class
    an image has never matters here, only that it is normal.
    Raises DataError for a normal class without training images, a test part of one kind only
    (unless the scenario is `ALL`), or too few normals to hold any out.
    """
    where = f"scenario {scenario.name}"
    for label in set(scenario.normal) - set(train.labels.tolist()):
        if label not in range(len(train.class_names)):
            last = len(train.class_names) - 1
            raise DataError(f"{where}: class {label!r} is not there: expected numbers 0 to {last}")
        name = train.class_names[label]
        raise DataError(f"{where}: class {name!r} has no training images; leave it out")
    anomaly = ~np.isin(test.labels, scenario.normal)
    if scenario.name != "ALL" and anomaly.all() | ~anomaly.any():
        found = "anomalies" if len(anomaly) and anomaly.all() else "normal images"
        raise DataError(f"{where}: the test part has only {found}; choose other normal classes")
    random = np.random.default_rng(seed)
    normal = np.flatnonzero(np.isin(train.labels, scenario.normal))
    tracks = train.tracks.copy()
    tracks[normal] = units_of(train.images[normal], tracks[normal])
    held = _hold_out(tracks[normal], calibration, random)
    kept, aside = normal[~held], normal[held]
    if not (len(kept) and len(aside)):
        raise DataError(
            f"{where}: {len(normal)} normal training images are too few to hold out a share of "
            f"{calibration:g} for calibration; add images"
        )
    kept = _at_most(kept, max_train, random)
    rows = _at_most(np.arange(len(test.labels)), max_test, random)
    aside = _at_most(aside, max_train, random)
    return Split(
        scenario=scenario,
        train=torch.from_numpy(train.images[kept]),
        calibration=torch.from_numpy(train.images[aside]),
        test=torch.from_numpy(test.images[rows]),
        answers=Answers(train.labels[kept], train.labels[aside], test.labels[rows], anomaly[rows]),
        class_names=train.class_names,
        train_index=kept,
        calibration_index=aside,
        test_index=rows,
        train_tracks=tracks[kept],
        calibration_tracks=tracks[aside],
        test_tracks=units_of(test.images, test.tracks)[rows],
    )


def _hold_out(tracks: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Which images are calibration: whole tracks in random order until the share is reached."""
    names, position, sizes = np.unique(tracks, return_inverse=True, return_counts=True)
    order = random.permutation(len(names))
    before = np.cumsum(sizes[order]) - sizes[order]
    return np.isin(position, order[before < share * len(tracks)])


def _at_most(rows: np.ndarray, limit: int | None, random: np.random.Generator) -> np.ndarray:
    if limit is None or len(rows) <= limit:
        return rows
    return np.sort(random.permutation(rows)[:limit])


def load_split(config: Config, *, progress: bool = True) -> Split:
    """The split that a config describes: `load_dataset`, `get_scenario`, `make_split` in one."""
    if config.dataset in datasets() and not os.environ.get("CLAD_DATA"):
        get_scenario(config.dataset, config.scenario)  # a wrong name is refused before a download
    train, test = load_dataset(
        config.dataset, size=config.size, split=config.split, progress=progress
    )
    split = make_split(
        train,
        test,
        get_scenario(config.dataset, config.scenario, class_names=train.class_names),
        seed=config.seed,
        calibration=config.calibration,
        max_train=config.max_train,
        max_test=config.max_test,
    )
    return replace(split, source=source_of(config.dataset))


def split_key(split: Split) -> str:
    """A short hash of the images of the split; hidden classes and test labels do not enter it."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (split.train, split.calibration, split.test):
        digest.update(f"{tuple(part.shape)}".encode())
        digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()
