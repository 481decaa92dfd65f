"""Anomaly scores that need one pass of a classifier: functions of its logits and features.

Higher = more anomalous, always. All of them return float64 on the CPU.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

RIDGE = 1e-6  # of the mean variance: directions without variance stay invertible


class Outputs(NamedTuple):
    """What one pass of a classifier gives: logits (N, K) and penultimate features (N, D)."""

    logits: Tensor
    features: Tensor


def log_confidence(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log max_j softmax_j(f / T) of logits (N, K): (N,), in [-log K, 0]."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature!r}: expected a number above 0, such as 1000")
    return (logits / temperature).log_softmax(1).amax(1)


def msp(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Maximum softmax probability (Hendrycks & Gimpel 2017), as -log max_j softmax_j(f / T).

    logits (N, K) -> (N,) in [0, log K], float64 on the CPU. The logarithm keeps the order, and the
    digits that 1 - p would lose near p = 1.
    """
    return -log_confidence(logits.cpu().double(), temperature=temperature)


def max_logit(logits: Tensor) -> Tensor:
    """Negative largest logit (Hendrycks et al. 2022): logits (N, K) -> (N,)."""
    return -logits.cpu().double().amax(1)


def energy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Free energy -T log sum_j exp(f_j / T) (Liu et al. 2020, eq. 4): logits (N, K) -> (N,)."""
    return -temperature * (logits.cpu().double() / temperature).logsumexp(1)


def knn(features: Tensor, train_features: Tensor, *, k: int | None = None) -> Tensor:
    """Distance to the k-th nearest training feature, all of unit length (Sun et al. 2022, sec. 3).

    features (N, D), train_features (M, D) -> (N,) in [0, 2]. By default k is a thousandth of M, at
    least 1, as in the paper (50 of 50,000); with fewer than k the farthest counts. scikit-learn
    searches in blocks: no N x M matrix is ever built.
    """
    k = max(1, len(train_features) // 1000) if k is None else k
    tested, known = (_finite(part) for part in (features, train_features))
    tested, known = (z / z.norm(dim=1, keepdim=True).clamp_min(1e-12) for z in (tested, known))
    search = NearestNeighbors(n_neighbors=min(k, len(known)), algorithm="brute").fit(known.numpy())
    return torch.from_numpy(search.kneighbors(tested.numpy())[0][:, -1]).double()


def mahalanobis(
    features: Tensor, train_features: Tensor, train_labels: Tensor, *, relative: bool = False
) -> Tensor:
    """min_k (z - mu_k)' S^-1 (z - mu_k), S shared by all classes (Lee et al. 2018, equation 2).

    features (N, D), train_features (M, D), train_labels (M,) pseudo-labels -> (N,). `relative`
    takes away the distance under one Gaussian fitted to all classes together (Ren et al. 2021,
    equation 3); it may then be negative. A ridge of 1e-6 of the mean variance is added.
    """
    tested, known = (_finite(part).double() for part in (features, train_features))
    classes, place = train_labels.unique(return_inverse=True)
    means = torch.stack([known[train_labels == k].mean(0) for k in classes])  # (K, D)
    whiten = _whitening(known - means[place])
    distance = torch.cdist(tested @ whiten, means @ whiten).square().amin(1)
    if not relative:
        return distance
    centre, background = known.mean(0), _whitening(known - known.mean(0))
    return distance - ((tested - centre) @ background).square().sum(1)


def _whitening(residuals: Tensor) -> Tensor:
    """W (D, D) with W W' = (S + ridge)^-1 for the covariance S of centred residuals (M, D)."""
    values, axes = torch.linalg.eigh(residuals.T @ residuals / len(residuals))
    return axes / (values.clamp_min(0) + RIDGE * values.mean().clamp_min(1e-12)).sqrt()


def vim(tested: Outputs, train: Outputs, head: nn.Linear) -> Tensor:
    """Virtual-logit matching (Wang et al. 2022, section 4) of N images: (N,).

    Adds a virtual class whose logit is the feature's distance from the training subspace. With the
    classifier's last layer f = W z + b, the distance is the norm of z + W^+ b outside the first
    D / 2 axes of the training features about that origin; the score is alpha times it, less
    log sum_j exp f_j. alpha makes its mean on the training set that of the largest logit.
    """
    weight, bias = (part.detach().cpu().double() for part in (head.weight, head.bias))
    origin = -torch.linalg.pinv(weight) @ bias  # (D,)
    known, new = (_finite(part.features).double() - origin for part in (train, tested))
    size = known.shape[1]
    axes = torch.linalg.eigh(known.T @ known / len(known)).eigenvectors[:, : size - size // 2]
    largest = train.logits.cpu().double().amax(1).mean()
    alpha = largest / (known @ axes).norm(dim=1).mean().clamp_min(1e-12)
    return alpha * (new @ axes).norm(dim=1) + energy(tested.logits)


def _finite(features: Tensor) -> Tensor:
    if features.ndim != 2 or not len(features) or not torch.isfinite(features).all():
        raise ValueError(
            f"features are {tuple(features.shape)}: expected finite numbers (N, D), N > 0; train "
            "the classifier again"
        )
    return features.cpu().float()


# name -> score of N images from their outputs, those of the M training images, the M pseudo-labels
# and the classifier's last layer
POSTHOC: dict[str, Callable[[Outputs, Outputs, Tensor, nn.Linear], Tensor]] = {
    "MSP": lambda tested, train, labels, head: msp(tested.logits),
    "MaxLogit": lambda tested, train, labels, head: max_logit(tested.logits),
    "Energy": lambda tested, train, labels, head: energy(tested.logits),
    "KNN": lambda tested, train, labels, head: knn(tested.features, train.features),
    "Mahalanobis": lambda tested, train, labels, head: mahalanobis(
        tested.features, train.features, labels
    ),
    "RelativeMahalanobis": lambda tested, train, labels, head: mahalanobis(
        tested.features, train.features, labels, relative=True
    ),
    "ViM": lambda tested, train, labels, head: vim(tested, train, head),
}
