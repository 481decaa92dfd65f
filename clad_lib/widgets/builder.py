"""Build a scenario by ticking classes: its counts, its images, the check before training, and the command that runs it."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as ipw
import numpy as np
import torch
import traitlets

from clad_lib import preflight
from clad_lib.config import DATASETS, make_config
from clad_lib.data import ImageData, load_dataset, to_download
from clad_lib.plots.images import as_uri, montage
from clad_lib.plots.theme import ANOMALOUS, NORMAL
from clad_lib.scenarios import SCENARIOS, TITLES, Split, get_scenario
from clad_lib.sources import DataError
from clad_lib.widgets.parts import guarded, message_line, say, table
from clad_lib.widgets.ticks import Counts, command_of, counts_of, folder_of, spell, split_rows

FOLDER = "folder"
CELL, COLUMNS, SHOWN = 36, 10, 20  # px an image, images a row, images a picture unless there are more classes
AT_ONCE = 2e8  # multiplications of the pre-flight check that take about 10 ms
FRAME = "display:inline-block;vertical-align:top;margin:4px 16px 4px 0;padding-left:8px"


class ScenarioBuilder(ipw.VBox):
    """Tick the classes that are normal. Trait `command`: the line that runs the scenario, empty where there is none.

    dataset: a name or a folder of images; scenario: as for `get_scenario`, empty for the data set's first. Data that
    would have to be downloaded wait for the button.
    """

    command = traitlets.Unicode("")

    def __init__(self, dataset: str = "digits", scenario: str = "", *, profile: str = "fast", seed: int = 0,
                 overrides: dict[str, Any] | None = None):  # fmt: skip
        self.profile, self.seed, self.overrides = profile, seed, overrides or {}
        self.classes: dict[int, ipw.Checkbox] = {}
        self._data: tuple[ImageData, ImageData] | None = None
        self._split: Split | None = None
        self._busy = False  # several traits change as one
        self._make_parts(dataset)
        controls = ipw.HBox([self.dataset, self.path, self.download, self.scenario, self.clear])
        controls.layout.flex_flow = "row wrap"
        check = ipw.HBox([self.preflight, self.verdict], layout=ipw.Layout(align_items="center"))
        super().__init__([controls, self.message, self.class_list, self.counts, self.grid, check, self.command_line])
        self.dataset.observe(lambda change: self._open(), "value")
        self.path.observe(self._on_path, "value")
        self.scenario.observe(self._on_scenario, "value")
        self.download.on_click(lambda button: self._open(fetch=True))
        self.clear.on_click(lambda button: self._tick(()))
        self.preflight.on_click(lambda button: self._check())
        self._open(scenario)

    def _make_parts(self, dataset: str) -> None:
        own = dataset not in DATASETS
        options = [*((name, name) for name in DATASETS), ("a folder of images", FOLDER)]
        self.dataset = ipw.Dropdown(options=options, value=FOLDER if own else dataset, description="Data set")
        self.path = ipw.Text(value=dataset if own else "", description="Folder", continuous_update=False,
                             placeholder="one sub-folder a class, then Enter")  # fmt: skip
        self.scenario = ipw.Dropdown(options=[("own choice", "")], description="Scenario")
        self.download = ipw.Button(description="Download", icon="download", tooltip="Fetch this data set from the network")
        self.clear = ipw.Button(description="Untick all", tooltip="No class is normal")
        self.preflight = ipw.Button(description="Pre-flight", tooltip="Compare anomalies and normal images in pixels")
        self.preflight.layout.flex = "0 0 auto"
        self.class_list = ipw.GridBox(layout=ipw.Layout(max_height="252px", overflow="hidden auto", border="1px solid #BBBBBB",
                                                        grid_gap="0 10px", padding="4px"))  # fmt: skip
        self.counts, self.grid, self.message, self.verdict = ipw.HTML(), ipw.HTML(), message_line(), message_line()
        self.command_line = ipw.Text(description="Command", layout=ipw.Layout(width="auto"), placeholder="none: see above",
                                     tooltip="Copy this line into a terminal")  # fmt: skip

    def _on_path(self, change: dict) -> None:
        if self.dataset.value == FOLDER:
            self._open()
        else:
            self.dataset.value = FOLDER  # opens it

    def _on_scenario(self, change: dict) -> None:
        if change["new"] and not self._busy:
            self._tick(SCENARIOS[self.dataset.value][change["new"]])

    def _open(self, scenario: str = "", *, fetch: bool = False) -> None:
        """Show the data set that is chosen, or say why not."""
        self._data, self.classes, self.class_list.children = None, {}, ()
        self.class_list.layout.display = "none"
        self.path.layout.display = None if self.dataset.value == FOLDER else "none"
        self.download.layout.display = "none"
        self._choices()
        self._blank()
        with guarded(self.message):
            self._name = self.dataset.value if self.dataset.value != FOLDER else folder_of(self.path.value)
            missing = to_download(self._name)
            self.download.layout.display = None if missing else "none"
            if missing and not fetch:
                say(self.message, f"{missing}; press Download to fetch it", loud=True)
                return
            say(self.message, f"{'downloading' if missing else 'reading'} {self._name} ...")
            self.download.disabled = True
            self._show(load_dataset(self._name), scenario)
            self.download.layout.display = "none"
        self.download.disabled = False

    def _show(self, data: tuple[ImageData, ImageData], scenario: str) -> None:
        """Checkboxes and thumbnails of newly loaded data, with the scenario ticked."""
        self._data, names = data, data[0].class_names
        self._rows = [_some_rows(part.labels, len(names)) for part in data]
        fewest = min(len(rows) for rows in self._rows[0])
        first = (0,) if fewest else tuple(label for label, rows in enumerate(self._rows[0]) if len(rows))
        start, problem = next(iter(SCENARIOS.get(self._name, {}).values()), first), ""
        try:
            start = get_scenario(self._name, scenario, class_names=names).normal if scenario else start
        except DataError as error:
            problem = str(error)
        cells = []
        for label, name in enumerate(names):
            text = name if self._name not in SCENARIOS or name == str(label) else f"{label} {name}"
            self.classes[label] = ipw.Checkbox(description=text, indent=False, tooltip=f"{name} is normal",
                                               layout=ipw.Layout(width="auto", flex="1 1 0", min_width="0"))  # fmt: skip
            self.classes[label].observe(lambda change: self._refresh(), "value")
            part = 0 if len(self._rows[0][label]) else 1
            images = data[part].images[self._rows[part][label][:3]]
            cells.append(ipw.HBox([ipw.HTML(_picture(images, f"images of {name}", size=28)), self.classes[label]]))
        width = 130 + min(7 * max(map(len, names)), 250)  # px: thumbnails and the longest name; two fit beside each other
        self.class_list.layout.grid_template_columns = f"repeat(auto-fill, minmax({width}px, 1fr))"
        self.class_list.children, self.class_list.layout.display = cells, None
        self._tick(start)
        if problem:
            say(self.message, problem, loud=True)

    def _tick(self, normal: Sequence[int]) -> None:
        self._busy = True
        for label, box in self.classes.items():
            box.value = label in normal
        self._busy = False
        self._refresh()

    def _refresh(self) -> None:
        """Everything below the ticks, from the ticks."""
        if self._busy or self._data is None:
            return
        (train, test), self._split = self._data, None
        normal = tuple(label for label, box in self.classes.items() if box.value)
        self._choices(normal)
        with guarded(self.message):
            scenario = spell(self._name, train.class_names, normal)
            config = make_config(self._name, scenario.name, profile=self.profile, seed=self.seed, **self.overrides)
            self._split = split_rows(train, test, scenario, config)
            self.command = self.command_line.value = command_of(config)
            untested = [train.class_names[label] for label in normal if not len(self._rows[1][label])]
            also = f"; no test images of {', '.join(untested)}" if untested else ""
            say(self.message, f"{len(normal)} of {len(self.classes)} classes are normal: {scenario.title}{also}")
            self._fill(counts_of(self._split), normal)
            return
        self._blank()

    def _fill(self, found: Counts, normal: Sequence[int]) -> None:
        rows = [("train", found.train, "none"), ("calibration", found.calibration, "none"),
                ("test", found.test_normal, found.test_anomalous)]  # fmt: skip
        self.counts.value = table(("images", "normal", "anomalous"), rows)
        other = [label for label in self.classes if label not in normal]
        self.grid.value = self._panel(0, normal, "normal", f"3px solid {NORMAL.colour}") + self._panel(
            1, other, "anomalous", f"3px dashed {ANOMALOUS.colour}"
        )
        pixels = int(np.prod(self._data[0].images.shape[1:])) if self._data else 0
        work = min(found.train, 5000) * min(found.test_normal + found.test_anomalous, 5000) * pixels
        self.preflight.disabled = False
        if work <= AT_ONCE:
            self._check()
        else:
            say(self.verdict, "not computed yet: press Pre-flight, it takes some seconds")

    def _panel(self, part: int, labels: Sequence[int], word: str, line: str) -> str:
        """Some training images of the normal classes (part 0), or test images of the others (part 1), every class in turn."""
        assert self._data is not None
        each = max(1, SHOWN // len(labels))
        rows = np.concatenate([self._rows[part][label][:each] for label in labels])[: 2 * SHOWN]
        names = ", ".join(self._data[0].class_names[label] for label in labels)
        picture = _picture(self._data[part].images[rows], f"{word}: {names}")
        return f'<div style="{FRAME};border-left:{line}"><b>{word}</b> ({("train", "test")[part]})<br>{picture}</div>'

    def _check(self) -> None:
        """The pre-flight verdict on the split that is shown."""
        if self._data is None or self._split is None:
            return
        say(self.verdict, "computing distances ...")
        self.preflight.disabled = True
        with guarded(self.verdict):
            split = self._split
            parts = zip(self._data, (split.train_index, split.test_index), strict=True)
            train, test = (torch.from_numpy(np.ascontiguousarray(data.images[rows])) for data, rows in parts)
            near = preflight.neighbours(dataclasses.replace(split, train=train, test=test))
            found = preflight.verdict(near, split.answers.test_anomaly[near.rows])
            say(self.verdict, f"{'WARNING, analysis' if found.warns else 'analysis'}: {found.text}", loud=found.warns)
        self.preflight.disabled = False

    def _choices(self, normal: Sequence[int] = ()) -> None:
        """The quick choices of the data set, with the one that the ticks are."""
        known = SCENARIOS.get(self.dataset.value, {})
        options = [("own choice", ""), *((f"{name}: {TITLES[name]}", name) for name in known)]
        self._busy = True
        if list(self.scenario.options) != options:
            self.scenario.options = options
        self.scenario.value = next((name for name, labels in known.items() if set(labels) == set(normal)), "")
        self._busy = False

    def _blank(self) -> None:
        """Nothing below the ticks."""
        self._split, self.preflight.disabled = None, True
        self.command = self.command_line.value = self.counts.value = self.grid.value = ""
        say(self.verdict, "")


def _some_rows(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """Rows of at most SHOWN images of each class, from all over the data: neighbours are often frames of one object."""
    random = np.random.default_rng(0)
    return [random.permutation(np.flatnonzero(labels == label))[:SHOWN] for label in range(classes)]


def _picture(images: np.ndarray, alt: str, *, size: int = CELL) -> str:
    """Images (N, C, H, W) as one picture in HTML, `size` px each."""
    if not len(images):
        return "<i>no images</i>"
    sheet, _ = montage([images[i : i + COLUMNS] for i in range(0, len(images), COLUMNS)])
    scale = size / images.shape[3]
    uri = as_uri(sheet, scale=scale)[0]
    width = round(sheet.shape[1] * scale)
    return f'<img src="{uri}" alt="{html.escape(alt)}" width="{width}" style="max-width:none">'
