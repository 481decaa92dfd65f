"""Choosing without anomalies: pseudo-classes withheld as simulated ones; what test labels would add is the oracle gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from clad_lib import clustering, pipeline, scoring
from clad_lib.evaluation import auroc
from clad_lib.training import infer, seeded

TEMPERATURES = (1.0, 10.0, 1000.0)
EPSILONS = (0.0, 0.0007, 0.0014, 0.0028, 0.0112)  # pixel units
IMAGES = 500  # of each kind in a fold
GRID_IMAGES = 2000  # of each part, on which ODIN's whole grid is computed and the oracle chooses
GROUPS = 6  # of k-means, withheld when the number of clusters itself is chosen
COLUMNS = ("fold", "score", "temperature", "epsilon", "auroc")


class Fold(NamedTuple):
    """Rows of the training images: kept for training, kept to stand for new normal images, withheld as anomalies."""

    train: np.ndarray
    normal: np.ndarray
    withheld: np.ndarray


class OdinGrid(NamedTuple):
    """ODIN scores (T, E, n) of sampled calibration images and (T, E, m) of sampled test images, with their rows."""

    temperatures: tuple[float, ...]
    epsilons: tuple[float, ...]
    calibration_rows: np.ndarray  # (n,)
    calibration: np.ndarray
    test_rows: np.ndarray  # (m,)
    test: np.ndarray


class Choice(NamedTuple):
    """A score with its temperature and epsilon (both matter to ODIN alone), and the AUROC that it was chosen for."""

    score: str
    temperature: float
    epsilon: float
    auroc: float


def withheld_folds(labels: ArrayLike, *, folds: int, share: float, seed: int, limit: int = IMAGES) -> list[Fold]:
    """Folds that each withhold about `share` of the pseudo-classes, other ones each time as far as there are enough.

    labels (N,) pseudo-labels. A tenth of the kept images, at most `limit`, is kept out of training, to stand for normal
    images; at most `limit` withheld images stand for anomalies. ValueError for fewer than three pseudo-classes.
    """
    places, random = np.asarray(labels), np.random.default_rng(seed)
    classes = random.permutation(np.unique(places))
    if len(classes) < 3:
        raise ValueError(f"got {len(classes)} pseudo-classes: expected 3 or more, to withhold one and tell two apart")
    count = min(max(1, round(share * len(classes))), len(classes) - 2)
    found = []
    for fold in range(folds):
        outside = np.isin(places, np.roll(classes, -fold * count)[:count])
        kept, withheld = random.permutation(np.flatnonzero(~outside)), random.permutation(np.flatnonzero(outside))
        held = min(limit, max(1, len(kept) // 10))
        found.append(Fold(np.sort(kept[held:]), np.sort(kept[:held]), np.sort(withheld[:limit])))
    return found


def simulate(study: pipeline.Study) -> pd.DataFrame:
    """AUROC of each score against withheld pseudo-classes, from training images alone: one row a fold and setting.

    Each fold trains a short classifier without the withheld pseudo-classes. Columns fold, score, temperature, epsilon,
    auroc. Nothing here reads calibration images, test images or hidden classes. With fewer than three pseudo-classes none
    can be withheld: the one row is then ODIN with the configured settings, its auroc NaN.
    """
    labels = pipeline.clusters(study, make=False).labels
    config, tables = study.config, []
    if len(np.unique(labels)) < 3:
        return pd.DataFrame([(0, "ODIN", config.temperature, config.epsilon, np.nan)], columns=list(COLUMNS))
    for number, fold in enumerate(withheld_folds(labels, folds=config.folds, share=config.withheld, seed=config.seed)):
        with seeded(config.seed + number):
            tables.append(_simulate_fold(study, labels, fold).assign(fold=number))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def _simulate_fold(study: pipeline.Study, labels: np.ndarray, fold: Fold) -> pd.DataFrame:
    images = study.split.train
    known = torch.from_numpy(np.unique(labels[fold.train], return_inverse=True)[1])
    kept = images[torch.from_numpy(fold.train)]
    model, _, _ = pipeline.train_classifier(study, kept, known, epochs=study.config.fold_epochs, title="without some clusters")
    rows = torch.from_numpy(np.concatenate([fold.normal, fold.withheld]))
    anomaly = np.arange(len(rows)) >= len(fold.normal)
    train, tested = scoring.outputs(model, kept), scoring.outputs(model, images[rows])
    grid = scoring.odin_grid(model, images[rows], temperatures=TEMPERATURES, epsilons=EPSILONS)
    return rate_grid(grid, scoring.one_pass(tested, train, known, model.head), anomaly)


def rate_grid(grid: np.ndarray, plain: dict[str, np.ndarray], anomaly: np.ndarray) -> pd.DataFrame:
    """AUROC of ODIN at each temperature and epsilon, grid (T, E, N), and of the other scores: one row each."""
    rows = [
        ("ODIN", temperature, epsilon, auroc(grid[i, j], anomaly))
        for i, temperature in enumerate(TEMPERATURES)
        for j, epsilon in enumerate(EPSILONS)
    ]
    rows += [(name, np.nan, np.nan, auroc(values, anomaly)) for name, values in plain.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS[1:]))


def choose(table: pd.DataFrame) -> Choice:
    """The setting with the largest mean AUROC over folds; of equal ones, or where none is known, the first.

    ValueError for an empty table.
    """
    if table.empty:
        raise ValueError("got no simulated results: expected at least one fold; raise the setting `folds`")
    means = table.groupby(["score", "temperature", "epsilon"], sort=False, dropna=False).auroc.mean()
    score, temperature, epsilon = means.index[int(np.argmax(means.fillna(-1)))]
    return Choice(str(score), float(temperature), float(epsilon), float(means.max()))


def sampled_grid(study: pipeline.Study) -> OdinGrid:
    """ODIN at every temperature and epsilon on at most 2,000 calibration and 2,000 test images; reads no label."""
    model, _ = pipeline.classifier(study, make=False)
    found: dict[str, np.ndarray] = {}
    for part in ("calibration", "test"):
        images, random = getattr(study.split, part), np.random.default_rng(study.config.seed)
        rows = np.sort(random.permutation(len(images))[:GRID_IMAGES])
        found[f"{part}_rows"] = rows
        found[part] = scoring.odin_grid(model, images[torch.from_numpy(rows)], temperatures=TEMPERATURES, epsilons=EPSILONS)
    return OdinGrid(TEMPERATURES, EPSILONS, **found)


def oracle_table(grid: OdinGrid, tested: dict[str, np.ndarray], anomaly: np.ndarray) -> pd.DataFrame:
    """ORACLE: AUROC of every setting on the grid's test images with their labels, anomaly (N,) of the whole test split.

    `tested` has the one-pass scores, name -> (N,).
    """
    rows = grid.test_rows
    return rate_grid(grid.test, {name: values[rows] for name, values in tested.items()}, anomaly[rows])


def simulate_clusters(study: pipeline.Study, candidates: Sequence[int]) -> pd.DataFrame:
    """AUROC of MSP for each number of clusters against withheld groups of latents: columns fold, clusters, auroc.

    The withheld groups come from one k-means with six groups, so that all candidates face the same simulated anomalies.
    The rest is clustered by k-means into each number of clusters, and a short classifier is trained on that.
    """
    model, _ = pipeline.autoencoder(study, make=False)
    config, images = study.config, study.split.train
    latents = infer(model, images, function=model.encode).numpy()
    groups = clustering.kmeans(latents, clusters=GROUPS, inits=config.kmeans_inits, seed=config.seed).labels_
    rows = []
    for number, fold in enumerate(withheld_folds(groups, folds=config.folds, share=config.withheld, seed=config.seed)):
        for count in candidates:
            found = clustering.kmeans(latents[fold.train], clusters=count, inits=config.kmeans_inits, seed=config.seed)
            with seeded(config.seed + number):
                rows.append((number, count, _withheld_auroc(study, found.labels_.astype(np.int64), fold)))
    return pd.DataFrame(rows, columns=["fold", "clusters", "auroc"])


def _withheld_auroc(study: pipeline.Study, labels: np.ndarray, fold: Fold) -> float:
    images, known = study.split.train, torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    kept, rows = images[torch.from_numpy(fold.train)], torch.from_numpy(np.concatenate([fold.normal, fold.withheld]))
    model, _, _ = pipeline.train_classifier(
        study, kept, known, epochs=study.config.fold_epochs, title=f"{labels.max() + 1} clusters"
    )
    scores = scoring.msp(infer(model, images[rows], batch_size=256, bf16=True)).numpy()
    return auroc(scores, np.arange(len(rows)) >= len(fold.normal))
