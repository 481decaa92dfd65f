"""The scenario builder: tick the classes that are normal; counts, and the command that runs it."""

from __future__ import annotations

import contextlib
import html
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd

from clad_lib.config import Config, datasets, make_config
from clad_lib.data.pictures import DataError
from clad_lib.data.reading import load_dataset
from clad_lib.data.scenarios import Scenario, Split, get_scenario, make_split, scenarios_of
from clad_lib.look import parts
from clad_lib.look.images import as_uri
from clad_lib.look.live import CopyLine
from clad_lib.study.notebooks import overrides_of

SPLIT = ("seed", "calibration", "max_train", "max_test")  # settings that decide a split
OWN = "own choice"


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
    counts = {"normal": normal, "anomalous": [0, 0, odd]}
    return pd.DataFrame(counts, ["train", "calibration", "test"])


class ScenarioBuilder(parts.Explorer):
    """Tick the classes that are normal. `config` is the configuration they make, None for none.

    dataset: a name or a folder of images; scenario: what is ticked first, as for `get_scenario`.
    Raises DataError where there are no such images or no such scenario.
    """

    def __init__(
        self,
        dataset: str = Config.dataset,
        scenario: str = Config.scenario,
        *,
        profile: str = Config.profile,
        seed: int = Config.seed,
        overrides: dict[str, Any] | None = None,
    ):
        self.settings = {"profile": profile, "seed": seed, **(overrides or {})}
        asked = make_config(dataset, scenario, **self.settings)
        self.dataset, self.known = asked.dataset, scenarios_of(asked.dataset)
        self.data = load_dataset(asked.dataset, size=asked.size, split=asked.split)
        self.scenario = ipw.Dropdown(options=[OWN, *self.known], description="scenario")
        self.clear = ipw.Button(description="Untick all")
        self.boxes = [
            ipw.Checkbox(
                description=name if name == str(k) else f"{k} {name}",
                indent=False,
                layout={"width": "auto", "min_width": "60px"},
            )
            for k, name in enumerate(self.data[0].class_names)
        ]
        cells = [ipw.HBox([self._pictures(k), box]) for k, box in enumerate(self.boxes)]
        classes, self.command = ipw.Box(cells, layout=parts.WRAP), CopyLine(label="command")
        self.message, self.counts = ipw.HTML(), ipw.HTML()
        below = (self.message, classes, self.counts, self.command)
        super().__init__([self.scenario, self.clear], *below)
        for box in self.boxes:
            box.observe(self._refresh, "value")
        self.scenario.observe(self._on_scenario, "value")
        self.clear.on_click(lambda _: self.tick(()))
        names = self.data[0].class_names
        self.tick(get_scenario(self.dataset, scenario, class_names=names).normal)

    def _pictures(self, label: int) -> ipw.HTML:
        part = next((part for part in self.data if (part.labels == label).any()), self.data[0])
        places = np.flatnonzero(part.labels == label)
        few = part.images[places[:: 1 + len(places) // 3]]  # from all over: neighbours are alike
        sheet = as_uri(np.concatenate(few.transpose(0, 2, 3, 1), axis=1))
        name = html.escape(f"images of {part.class_names[label]}")
        return ipw.HTML(f'<img src="{sheet}" alt="{name}" height="28">')

    def tick(self, normal: Iterable[int]) -> None:
        """Tick these labels and no others."""
        self._ticking, wanted = True, set(normal)
        for label, box in enumerate(self.boxes):
            box.value = label in wanted
        self._ticking = False
        self._refresh()

    def _on_scenario(self, change: Any) -> None:
        name, shown = change["new"], self.config and self.config.scenario
        if name in self.known and name != shown:
            self.tick(self.known[name].normal)

    def _refresh(self, _: Any = None) -> None:
        """Everything below the ticks, from the ticks."""
        if self._ticking:
            return
        normal = [label for label, box in enumerate(self.boxes) if box.value]
        self.config, self.command.value, self.counts.value = None, "", ""
        self.scenario.value = OWN
        with parts.guarded(self.message):
            scenario = spell(self.dataset, self.data[0].class_names, normal)
            config = make_config(self.dataset, scenario.name, **self.settings)
            split = make_split(*self.data, scenario, **{k: getattr(config, k) for k in SPLIT})
            self.counts.value = parts.table(counts_of(split), "Images", "counts")
            self.config, self.command.value = config, command_of(config)
            self.scenario.value = scenario.name if scenario.name in self.known else OWN
            notes = [note for each in self.data for note in each.notes]
            parts.say(self.message, " ".join([f"Normal: {scenario.title}.", *notes]))
