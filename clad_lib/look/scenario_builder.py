"""The scenario builder: tick the classes that are normal; counts, and the command that runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd

from clad_lib.config import Config, datasets, make_config, overrides_of
from clad_lib.data.pictures import DataError
from clad_lib.data.reading import ImageData, load_dataset, to_download
from clad_lib.data.scenarios import Scenario, get_scenario, make_split, scenarios_of
from clad_lib.look import parts
from clad_lib.look.live import CopyLine

FOLDER, OWN = "a folder of images", "own choice"
THUMBNAILS = 3


def spell(dataset: str, class_names: Sequence[str], normal: Sequence[int]) -> Scenario:
    """The scenario whose normal classes are these labels, under a name that commands understand.

    That is the paper's name, else labels, for the classes of a folder their names where they can
    be written. Raises DataError for none or all of the classes, and for one without such a name.
    """
    if not 0 < len(normal) < len(class_names):
        raise DataError(
            f"{len(normal)} of {len(class_names)} classes are ticked as normal: tick at least one, "
            "and leave at least one for the anomalies"
        )

    def written(label: int) -> str:
        for name in (str(label),) if dataset in datasets() else (class_names[label], str(label)):
            with contextlib.suppress(DataError):
                if get_scenario(dataset, name, class_names=class_names).normal == (label,):
                    return name
        raise DataError(
            f"class {class_names[label]!r} cannot be named in a command: rename its folder, without"
            " + and spaces at the ends"
        )

    known = {frozenset(each.normal): name for name, each in scenarios_of(dataset).items()}
    name = known.get(frozenset(normal)) or "+".join(map(written, normal))
    return get_scenario(dataset, name, class_names=class_names)


def command_of(config: Config) -> str:
    """The line for a shell that runs the study of a configuration."""
    line = ["clad", "study", "--dataset", config.dataset, "--scenario", config.scenario]
    line += ["--profile", config.profile] if config.profile != Config.profile else []
    line += ["--seed", str(config.seed)] if config.seed else []
    settings = [f"{name}={value}" for name, value in overrides_of(config).items()]
    return shlex.join(line + [word for each in settings for word in ("--set", each)])


def parameters_of(config: Config) -> str:
    """The same as lines for a notebook's cell of parameters."""
    fields = ("dataset", "scenario", "profile", "seed")
    lines = [f"{name} = {getattr(config, name)!r}" for name in fields]
    return "; ".join([*lines, f"overrides = {overrides_of(config)!r}"])


def counts_of(
    train: ImageData, test: ImageData, scenario: Scenario, config: Config
) -> pd.DataFrame:
    """How many images each part of a configuration's split has, from labels alone.

    Raises DataError where no split can be made of them.
    """
    bare = (dataclasses.replace(each, images=each.images[:, :0]) for each in (train, test))
    names = ("seed", "calibration", "max_train", "max_test")
    split = make_split(*bare, scenario, **{name: getattr(config, name) for name in names})
    odd = int(split.answers.test_anomaly.sum())
    normal = [len(split.train), len(split.calibration), len(split.test) - odd]
    index = ["train", "calibration", "test"]
    return pd.DataFrame({"normal": normal, "anomalous": [0, 0, odd]}, index)


def folder_of(text: str) -> str:
    """The absolute path of a folder that was typed; DataError where there is none."""
    folder = Path(text.strip()).expanduser().resolve()
    if not text.strip() or not folder.is_dir():
        raise DataError(
            f"there is no folder {text!r}: type one with images, one sub-folder a class"
        )
    return str(folder)


class ScenarioBuilder(ipw.VBox):
    """Tick the classes that are normal; `config` is the configuration that they make, or None.

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
        self.options = {"profile": profile, "seed": seed, **(overrides or {})}
        self.boxes, self.config = list[ipw.Checkbox](), None
        names, own = [*datasets(), FOLDER], dataset not in datasets()
        shown, typed = (FOLDER, dataset) if own else (dataset, "")
        self.dataset = ipw.Dropdown(options=names, value=shown, description="data set")
        self.path = ipw.Text(value=typed, description="folder", continuous_update=False)
        self.scenario = ipw.Dropdown(options=[OWN], description="scenario")
        self.download = ipw.Button(description="Download")
        self.clear = ipw.Button(description="Untick all")
        self.message, self.counts = ipw.HTML(), ipw.HTML().add_class("clad-counts")
        self.classes = ipw.Box(layout=parts.ROW)
        self.command = CopyLine(label="command")
        self.parameters = CopyLine(label="parameters of a notebook")
        controls = [self.dataset, self.path, self.download, self.scenario, self.clear]
        lines = self.counts, self.command, self.parameters
        super().__init__(parts.rows(controls, self.message, self.classes, *lines))
        self.add_class("clad")
        self.dataset.observe(lambda _: self.open(), "value")
        self.path.observe(lambda _: self.open(), "value")
        self.scenario.observe(self._on_scenario, "value")
        self.download.on_click(lambda _: self.open(fetch=True))
        self.clear.on_click(lambda _: self.tick(()))
        self.open(scenario)

    def open(self, scenario: str = "", *, fetch: bool = False) -> None:
        """Show the classes of the data set that is chosen, or say why not."""
        self.boxes, self.classes.children = [], ()
        self._blank()
        own = self.dataset.value == FOLDER
        self.path.layout.display = None if own else "none"
        with parts.guarded(self.message):
            self.name = folder_of(self.path.value) if own else self.dataset.value
            missing = to_download(self.name)
            self.download.layout.display = None if missing else "none"
            if missing and not fetch:
                raise DataError(f"{missing}; press Download to fetch it")
            parts.say(self.message, f"Reading {self.name} ...")
            self.data = load_dataset(self.name)
            self.download.layout.display = "none"
            self.known = scenarios_of(self.name)
            self.scenario.options = [OWN, *self.known]
            self._list_classes()
            self.tick(self._first(scenario))

    def _first(self, scenario: str) -> Sequence[int]:
        names, labels = self.data[0].class_names, np.unique(self.data[0].labels)
        if scenario or self.known:
            name = scenario or next(iter(self.known))
            return get_scenario(self.name, name, class_names=names).normal
        return labels if len(labels) < len(names) else labels[:1]

    def _list_classes(self) -> None:
        cells, (train, test) = [], self.data
        for label, name in enumerate(train.class_names):
            part = train if (train.labels == label).any() else test
            few = np.flatnonzero(part.labels == label)[:: 1 + len(part.labels) // 9][:THUMBNAILS]
            text = name if name == str(label) else f"{label} {name}"
            self.boxes.append(ipw.Checkbox(description=text, indent=False))
            self.boxes[-1].observe(self._refresh, "value")
            pictures = parts.strip(part.images[few], [""] * len(few), size=28)
            cells.append(ipw.VBox([ipw.HTML(pictures), self.boxes[-1]]))
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
        self._ticking = True
        for label, box in enumerate(self.boxes):
            box.value = label in normal
        self._ticking = False
        self._refresh()

    def _blank(self) -> None:
        self.config, self.command.value, self.parameters.value, self.counts.value = None, "", "", ""

    def _refresh(self, _: Any = None) -> None:
        """Everything below the ticks, from the ticks."""
        if self._ticking:
            return
        self._blank()
        names = {frozenset(each.normal): name for name, each in self.known.items()}
        self.scenario.value = names.get(frozenset(self.normal), OWN)
        with parts.guarded(self.message):
            scenario = spell(self.name, self.data[0].class_names, self.normal)
            config = make_config(self.name, scenario.name, **self.options)
            counts = parts.table(counts_of(*self.data, scenario, config), "Images")
            self.config, self.counts.value = config, counts
            self.command.value, self.parameters.value = command_of(config), parameters_of(config)
            parts.say(self.message, f"Normal: {scenario.title}.")
