"""Anomaly scores from a classifier: higher = more anomalous, always. From logits, from features, and by an input step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from clad_lib.training import as_unit, device_of, evaluating, infer, precision

PUBLISHED_ODIN_FACTOR = 50 / (79 / 255)  # the published code multiplies ODIN's step by this, in standardised units


RIDGE = 1e-6  # of the mean eigenvalue, added to a covariance: directions without variance stay invertible


class Outputs(NamedTuple):
    """What one pass of a classifier gives: logits (N, K) and penultimate features (N, D), float32 on the CPU."""

    logits: Tensor
    features: Tensor


def outputs(classifier: Any, images: Tensor, *, batch_size: int = 256) -> Outputs:
    """Logits and features of images (N, C, H, W), uint8 or float32 in [0, 1], by one pass in eval mode."""

    def both(batch: Tensor) -> Tensor:
        features = classifier.features(batch).float()
        return torch.cat([classifier.logits(features), features], 1)  # (n, K + D)

    joined = infer(classifier, images, function=both, batch_size=batch_size, bf16=True)
    classes = classifier.head.out_features
    return Outputs(joined[:, :classes].clone(), joined[:, classes:].clone())


def log_confidence(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log max_j softmax_j(f / T): logits (N, K) -> (N,), in [-log K, 0]."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature!r}: expected a number above 0, such as 1 or 1000")
    return (logits / temperature).log_softmax(1).amax(1)


def msp(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Maximum softmax probability (Hendrycks & Gimpel 2017) as an anomaly score, -log max_j softmax_j(f / T).

    logits (N, K) -> (N,) in [0, log K]. The logarithm keeps the order and the digits that 1 - p would lose near p = 1.
    """
    return -log_confidence(logits.double(), temperature=temperature)


def max_logit(logits: Tensor) -> Tensor:
    """Negative largest logit (Hendrycks et al. 2022): logits (N, K) -> (N,)."""
    return -logits.double().amax(1)


def energy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Free energy -T log sum_j exp(f_j / T) (Liu et al. 2020, equation 4): logits (N, K) -> (N,)."""
    return -temperature * (logits.double() / temperature).logsumexp(1)


def odin(
    classifier: nn.Module,
    images: Tensor,
    *,
    temperature: float = 1000.0,
    epsilon: float = 0.0014,
    published_factor: bool = False,
    batch_size: int = 256,
) -> Tensor:
    """ODIN (Liang, Li, Srikant 2018): confidence after a small step that raises it, as an anomaly score.

    x' = x - epsilon sign(-grad_x log max_j softmax_j(f(x) / T)); score = -log max_j softmax_j(f(x') / T), in
    [0, log K]. images (N, C, H, W), uint8 or float32 in [0, 1] -> (N,) float64 on the CPU. `epsilon` is in pixel
    units; x' is not clipped, as in the paper. `published_factor` is the published code's step, 161.4 epsilon in
    standardised units. Gradients are taken with respect to the images only; the classifier is left as it was.

    Raises ValueError for a temperature of 0 or less or a negative epsilon.
    """
    if not epsilon >= 0:
        raise ValueError(f"epsilon is {epsilon!r}: expected a number of at least 0, in pixel units, such as 0.0014")
    if epsilon == 0:
        return msp(infer(classifier, images, batch_size=batch_size, bf16=True), temperature=temperature)
    device = device_of(classifier)
    spread: Any = classifier.standardise.std if published_factor else None  # (C, 1, 1)
    step = epsilon if spread is None else epsilon * PUBLISHED_ODIN_FACTOR * spread
    scores = []
    with evaluating(classifier), precision(device):
        for batch in images.split(batch_size):
            nudged = _towards_confidence(classifier, as_unit(batch.to(device)), temperature, step)
            with torch.no_grad():
                scores.append(msp(classifier(nudged), temperature=temperature).cpu())
    return torch.cat(scores)


def _towards_confidence(classifier: nn.Module, images: Tensor, temperature: float, step: Tensor | float) -> Tensor:
    images = images.detach().requires_grad_(True)
    confidence = log_confidence(classifier(images), temperature=temperature).sum()
    (gradient,) = torch.autograd.grad(confidence, images)
    return images.detach() + step * gradient.sign()


def odin_grid(
    classifier: nn.Module,
    images: Tensor,
    *,
    temperatures: Sequence[float],
    epsilons: Sequence[float],
    batch_size: int = 256,
) -> np.ndarray:
    """`odin` for each temperature and epsilon: images (N, C, H, W) -> (T, E, N); one gradient a temperature and image."""
    device = device_of(classifier)
    found = np.empty((len(temperatures), len(epsilons), len(images)))
    with evaluating(classifier), precision(device):
        for rows in torch.arange(len(images)).split(batch_size):
            batch = as_unit(images[rows].to(device))
            for i, temperature in enumerate(temperatures):
                uphill = _towards_confidence(classifier, batch, temperature, 1.0) - batch  # the sign of the gradient
                for j, epsilon in enumerate(epsilons):
                    with torch.no_grad():
                        logits = classifier(batch + epsilon * uphill)
                    found[i, j, rows] = msp(logits, temperature=temperature).cpu()
    return found


def knn(features: Tensor, train_features: Tensor, *, k: int | None = None) -> Tensor:
    """Distance to the k-th nearest training feature, all of unit length (Sun et al. 2022, section 3): (N, D) -> (N,).

    In [0, 2]. By default k is a thousandth of the M training images, at least 1, as in the paper (50 of 50,000); with
    fewer than k the farthest counts. scikit-learn searches in blocks: no N x M matrix is ever built.
    """
    k = max(1, len(train_features) // 1000) if k is None else k
    if k < 1:
        raise ValueError(f"k is {k!r}: expected a number of neighbours, 1 or more")
    search = NearestNeighbors(n_neighbors=min(k, len(train_features)), algorithm="brute")
    known = search.fit(_unit(_finite(train_features, "training features")).numpy())
    return torch.from_numpy(known.kneighbors(_unit(_finite(features, "features")).numpy())[0][:, -1]).double()


def mahalanobis(features: Tensor, train_features: Tensor, train_labels: Tensor, *, relative: bool = False) -> Tensor:
    """min_k (z - mu_k)' S^-1 (z - mu_k), S shared by all classes (Lee et al. 2018, eq. 2): features (N, D) -> (N,).

    `relative` takes away the distance under one Gaussian fitted to all classes together (Ren et al. 2021, eq. 3); it may
    then be negative. train_features (M, D), train_labels (M,) pseudo-labels. A ridge of 1e-6 of the mean variance is added.
    """
    tested, known = _finite(features, "features").double(), _finite(train_features, "training features").double()
    if len(train_labels) != len(known):
        raise ValueError(f"got {len(known)} training features and {len(train_labels)} labels: expected one label a feature")
    means = torch.stack([known[train_labels == k].mean(0) for k in train_labels.unique()])  # (K, D)
    place = torch.unique(train_labels, return_inverse=True)[1]
    whiten = _whitening(known - means[place])
    distance = torch.cdist(tested @ whiten, means @ whiten).square().amin(1)
    if not relative:
        return distance
    centre, background = known.mean(0), _whitening(known - known.mean(0))
    return distance - ((tested - centre) @ background).square().sum(1)


def vim(tested: Outputs, train: Outputs, head: nn.Linear, *, principal: int | None = None) -> Tensor:
    """Virtual-logit matching (Wang et al. 2022, section 4): alpha |residual of z| - log sum_j exp f_j, (N,).

    The residual is z + W^+ b outside the `principal` (default D / 2) first axes of the training features, uncentred about
    that origin; alpha makes its mean on the training set that of the largest logit. Differs from MSP by a class that is
    added for features off the training set's plane.
    """
    weight, bias = (part.detach().cpu().double() for part in (head.weight, head.bias))
    origin = -torch.linalg.pinv(weight) @ bias  # (D,)
    known, new = (_finite(part.features, "features").double() - origin for part in (train, tested))
    keep = known.shape[1] // 2 if principal is None else principal
    if not 0 < keep < known.shape[1]:
        raise ValueError(f"principal is {keep!r}: expected a number of axes from 1 to {known.shape[1] - 1}")
    axes = torch.linalg.eigh(known.T @ known / len(known)).eigenvectors[:, : known.shape[1] - keep]  # (D, D - keep)
    alpha = train.logits.double().amax(1).mean() / (known @ axes).norm(dim=1).mean().clamp_min(1e-12)
    return alpha * (new @ axes).norm(dim=1) + energy(tested.logits)


def one_pass(tested: Outputs, train: Outputs, labels: Tensor, head: nn.Linear) -> dict[str, np.ndarray]:
    """All scores that need no further pass: name -> (N,). `labels` (M,) are the pseudo-labels of the training images."""
    return {
        "MSP": msp(tested.logits).numpy(), "MaxLogit": max_logit(tested.logits).numpy(), "Energy": energy(tested.logits).numpy(),
        "KNN": knn(tested.features, train.features).numpy(),
        "Mahalanobis": mahalanobis(tested.features, train.features, labels).numpy(),
        "RelativeMahalanobis": mahalanobis(tested.features, train.features, labels, relative=True).numpy(),
        "ViM": vim(tested, train, head).numpy(),
    }  # fmt: skip


def rank_average(scores: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean over scores of the share of reference images that score lower, ties half: name -> (N,), (n,) -> (N,) in [0, 1].

    The reference is normal images kept for this alone: a threshold must be calibrated on others.
    """
    if set(scores) - set(reference) or not scores:
        raise ValueError(f"got scores {sorted(scores)} and references {sorted(reference)}: expected one for each score")
    ranks = []
    for name, values in scores.items():
        known = np.sort(reference[name])
        if not len(known):
            raise ValueError(f"got no reference scores for {name}: expected some normal images; set more aside")
        low, high = (np.searchsorted(known, values, side=side) for side in ("left", "right"))
        ranks.append((low + high) / (2 * len(known)))
    return np.mean(ranks, axis=0)


def _unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _whitening(residuals: Tensor) -> Tensor:
    """W (D, D) with W W' = (S + ridge)^-1 for the covariance S of centred residuals (M, D)."""
    covariance = residuals.T @ residuals / len(residuals)
    values, axes = torch.linalg.eigh(covariance)
    return axes / (values.clamp_min(0) + RIDGE * values.mean().clamp_min(1e-12)).sqrt()


def _finite(values: Tensor, what: str) -> Tensor:
    if values.ndim != 2 or not len(values) or not torch.isfinite(values).all():
        raise ValueError(f"{what} are {tuple(values.shape)}: expected finite numbers (N, D), N > 0; train the classifier again")
    return values
