"""Anomaly scores of a split from its classifier: ODIN, and those that need one pass alone."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from clad_lib.clad.networks import Clusters, ResNet18, Trained
from clad_lib.clad.posthoc import POSTHOC, Outputs, log_confidence, msp
from clad_lib.clad.training import as_unit, batch_for, device_of, evaluating, infer, precision
from clad_lib.config import Settings, Unit
from clad_lib.data.split import Split

PUBLISHED_ODIN_FACTOR = 50 / (79 / 255)  # of ODIN's step in standardised units, 161.4
TEMPERATURES = (1.0, 10.0, 1000.0)  # among which ODIN is searched
EPSILONS = (0.0, 0.0007, 0.0014, 0.0028, 0.0056, 0.0112, 0.02, 0.03, 0.045, 0.06)  # in pixels
GRID_IMAGES = 2000  # of each part, on which the whole grid is computed

Scorer = Callable[[Tensor], Tensor]  # images (N, C, H, W) -> scores (N,), higher = anomalous


class Scored(NamedTuple):
    """What a method gives for a split: scores, and what else is to be kept with them."""

    calibration: np.ndarray  # (n,) float64
    test: np.ndarray  # (m,)
    used: np.ndarray | None = None  # (n,) bool, calibration images that no threshold may use
    extra: dict[str, Any] = {}  # noqa: RUF012


class PartOutputs(NamedTuple):
    """The outputs of each part of a split; the features are kept as float16."""

    train: Outputs
    calibration: Outputs
    test: Outputs


class OdinGrid(NamedTuple):
    """ODIN's scores, (T, E, n) and (T, E, m), of a sample of calibration and test images."""

    temperatures: np.ndarray  # (T,)
    epsilons: np.ndarray  # (E,), in pixels
    calibration_rows: np.ndarray  # (n,)
    calibration: np.ndarray
    test_rows: np.ndarray  # (m,)
    test: np.ndarray


def outputs(classifier: ResNet18, images: Tensor) -> Outputs:
    """Logits and features, float32 on the CPU, of images (N, C, H, W) by one pass in eval mode."""
    look = partial(infer, classifier, batch_size=256, bf16=True)
    features = look(images, function=classifier.features)
    return Outputs(look(features, function=classifier.logits), features)


def odin(
    classifier: nn.Module,
    images: Tensor,
    *,
    temperature: float = 1000.0,
    epsilon: float = 0.0014,
    unit: Unit = "pixel",
    batch_size: int | None = None,
) -> Tensor:
    """ODIN (Liang, Li, Srikant 2018): confidence after a small step that raises it.

    x' = x - epsilon sign(-grad_x log max_j softmax_j(f(x) / T))
    score = -log max_j softmax_j(f(x') / T), in [0, log K]

    images (N, C, H, W), uint8 or float32 in [0, 1] -> (N,) float64 on the CPU. `epsilon` is in
    pixels, or with the `published` unit in 161.4 standard deviations of each channel, as the
    published code steps. x' is not clipped, as in the paper. Weights and modes stay.
    `batch_size` is what the device likes, if not given.

    Raises ValueError for a temperature of 0 or less or a negative epsilon.
    """
    options: Any = dict(temperatures=[temperature], epsilons=[epsilon], unit=unit)
    return torch.from_numpy(odin_grid(classifier, images, batch_size=batch_size, **options)[0, 0])


def odin_grid(
    classifier: Any,
    images: Tensor,
    *,
    temperatures: Sequence[float],
    epsilons: Sequence[float],
    unit: Unit = "pixel",
    batch_size: int | None = None,
) -> np.ndarray:
    """`odin` at each temperature and epsilon: (T, E, N), by one gradient for all epsilons."""
    if not min(epsilons) >= 0:
        raise ValueError(f"epsilon is {min(epsilons)!r}: expected at least 0, such as 0.0014")
    device, found = device_of(classifier), np.empty((len(temperatures), len(epsilons), len(images)))
    factor, std = (  # in the published unit, of a channel (C, 1, 1)
        (1.0, 1.0) if unit == "pixel" else (PUBLISHED_ODIN_FACTOR, classifier.standardise.std)
    )
    with evaluating(classifier), precision(device):
        for rows in torch.arange(len(images)).split(batch_size or batch_for(classifier, images)):
            leaf = as_unit(images[rows].to(device)).detach().requires_grad_(True)
            plain = classifier(leaf)
            for i, temperature in enumerate(temperatures):
                confidence = log_confidence(plain, temperature=temperature).sum()
                uphill = torch.autograd.grad(confidence, leaf, retain_graph=True)[0].sign()
                for j, epsilon in enumerate(epsilons):
                    with torch.no_grad():
                        moved = leaf + epsilon * factor * std * uphill
                        logits = classifier(moved) if epsilon else plain
                        found[i, j, rows] = msp(logits.detach(), temperature=temperature)
    return found


def part_outputs(split: Split, settings: Settings, classifier: Trained) -> PartOutputs:
    """The classifier's outputs for every image of the split; reads no setting."""
    model: Any = classifier.model
    found = [outputs(model, part) for part in (split.train, split.calibration, split.test)]
    return PartOutputs(*(each._replace(features=each.features.half()) for each in found))


def searched_grid(model: Any, images: Tensor, settings: Settings) -> np.ndarray:
    """`odin_grid` at each of TEMPERATURES and EPSILONS, (T, E, N); reads odin_factor."""
    unit: Unit = "published" if settings.odin_factor else "pixel"
    return odin_grid(model, images, temperatures=TEMPERATURES, epsilons=EPSILONS, unit=unit)


def odin_grid_of(split: Split, settings: Settings, classifier: Trained) -> OdinGrid:
    """ODIN at every one of TEMPERATURES and EPSILONS, for explorers and Oracle; reads odin_factor.

    A random sample of at most GRID_IMAGES of the calibration and of the test images.
    """
    found: list[np.ndarray] = []
    for images in (split.calibration, split.test):
        order = np.random.default_rng(settings.seed).permutation(len(images))
        rows = np.sort(order[:GRID_IMAGES])
        found += [rows, searched_grid(classifier.model, images[rows], settings)]
    return OdinGrid(np.asarray(TEMPERATURES), np.asarray(EPSILONS), *found)


def odin_scores(split: Split, settings: Settings, classifier: Trained) -> Scorer:
    """ODIN; reads temperature, epsilon, epsilon_unit and odin_factor.

    The published code's factor is applied once, whichever of the two last settings asks for it.
    """
    unit: Unit = "published" if settings.odin_factor else settings.epsilon_unit
    return partial(
        odin,
        classifier.model,
        temperature=settings.temperature,
        epsilon=settings.epsilon,
        unit=unit,
    )


def _one_pass(name: str) -> Callable[..., Scored]:
    def scores(
        split: Split, settings: Settings, clusters: Clusters, classifier: Any, outputs: PartOutputs
    ) -> Scored:
        others = outputs.train, torch.from_numpy(clusters.labels), classifier.model.head
        parts = outputs.calibration, outputs.test
        calibration, test = (POSTHOC[name](part, *others).numpy() for part in parts)
        return Scored(calibration, test)

    return scores


# the rows of POSTHOC's scores; they read no setting
(
    msp_scores,
    max_logit_scores,
    energy_scores,
    knn_scores,
    mahalanobis_scores,
    relative_mahalanobis_scores,
    vim_scores,
) = map(_one_pass, POSTHOC)


def rank_average_scores(split: Split, settings: Settings, *scored: Scored) -> Scored:
    """Mean over other methods of the share of reference images that score lower, ties half.

    The reference is one half of the calibration images, by whole tracks; the other half stays for
    thresholds. Scores are in [0, 1]; reads no setting. Raises ValueError for fewer than two tracks.
    """
    tracks, place = np.unique(split.calibration_tracks, return_inverse=True)
    order = np.random.default_rng(settings.seed).permutation(len(tracks))
    used = (order < len(tracks) // 2)[place]
    if not used.any():
        raise ValueError(
            f"got {len(tracks)} calibration image(s) or track(s): expected 2 or more; raise the "
            "setting `calibration`"
        )

    def shares(each: Scored, values: np.ndarray) -> np.ndarray:
        known = np.sort(each.calibration[used])
        low, high = (np.searchsorted(known, values, side=side) for side in ("left", "right"))
        return (low + high) / (2 * len(known))

    calibration = np.mean([shares(each, each.calibration) for each in scored], axis=0)
    return Scored(calibration, np.mean([shares(each, each.test) for each in scored], axis=0), used)
