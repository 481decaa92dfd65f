"""Deep Embedded Clustering (Xie, Girshick, Farhadi 2016): latents become pseudo-labels, with a check of their health."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.functional import kl_div

from clad_lib.models import ConvAutoencoder
from clad_lib.training import Watcher, device_of, fit, infer

DEAD_SHARE = 0.05  # a cluster with less than this share of an even share is dead


class ClusterWarning(UserWarning):
    """Clustering that did not end as DEC means it to, and what was used in its place."""


class PseudoLabels(NamedTuple):
    """labels (N,) int64 in [0, K); confidence (N,) in [1/K, 1], the largest soft assignment of each image."""

    labels: np.ndarray
    confidence: np.ndarray


class ClusterHealth(NamedTuple):
    """shares (K,) sum to 1; dead: clusters below a twentieth of an even share; entropy in [0, 1], of q, over log K."""

    shares: np.ndarray
    dead: tuple[int, ...]
    entropy: float


@dataclass(frozen=True)
class Clustering:
    """What `fit_dec` returns. centroids (K, D); one loss, churn (share of labels that changed), entropy an epoch."""

    model: DEC
    labels: np.ndarray
    soft: np.ndarray
    losses: np.ndarray
    churn: np.ndarray
    entropy: np.ndarray
    source: str = "dec"  # or "k-means", when a cluster died and the k-means labels were kept
    notes: tuple[str, ...] = field(default=())


def soft_assignment(latents: Tensor, centroids: Tensor) -> Tensor:
    """Student-t similarity of each latent to each centroid (DEC, equation 1, one degree of freedom).

    q_ij = (1 + |z_i - mu_j|^2)^-1 / sum_j' (1 + |z_i - mu_j'|^2)^-1. latents (N, D), centroids (K, D) -> q (N, K).
    """
    distances = (latents[:, None, :] - centroids[None]).square().sum(2)  # (N, K)
    similarity = 1 / (1 + distances)
    return similarity / similarity.sum(1, keepdim=True)


def target_distribution(soft: Tensor) -> Tensor:
    """DEC's sharpened target (equation 3): p_ij = (q_ij^2 / f_j) / sum_j' (q_ij'^2 / f_j'), f_j = sum_i q_ij.

    soft q (N, K) over the WHOLE training set -> p (N, K).
    """
    weight = soft.square() / soft.sum(0)
    return weight / weight.sum(1, keepdim=True)


class DEC(nn.Module):
    """The autoencoder's encoder with K centroids in its latent space: images (N, C, H, W) -> soft assignment (N, K)."""

    def __init__(self, autoencoder: ConvAutoencoder, centroids: Tensor):
        super().__init__()
        self.autoencoder = autoencoder
        self.centroids = nn.Parameter(centroids.clone())
        for part in (autoencoder.decoder,):
            part.requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> latents z (N, D)."""
        return self.autoencoder.encode(images)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> q (N, K)."""
        return soft_assignment(self.encode(images), self.centroids)


def kmeans(latents: np.ndarray, *, clusters: int, inits: int, seed: int) -> KMeans:
    """scikit-learn's k-means with `inits` starts; one thread, so that the same seed gives the same bits."""
    if len(latents) < clusters:
        raise ValueError(f"got {len(latents)} images for {clusters} clusters: give more images or fewer clusters")
    if not np.isfinite(latents).all():
        raise ValueError("latents hold NaN or infinite values: expected finite numbers; train the autoencoder again")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Number of distinct clusters")  # cluster_health reports the empty ones
        return KMeans(clusters, n_init=inits, random_state=seed).fit(latents)


def fit_dec(
    autoencoder: ConvAutoencoder,
    images: Tensor,
    *,
    clusters: int,
    epochs: int,
    lr: float = 0.01,
    batch_size: int = 256,
    inits: int = 20,
    tolerance: float = 1e-3,
    seed: int = 0,
    batch_target: bool = False,
    progress: bool = True,
    watch: Watcher | None = None,
) -> Clustering:
    """Sharpen k-means clusters of the latents by minimising KL(p || q) over encoder and centroids (DEC, equation 2).

    images (N, C, H, W) -> Clustering of K = `clusters`. The target p is computed anew over all N images before each
    epoch; training stops early when fewer than `tolerance` of the labels change. With a dead cluster at the end, the
    k-means labels are kept and a ClusterWarning says so. `batch_target` is the published defect: p from each
    mini-batch, data in fixed order. The autoencoder is changed in place: pass a copy to keep it.

    Raises ValueError for fewer images than clusters.
    """
    latents = infer(autoencoder, images, function=autoencoder.encode)
    start = kmeans(latents.numpy(), clusters=clusters, inits=inits, seed=seed)
    model = DEC(autoencoder, torch.from_numpy(start.cluster_centers_)).to(device_of(autoencoder))
    drift = _Drift(model, images, tolerance)
    losses = fit(
        model, _batch_loss if batch_target else _loss, images, target_distribution(drift.soft),
        epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, optimizer="sgd", shuffle=not batch_target,
        on_epoch_start=drift.target, on_epoch_end=drift.settled, title="DEC", progress=progress, watch=watch,
    )  # fmt: skip
    return _choose(model, drift, losses, start.labels_.astype(np.int64))


class _Drift:
    """Recomputes q over the whole training set once an epoch, and remembers how the labels move."""

    def __init__(self, model: DEC, images: Tensor, tolerance: float):
        self.model, self.images, self.tolerance = model, images, tolerance
        self.soft = infer(model, images)
        self.churn: list[float] = []
        self.entropy: list[float] = []

    def target(self, epoch: int) -> tuple[Tensor]:
        return (target_distribution(self.soft),)

    def settled(self, epoch: int, loss: float) -> bool:
        before, self.soft = self.soft.argmax(1), infer(self.model, self.images)
        self.churn.append(float((self.soft.argmax(1) != before).float().mean()))
        self.entropy.append(cluster_health(self.soft.numpy()).entropy)
        return self.churn[-1] < self.tolerance


def _loss(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    return kl_div(model(images).log(), target, reduction="batchmean")


def _batch_loss(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    soft = model(images)
    return kl_div(soft.log(), target_distribution(soft).detach(), reduction="batchmean")


def _choose(model: DEC, drift: _Drift, losses: np.ndarray, start: np.ndarray) -> Clustering:
    soft = drift.soft.numpy()
    result = Clustering(model, soft.argmax(1), soft, losses, np.asarray(drift.churn), np.asarray(drift.entropy))
    dead = cluster_health(soft).dead
    if not dead:
        return result
    note = f"DEC left cluster(s) {', '.join(map(str, dead))} of {soft.shape[1]} empty: the k-means labels are used"
    warnings.warn(f"{note}; fewer clusters or a smaller dec_lr may help", ClusterWarning, stacklevel=3)
    return Clustering(
        model, start, soft, losses, result.churn, result.entropy, source="k-means", notes=(note,)
    )  # fmt: skip


def self_label(clustering: Clustering) -> PseudoLabels:
    """The pseudo-label of each training image, argmax_j q_ij, and its confidence q; clusters with no image drop out."""
    used, labels = np.unique(clustering.labels, return_inverse=True)
    if len(used) < 2:
        raise ValueError("all images fell into one cluster: a classifier needs two; use a larger latent or more images")
    rows = np.arange(len(labels))
    return PseudoLabels(labels.astype(np.int64), clustering.soft[rows, clustering.labels])


def cluster_health(soft: np.ndarray) -> ClusterHealth:
    """Share of each cluster, dead clusters, and mean entropy of q over log K (0 certain, 1 undecided); soft (N, K)."""
    count, clusters = soft.shape
    shares = np.bincount(soft.argmax(1), minlength=clusters) / count
    dead = tuple(int(k) for k in np.flatnonzero(shares < DEAD_SHARE / clusters))
    entropy = -(soft * np.log(np.clip(soft, 1e-12, 1))).sum(1).mean() / np.log(clusters)
    return ClusterHealth(shares, dead, float(entropy))


def purity(labels: np.ndarray, hidden: np.ndarray) -> float:
    """Share of images whose hidden class is the commonest of their cluster, in (0, 1]. Analysis only."""
    table = np.zeros((labels.max() + 1, hidden.max() + 1), dtype=np.int64)
    np.add.at(table, (labels, hidden), 1)
    return float(table.max(1).sum() / table.sum())
