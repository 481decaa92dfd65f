"""What the latent explorer shows: a run's map, every colouring that its finished stages give, and test images placed on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from clad_lib import embedding, methods, pipeline, scoring
from clad_lib.training import infer

PLACED = 500  # test images placed on the map


class Colouring(NamedTuple):
    """What the points may be coloured by: values (N,), and the names of its categories, or None for numbers on a scale."""

    values: np.ndarray
    names: tuple[str, ...] | None = None


class Placed(NamedTuple):
    """Test images put on the map: points (M, 2), images (M, C, H, W), anomaly (M,) bool."""

    points: np.ndarray
    images: np.ndarray
    anomaly: np.ndarray


class Mapped(NamedTuple):
    """A map and its images: points (N, 2), images (N, C, H, W) uint8, colourings by name, `told` how it was drawn.

    labels and confidence (N,) of the clusters and hidden (N,) classes with their names are None where they are not known;
    `place` puts test images on the map when it is asked to.
    """

    points: np.ndarray
    images: np.ndarray
    colourings: dict[str, Colouring]
    told: str = ""
    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None
    hidden: np.ndarray | None = None
    names: tuple[str, ...] = ()
    train_rows: np.ndarray | None = None  # (N,) rows of the data set's training images
    place: Callable[[], Placed] | None = None


def gather(study: pipeline.Study) -> Mapped:
    """The run's map with every colouring that the finished stages give. RunError where there is no map yet."""
    drawn, rows = pipeline.latent_map(study, make=False)
    split, found, labels, confidence = study.split, dict[str, Colouring](), None, None
    if study.run.has("clusters"):
        clusters = pipeline.clusters(study, make=False)
        labels, confidence = clusters.labels[rows], clusters.confidence[rows]
        count = clusters.labels.max() + 1
        found["cluster"] = Colouring(labels, tuple(f"cluster {k}" for k in range(count)))
        found["confidence"] = Colouring(confidence)
    if study.run.has("outputs"):
        logits = methods.cached_outputs(study, make=False)["train"].logits
        found["anomaly score (MSP)"] = Colouring(scoring.msp(logits).numpy()[rows])
    hidden = split.answers.train_class[rows]
    found["hidden class (analysis)"] = Colouring(hidden, split.class_names)
    told = f"{len(rows):,} of {len(split.train):,} training images; t-SNE by {drawn.backend}, perplexity {drawn.perplexity:g}"
    told += f", seed {drawn.seed}, started from two principal components"
    images = split.train.numpy()[rows]
    return Mapped(
        drawn.points,
        images,
        found,
        told,
        labels,
        confidence,
        hidden,
        split.class_names,
        split.train_index[rows],
        lambda: _place(study, drawn, rows),
    )


def _place(study: pipeline.Study, drawn: embedding.Embedding, rows: np.ndarray) -> Placed:
    model, _ = pipeline.autoencoder(study, make=False)
    chosen = np.sort(np.random.default_rng(study.config.seed).permutation(len(study.split.test))[:PLACED])
    test = study.split.test[chosen]
    known, new = (infer(model, images, function=model.encode).numpy() for images in (study.split.train[rows], test))
    return Placed(embedding.place(drawn, known, new), test.numpy(), study.split.answers.test_anomaly[chosen])
