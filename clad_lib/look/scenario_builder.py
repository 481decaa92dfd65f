"""The scenario builder: tick the classes that are normal; counts, and the command that runs it."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd

from clad_lib.config import Config, datasets, make_config, overrides_of
from clad_lib.data.pictures import DataError
from clad_lib.data.reading import load_dataset, to_download
from clad_lib.data.scenarios import Scenario, Split, get_scenario, make_split, scenarios_of
from clad_lib.look import parts
from clad_lib.look.live import CopyLine

FOLDER, OWN = "a folder of images", "own choice"
SPLIT = ("seed", "calibration", "max_train", "max_test")  # settings that decide a split
THUMBNAILS = 3  # of a class


def spell(dataset: str, class_names: Sequence[str], normal: Sequence[int]) -> Scenario:
    """The scenario whose normal classes are these labels, under the shortest name for a command.

    That is the paper's, else the labels, for a folder the names of the classes. Raises DataError
    for none or all of the classes.
    """
    if not 0 < len(normal) < len(class_names):
        raise DataError(
            f"{len(normal)} of {len(class_names)} classes are ticked as normal: tick at least one, "
            "and leave at least one for the anomalies"
        )
    short = [str(k) if dataset in datasets() else class_names[k] for k in normal]
    exact = "+".join(f"label={k}" for k in normal)
    for name in (*scenarios_of(dataset), "+".join(short), exact):
        with contextlib.suppress(DataError):  # a name that could mean other classes too
            found = get_scenario(dataset, name, class_names=class_names)
            if set(found.normal) == set(normal):
                return found
    raise DataError(f"{exact} is also the name of a class: rename its folder")


def command_of(config: Config) -> str:
    """The line for a shell that runs the study of a configuration."""
    line = ["clad", "study", "--dataset", config.dataset, "--scenario", config.scenario]
    line += ["--profile", config.profile] if config.profile != Config.profile else []
    line += ["--seed", str(config.seed)] if config.seed != Config.seed else []
    settings = [f"{name}={value}" for name, value in overrides_of(config).items()]
    return shlex.join(line + [word for each in settings for word in ("--set", each)])


def counts_of(split: Split) -> pd.DataFrame:
    """How many normal and anomalous images each part of a split has."""
    odd = int(split.answers.test_anomaly.sum())
    normal = [len(split.train), len(split.calibration), len(split.test) - odd]
    index = ["train", "calibration", "test"]
    return pd.DataFrame({"normal": normal, "anomalous": [0, 0, odd]}, index)


class ScenarioBuilder(ipw.VBox):
    """Tick the classes that are normal. `config` is the configuration they make, None for none.

    dataset: a name or a folder of images; scenario: as for `get_scenario`, empty for the data
    set's first. Data that would have to be downloaded wait for the button.
    """

    def __init__(
        self,
        dataset: str = "digits",
        scenario: str = "",
        *,
        profile: str = "fast",
        seed: int = 0,
        overrides: dict[str, Any] | None = None,
    ):
        self.settings = {"profile": profile, "seed": seed, **(overrides or {})}
        self.boxes, own = list[ipw.Checkbox](), dataset not in datasets()
        options, shown = [*datasets(), FOLDER], FOLDER if own else dataset
        self.dataset = ipw.Dropdown(options=options, value=shown, description="data set")
        self.path = ipw.Text(description="folder", continuous_update=False)
        self.path.value = dataset if own else ""
        self.scenario = ipw.Dropdown(description="scenario")
        self.download = ipw.Button(description="Download")
        self.clear = ipw.Button(description="Untick all")
        self.message, self.counts = ipw.HTML(), ipw.HTML()
        self.classes, self.command = ipw.Box(layout=parts.ROW), CopyLine(label="command")
        controls = [self.dataset, self.path, self.download, self.scenario, self.clear]
        below = (self.message, self.classes, self.counts, self.command)
        super().__init__(parts.rows(controls, *below))
        self.add_class("clad")
        self.dataset.observe(lambda _: self.open(), "value")
        self.path.observe(lambda _: self.open(), "value")
        self.scenario.observe(self._on_scenario, "value")
        self.download.on_click(lambda _: self.open(fetch=True))
        self.clear.on_click(lambda _: self.tick(()))
        self.open(scenario)

    def open(self, scenario: str = "", *, fetch: bool = False) -> None:
        """Show the classes of the data set that is chosen, or say why not."""
        self.boxes, self.classes.children, own = [], (), self.dataset.value == FOLDER
        self._show(None)
        self.path.layout.display = None if own else "none"
        self.name = os.path.expanduser(self.path.value.strip()) if own else self.dataset.value
        missing = to_download(self.name)
        self.download.layout.display = None if missing else "none"
        with parts.guarded(self.message):
            if not self.name or (missing and not fetch):
                raise DataError((missing and f"{missing}; press Download") or "type a folder")
            how = {k: v for k, v in self.settings.items() if k in ("size", "split")}
            self.data, self.known = load_dataset(self.name, **how), scenarios_of(self.name)
            self.download.layout.display = "none"
            self.scenario.options = [OWN, *self.known]
            self._list_classes()
            self.tick(self._first(scenario))

    def _first(self, scenario: str) -> Sequence[int]:
        names, labels = self.data[0].class_names, np.unique(self.data[0].labels)
        if scenario or self.known:
            first = min(self.known, key=Config.scenario.__ne__, default="")  # the default, or the first
            return get_scenario(self.name, scenario or first, class_names=names).normal
        return labels if len(labels) < len(names) else labels[:1]

    def _list_classes(self) -> None:
        cells, (train, test) = list[ipw.Widget](), self.data
        for label, name in enumerate(train.class_names):
            part = train if (train.labels == label).any() else test
            places = np.flatnonzero(part.labels == label)
            few = part.images[places[:: max(1, len(places) // THUMBNAILS)][:THUMBNAILS]]
            box = ipw.Checkbox(description=name if name == str(label) else f"{label} {name}")
            box.observe(self._refresh, "value")
            self.boxes.append(box)
            cells.append(ipw.VBox([ipw.HTML(parts.strip(few, [name] * len(few), size=28)), box]))
        self.classes.children = cells

    def _on_scenario(self, change: Any) -> None:
        chosen = self.known.get(change["new"])
        if chosen and set(chosen.normal) != set(self.normal):
            self.tick(chosen.normal)

    @property
    def normal(self) -> tuple[int, ...]:
        """The labels that are ticked."""
        return tuple(label for label, box in enumerate(self.boxes) if box.value)

    def tick(self, normal: Sequence[int]) -> None:
        """Tick these labels and no others."""
        self.ticking = True
        for label, box in enumerate(self.boxes):
            box.value = label in normal
        self.ticking = False
        self._refresh()

    def _refresh(self, _: Any = None) -> None:
        """Everything below the ticks, from the ticks."""
        if self.ticking:
            return
        self._show(None)
        names = {frozenset(each.normal): name for name, each in self.known.items()}
        self.scenario.value = names.get(frozenset(self.normal), OWN)
        with parts.guarded(self.message):
            scenario = spell(self.name, self.data[0].class_names, self.normal)
            config = make_config(self.name, scenario.name, **self.settings)
            choices = {name: getattr(config, name) for name in SPLIT}
            split = make_split(*self.data, scenario, **choices)
            self._show(config, parts.table(counts_of(split), "Images", "counts"))
            notes = [note for each in self.data for note in each.notes]
            parts.say(self.message, " ".join([f"Normal: {scenario.title}.", *notes]))

    def _show(self, config: Config | None, counts: str = "") -> None:
        self.config, self.counts.value = config, counts
        self.command.value = command_of(config) if config else ""
