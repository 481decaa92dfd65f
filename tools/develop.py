"""Measure a method on development scenarios, on which its settings may be chosen.

They are twelve groupings of classes over four data sets, none of which is a scenario of the study.
Only training files are used: a quarter of them, by whole tracks, plays the test. Each data set has
a grouping drawn from all its classes, and two halves of groupings of the study, because only
classes that belong together tell whether a method sees what they have in common. `auroc` is that
against all other classes, `auroc_apart` that without the other half, which has it in common too.
For example:

    CLAD_DATA=... python tools/develop.py --methods Patches --set patch_features=2048

One row for each scenario and part of a method is appended to results/development.csv.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clad_lib
from clad_lib.clad.dec import clusters
from clad_lib.clad.networks import Trained
from clad_lib.clad.training import autoencoder, seeded
from clad_lib.config import Settings, datasets, make_config
from clad_lib.data.reading import ImageData, load_dataset
from clad_lib.data.scenarios import Scenario, Split, make_split
from clad_lib.judge.metrics import auroc
from clad_lib.methods.contrastive import contrastive, contrastive_network
from clad_lib.methods.fused import CONTRASTIVE, FusedScorer, fused, trust
from clad_lib.methods.patches import patches
from clad_lib.methods.rotation import fit_rotation, rotation, rotation_network
from clad_lib.methods.scorers import PartScorer, held_out

DATASETS = ("mnist", "gtsrb", "cifar10", "tiny_imagenet")
METHODS = ("Patches", "Rotation", "Rotation, DEC labels")
METHODS += ("Fused", "FusedPhotographs")
LAYERS = {"": (), ", first layer": ("pixels",), ", second layer": ("cells",)}
TABLE = Path(__file__).parents[1] / "results" / "development.csv"


def groupings(dataset: str, *, seed: int = 2026) -> list[tuple[int, ...]]:
    """Three groupings of classes of a data set that are none of the study's scenarios.

    The first is drawn from all classes, the others are halves of groupings of the study.
    """
    known = [tuple(row["normal"]) for row in datasets()[dataset]["scenarios"].values()]
    random = np.random.default_rng([seed, DATASETS.index(dataset)])

    def some(classes, count: int) -> tuple[int, ...]:
        return tuple(sorted(random.choice(classes, count, replace=False).tolist()))

    mixed = some(len(datasets()[dataset]["classes"]), len(known[0]))
    halves = [
        some(known[place], -(-len(known[place]) // 2))
        for place in random.choice(len(known), 2, replace=False)
    ]
    if set(known) & {mixed, *halves}:
        raise RuntimeError(f"a development grouping of {dataset} is a scenario: use another seed")
    return [mixed, *halves]


def development_split(
    dataset: str, normal: tuple[int, ...], *, max_train: int, max_test: int, seed: int = 0
) -> Split:
    """A split of the training file alone; its test part is a quarter of the tracks."""
    data, _ = load_dataset(dataset)
    random = np.random.default_rng(seed)
    _, place = np.unique(data.tracks, return_inverse=True)
    held = (random.random(place.max() + 1) < 0.25)[place]
    train, test = (
        ImageData(data.images[rows], data.labels[rows], data.tracks[rows], data.class_names)
        for rows in (~held, held)
    )
    name, mirror = "+".join(map(str, normal)), datasets()[dataset].get("mirror", False)
    scenario = Scenario(dataset, name, "development", normal, mirror)
    return make_split(train, test, scenario, seed=seed, max_train=max_train, max_test=max_test)


def other_half(dataset: str, normal: tuple[int, ...]) -> set[int]:
    """The other classes of the one grouping of the study that holds these, if there is one."""
    wholes = [set(row["normal"]) for row in datasets()[dataset]["scenarios"].values()]
    return next((whole - {*normal} for whole in wholes if whole > {*normal}), set())


def scored(method: str, split: Split, settings: Settings) -> dict[str, torch.Tensor]:
    """Scores of the test images by one of METHODS ("") and by each of its parts, name -> (N,).

    "Rotation, DEC labels" takes the pseudo-labels of autoencoder and DEC in place of the setting
    `rotation_labels`; its accuracy is theirs where `rotation_views` is at most `trust_views`. With
    `patch_layers` 2 there are each of the layers alone, too.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: expected one of {METHODS}")
    if method == "Patches":
        scorer = patches(split, settings)
        layers = {f"Patches{name}": each(split.test) for name, each in layers_of(scorer).items()}
        return {"": scorer(split.test), **scorer.parts(split.test), **layers}
    if method.startswith("Rotation"):
        with seeded(settings.seed):
            network = turned_by(method, split, settings)
        with seeded(settings.seed):
            turning = rotation(split, settings, network)
        scores = turning(split.test)
        told = {"": scores, f"accuracy {turning.accuracy:.3f}": scores}
        return told | turning.parts(split.test)
    with seeded(settings.seed):
        network = rotation_network(split, settings)
    with seeded(settings.seed):
        turning = rotation(split, settings, network)
        experts = fused(split, settings, patches(split, settings), turning)
    plain = {name: expert(split.test) for name, expert in experts.experts.items()}
    p_values = {name: -torch.log(p) for name, p in experts.p_values([*plain.values()]).items()}
    sums = {
        f"-log p, weight of rotation {weight:g} trust^{power}": p_values["Patches"]
        + weight * trust(turning.accuracy) ** power * p_values["Rotation"]
        for weight in (1, 2, 4, 8)
        for power in (1, 2, 3)
    }
    accuracy = {f"accuracy {turning.accuracy:.3f}": plain["Rotation"]}
    parts = turning.parts(split.test)
    told = {"": experts(split.test), "Patches": plain["Patches"], **parts, **sums, **accuracy}
    if method == "FusedPhotographs":
        with seeded(settings.seed):
            third = contrastive(split, settings, contrastive_network(split, settings))
        told |= with_third(split, experts, third)
        told |= with_layers(split, experts, third)
    return told | with_layers(split, experts)


def turned_by(method: str, split: Split, settings: Settings) -> Trained:
    """The network of Rotation, as `scored` says."""
    if method == "Rotation":
        return rotation_network(split, settings)
    kept = ~held_out(split.train_tracks, seed=settings.seed)
    found = clusters(split, settings, autoencoder(split, settings))
    images, labels = split.train[kept], torch.from_numpy(found.labels)[kept]
    return fit_rotation(images, labels, split, settings, count=settings.rotation_views)


def layers_of(scorer: PartScorer) -> dict[str, PartScorer]:
    """Each of two layers of Patches alone, and both, name -> scorer; empty where there is one."""
    words = LAYERS if any("cells" in name for name in scorer.names) else {}
    return {name: Some(scorer, each) for name, each in words.items()}


def with_layers(
    split: Split, experts: FusedScorer, third: PartScorer | None = None
) -> dict[str, torch.Tensor]:
    """Scores (N,) of Fused, with a third expert of FusedPhotographs, by each layer of Patches."""
    name, weights, known = "Fused", experts.weights, dict(experts.experts)
    if third:
        name, weights = "FusedPhotographs", weights | {"Contrastive": CONTRASTIVE}
        known["Contrastive"] = third
    others = [each(split.test) for other, each in known.items() if other != "Patches"]
    return {
        f"{name}{layer}": FusedScorer({**known, "Patches": each}, weights).join(
            [each(split.test), *others]
        )
        for layer, each in layers_of(known["Patches"]).items()
    }


class Some(PartScorer):
    """A scorer made of those parts of another whose names hold all of `words`."""

    def __init__(self, whole: PartScorer, words: tuple[str, ...]):
        self.whole = whole
        self.columns = [n for n, name in enumerate(whole.names) if all(w in name for w in words)]
        names = [whole.names[column] for column in self.columns]
        super().__init__(names, whole.shape, whole.own[:, self.columns])

    def distances(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, S, S) -> distances (N, parts)."""
        return self.whole.distances(images)[:, self.columns]


def with_third(split: Split, two: FusedScorer, third: PartScorer) -> dict[str, torch.Tensor]:
    """Scores (N,) by a third expert and its parts, and by all three at four weights of it.

    The third is also taken with its last level alone, and with its Mahalanobis distances, of the
    last level or of all.
    """
    plain = [each(split.test) for each in two.experts.values()]
    found = third.parts(split.test)
    for words in ((), ("level 4",), ("Mahalanobis", "level 4"), ("Mahalanobis",)):
        expert, told = Some(third, words), ", ".join(("", *words))
        scores = [*plain, expert(split.test)]
        found[f"Contrastive{told}"] = scores[2]
        for weight in (0.25, 0.5, 1, 2):
            weights = {**two.weights, "Contrastive": weight}
            three = FusedScorer({**two.experts, "Contrastive": expert}, weights)
            found[f"weight of contrastive {weight:g}{told}"] = three.join(scores)
    return found


def commit_of(code: Path) -> str:
    """The commit of the library's folder `code`; exits where it or this file is not committed."""
    for path in (code, Path(__file__).resolve()):
        git = ["git", "-C", str(path.parent)]
        if subprocess.check_output([*git, "status", "--porcelain", "--", path.name]):
            sys.exit(f"{path} has changes that are not committed: a row must name its code")
    git = ["git", "-C", str(code)]
    return subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()


def write_rows(
    dataset: str,
    split: Split,
    method: str,
    settings: dict[str, Any],
    found: dict[str, torch.Tensor],
    seconds: float,
    commit: str,
) -> None:
    """Append one row for each part of a method, part -> scores (N,)."""
    others = other_half(dataset, split.scenario.normal)
    answers, apart = (
        split.answers.test_anomaly,
        ~np.isin(split.answers.test_class, [*others]),
    )
    row = [datetime.date.today(), commit, dataset, split.scenario.name]
    row += [len(split.train), len(split.test), method, json.dumps(settings)]
    with TABLE.open("a", encoding="utf-8", newline="") as file:
        for part, scores in found.items():
            all_of_them, rest = (
                round(100 * auroc(scores.numpy()[rows], answers[rows]), 2)
                for rows in (slice(None), apart)
            )
            told = [part, all_of_them, round(seconds, 1), rest if others else ""]
            csv.writer(file, lineterminator="\n").writerow(row + told)


def main() -> None:
    """Measure the methods that are named on the scenarios that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--groupings", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=["Patches"])
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=JSON")
    parser.add_argument("--max-train", type=int, default=4000)
    parser.add_argument("--max-test", type=int, default=2000)
    asked = parser.parse_args()
    commit = commit_of(Path(clad_lib.__file__).resolve().parent)
    chosen = {name: json.loads(value) for name, _, value in (s.partition("=") for s in asked.set)}
    for dataset in asked.datasets:
        settings = Settings.everything(
            make_config(dataset, "ALL", **chosen), device=torch.device("cpu")
        )
        for normal in (groupings(dataset)[place] for place in asked.groupings):
            split = development_split(
                dataset, normal, max_train=asked.max_train, max_test=asked.max_test
            )
            for method in asked.methods:
                start = time.process_time()
                found = scored(method, split, settings)
                seconds = time.process_time() - start
                write_rows(dataset, split, method, chosen, found, seconds, commit)


if __name__ == "__main__":
    main()
