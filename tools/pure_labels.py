"""What impure pseudo-labels cost CLAD: its scores with labels that follow the hidden classes; CSV.

A control and never a result, since hidden classes enter training: the latents of each hidden class
are clustered apart, as many clusters in all as the run has, and the classifier learns those.

    CLAD_DATA=... python tools/pure_labels.py mnist:CUR mnist:STR mnist:MIX --seeds 0
"""

from __future__ import annotations

import csv
import sys
from typing import Annotated, Any

import numpy as np
import torch
import typer

from clad_lib import make_config, open_study
from clad_lib.clad import dec, scores
from clad_lib.clad.training import infer, seeded, train_classifier
from clad_lib.config import Settings
from clad_lib.judge.metrics import auroc
from clad_lib.study.engine import Study
from clad_lib.study.stages import function_of

SHOWN = ("MSP", "KNN", "Mahalanobis", "ViM")
MADE = ("threads", "precision", "device", "data", "source", "commit")
COLUMNS = ("dataset", "scenario", "seed", "profile", *MADE, "machine", "labels", "clusters")
COLUMNS += ("purity", "ODIN", *SHOWN)


def pure(latents: np.ndarray, classes: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Labels (N,): the latents (N, D) of each class by k-means, about `clusters` in all."""
    labels, known = np.zeros(len(classes), np.int64), 0
    for name, share in zip(*np.unique(classes, return_counts=True), strict=True):
        count, rows = max(1, round(clusters * share / len(classes))), classes == name
        labels[rows] = known + dec.kmeans(latents[rows], count, inits=5, seed=seed).labels_
        known += count
    return labels


def main(
    scenarios: Annotated[list[str], typer.Argument(help="data set:scenario, such as digits:MIX")],
    seeds: str = "0",
    profile: str = "fast",
    runs: str = "runs",
) -> None:
    """Print a row for the run's pseudo-labels and one for pure labels, by scenario and seed."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    for text in scenarios:
        for seed in map(int, seeds.split(",")):
            config = make_config(*text.split(":"), seed=seed, profile=profile)
            study = open_study(config, runs=runs)
            found, hidden = study["clusters"], study.split.answers.train_class
            ours = [study[name].test for name in ("ODIN", *SHOWN)]
            model: Any = study["autoencoder"].model
            latents = infer(model, study.split.train, function=model.encode).numpy()
            labels = pure(latents, hidden, config.clusters, seed)
            theirs = scored_with(study, labels)
            for kind, each, made in (("pseudo", found.labels, ours), ("pure", labels, theirs)):
                record = study.record("classifier")
                row = [*text.split(":"), seed, profile, *(record[name] for name in MADE)]
                row += [record["machine"]["cpu"], kind, len(np.unique(each))]
                row.append(round(float(dec.purity(each, hidden)), 4))
                anomaly = study.split.answers.test_anomaly
                table.writerow([*row, *(round(auroc(np.asarray(s), anomaly), 4) for s in made)])
            sys.stdout.flush()


def scored_with(study: Study, labels: np.ndarray) -> list[Any]:
    """Scores of the test images, ODIN's and those SHOWN, of a classifier of labels (N,)."""
    settings, split = Settings.everything(study.config, device=study.device), study.split
    with seeded(study.config.seed):
        trained = train_classifier(split, settings, split.train, torch.from_numpy(labels))
    outputs = scores.part_outputs(split, settings, trained)
    given = split, settings, study["clusters"]._replace(labels=labels), trained, outputs
    odin = scores.odin_scores(split, settings, trained)(split.test)
    return [odin, *(function_of(name)(*given).test for name in SHOWN)]


if __name__ == "__main__":
    typer.run(main)
