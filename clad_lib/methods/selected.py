"""Choosing a score without anomalies: pseudo-classes are withheld to stand for them.

What the labels of the test images would have chosen is the oracle.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clad_lib.clad.dec import kmeans
from clad_lib.clad.networks import Clusters, Trained
from clad_lib.clad.posthoc import POSTHOC, msp
from clad_lib.clad.scores import (
    EPSILONS,
    TEMPERATURES,
    OdinGrid,
    Scored,
    odin,
    outputs,
    searched_grid,
)
from clad_lib.clad.training import infer, seeded, train_classifier
from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.judge.metrics import auroc
from clad_lib.methods.scorers import NotApplicable

GROUPS = 6  # of k-means, withheld when the number of clusters itself is chosen


class Fold(NamedTuple):
    """Rows of the training images to train on, and to test on: new normal and withheld ones."""

    train: np.ndarray
    tested: np.ndarray  # (n,)
    withheld: np.ndarray  # (n,) bool: these stand for anomalies


class Choice(NamedTuple):
    """A score and its AUROC, with temperature, epsilon and the unit of epsilon if it is ODIN."""

    score: str
    temperature: float = np.nan
    epsilon: float = np.nan
    unit: str = ""
    auroc: float = np.nan


class Simulations(NamedTuple):
    """How well each score tells withheld pseudo-classes; empty where none could be withheld."""

    table: pd.DataFrame  # the number of the fold, and the fields of Choice


def withheld_folds(
    labels: np.ndarray, tracks: np.ndarray, settings: Settings, *, limit: int = 500
) -> list[Fold]:
    """Folds that each withhold a share of the pseudo-classes, others each time if they can.

    labels (N,) pseudo-labels. A tenth of the tracks (N,) of the kept images, at most `limit`, stay
    out of training; at most `limit` of their images stand for normal images, and as many withheld
    ones for anomalies. Two pseudo-classes are always kept: with fewer than three there are no
    folds. Reads folds and withheld.
    """
    random, found = np.random.default_rng(settings.seed), []
    classes = random.permutation(np.unique(labels))
    count = min(max(1, round(settings.withheld * len(classes))), len(classes) - 2)
    for fold in range(settings.folds if count > 0 else 0):
        outside = np.isin(labels, np.roll(classes, -fold * count)[:count])
        kept, withheld = (random.permutation(np.flatnonzero(each)) for each in (~outside, outside))
        names = pd.unique(tracks[kept])  # in the order of `kept`, at random
        apart = np.isin(tracks[kept], names[: min(limit, max(1, len(names) // 10))])
        normal = np.sort(kept[apart][:limit])
        tested = np.concatenate([normal, np.sort(withheld[:limit])])
        found.append(Fold(np.sort(kept[~apart]), tested, np.arange(len(tested)) >= len(normal)))
    return found


def simulations(split: Split, settings: Settings, clusters: Clusters) -> Simulations:
    """Each score against withheld pseudo-classes, by a short classifier a fold on the others.

    Reads folds, withheld, fold_epochs, odin_factor, and what `train_classifier` reads. No
    calibration image, test image or hidden class enters.
    """
    labels, rows = clusters.labels, list[tuple]()
    for number, fold in enumerate(withheld_folds(labels, split.train_tracks, settings)):
        model, images, known = _without(split, settings, fold, number, labels[fold.train])
        tested = split.train[fold.tested]
        train, new = (outputs(model, part) for part in (images, tested))
        plain = {
            name: score(new, train, known, model.head).numpy() for name, score in POSTHOC.items()
        }
        grid = searched_grid(model, tested, settings)
        rows += [(number, *each) for each in rate(grid, plain, fold.withheld, settings)]
    return Simulations(pd.DataFrame(rows, columns=["fold", *Choice._fields]))


def _without(
    split: Split, settings: Settings, fold: Fold, number: int, labels: np.ndarray
) -> tuple[Any, Tensor, Tensor]:
    """A classifier that never saw the withheld images, with the images and labels it was shown."""
    images, place = split.train[fold.train], np.unique(labels, return_inverse=True)[1]
    known, title = torch.from_numpy(place), f"fold {number + 1}, {place.max() + 1} clusters"
    options = dict(epochs=settings.fold_epochs, title=title)
    with seeded(settings.seed + number):
        return train_classifier(split, settings, images, known, **options).model, images, known


def rate(
    grid: np.ndarray, plain: Mapping[str, np.ndarray], anomaly: np.ndarray, settings: Settings
) -> list[Choice]:
    """AUROC of what `searched_grid` gives, (T, E, N), and of the `plain` scores, name -> (N,).

    anomaly (N,) bool; reads odin_factor.
    """
    unit = "published" if settings.odin_factor else "pixel"
    pairs = zip(product(TEMPERATURES, EPSILONS), grid.reshape(-1, len(anomaly)), strict=True)
    found = [Choice("ODIN", *pair, unit, auroc(values, anomaly)) for pair, values in pairs]
    return found + [Choice(name, auroc=auroc(each, anomaly)) for name, each in plain.items()]


def choose(table: pd.DataFrame) -> Choice:
    """The score and setting with the largest mean AUROC over folds; of equal ones the first."""
    means = table.groupby(
        [*Choice._fields[:-1]], sort=False, dropna=False, as_index=False
    ).auroc.mean()
    return Choice(**means.loc[means.auroc.idxmax()])


def selected(
    split: Split,
    settings: Settings,
    simulations: Simulations,
    classifier: Trained,
    *scored: Scored,
) -> Scored:
    """The score that tells withheld pseudo-classes best; without any, ODIN as it is set.

    Reads temperature, epsilon, epsilon_unit and odin_factor, for the latter case alone. Needs the
    scores of POSTHOC.
    """
    unit = "published" if settings.odin_factor else settings.epsilon_unit
    choice = Choice("ODIN", settings.temperature, settings.epsilon, unit)
    choice = choose(simulations.table) if len(simulations.table) else choice
    return _scores_of(choice, split, classifier.model, scored)


def oracle(
    split: Split, settings: Settings, classifier: Trained, grid: OdinGrid, *scored: Scored
) -> Scored:
    """The score that tells all test images best by their labels: for comparison, never a result.

    ODIN takes part at the step that is best on the test images of `grid`; where these are a sample,
    another step may be better on all. Reads odin_factor. Needs the scores of POSTHOC. Raises
    NotApplicable where the images of `grid` hold no anomalies or no normal images.
    """
    anomaly = split.answers.test_anomaly
    sample = anomaly[grid.test_rows]
    if sample.all() or not sample.any():
        raise NotApplicable(
            f"Oracle got {sample.sum()} anomalies among the {len(sample)} test images of ODIN's "
            "grid: expected both kinds of image; name a scenario with more of them"
        )
    step = max(rate(grid.test, {}, sample, settings), key=lambda choice: choice.auroc)
    found = [
        _scores_of(each, split, classifier.model, scored) for each in (step, *map(Choice, POSTHOC))
    ]
    best = max(found, key=lambda each: auroc(each.test, anomaly))
    best.extra["choice"]["auroc"] = auroc(best.test, anomaly)
    return best


def _scores_of(choice: Choice, split: Split, model: Any, scored: Sequence[Scored]) -> Scored:
    known: Any = choice._asdict()
    if choice.score == "ODIN":
        by = {name: known[name] for name in ("temperature", "epsilon", "unit")}
        found = [odin(model, part, **by).numpy() for part in (split.calibration, split.test)]
    else:
        found = list(dict(zip(POSTHOC, scored, strict=True))[choice.score][:2])
    told = {name: value if value == value else None for name, value in known.items()}  # no NaN
    return Scored(found[0], found[1], extra={"choice": told})


def simulate_clusters(
    split: Split, settings: Settings, autoencoder: Trained, *, candidates: Sequence[int]
) -> pd.DataFrame:
    """AUROC of MSP for each number of clusters against withheld groups of latents.

    The withheld groups come from one k-means with six groups, so that all candidates face the same
    simulated anomalies. The rest is clustered by k-means into each number of clusters, and a short
    classifier is trained on that. Columns fold, clusters, auroc. Reads kmeans_inits and what
    `simulations` reads but odin_factor.
    """
    model: Any = autoencoder.model
    latents = infer(model, split.train, function=model.encode).numpy()
    options, rows = dict(inits=settings.kmeans_inits, seed=settings.seed), []
    groups = kmeans(latents, clusters=GROUPS, **options).labels_
    folds = withheld_folds(groups, split.train_tracks, settings)
    for (number, fold), count in product(enumerate(folds), candidates):
        labels = kmeans(latents[fold.train], clusters=count, **options).labels_
        classifier, _, _ = _without(split, settings, fold, number, labels)
        tested = msp(outputs(classifier, split.train[fold.tested]).logits).numpy()
        rows.append((number, count, auroc(tested, fold.withheld)))
    return pd.DataFrame(rows, columns=["fold", "clusters", "auroc"])
