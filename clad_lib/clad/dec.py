"""Deep Embedded Clustering (Xie, Girshick, Farhadi 2016): latents become pseudo-labels."""

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics.cluster import contingency_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.functional import kl_div

from clad_lib.clad.networks import Clusters, ConvAutoencoder, Trained
from clad_lib.clad.training import device_of, fit, infer, options_of
from clad_lib.config import Settings
from clad_lib.data.split import Split

DEAD_SHARE = 0.05  # a cluster with less than this share of an even share is dead
EMPTY = "DEC left {} of {} clusters empty: k-means' are kept; try fewer, or a smaller dec_lr"


class ClusterHealth(NamedTuple):
    """How evenly and how surely the images lie in K clusters."""

    shares: np.ndarray  # (K,), of the images; they sum to 1
    dead: tuple[int, ...]  # clusters below a twentieth of an even share
    entropy: float  # mean entropy of q over log K: 0 certain, 1 undecided


def soft_assignment(latents: Tensor, centroids: Tensor) -> Tensor:
    """Student-t similarity of each latent to each centroid (DEC, equation 1).

    q_ij = (1 + |z_i - mu_j|^2)^-1 / sum_j' (1 + |z_i - mu_j'|^2)^-1
    latents (N, D), centroids (K, D) -> q (N, K)
    """
    distances = (latents[:, None, :] - centroids[None]).square().sum(2)  # (N, K)
    similarity = 1 / (1 + distances)
    return similarity / similarity.sum(1, keepdim=True)


def target_distribution(soft: Tensor) -> Tensor:
    """DEC's sharpened target (equation 3), from q (N, K) of the WHOLE training set: p (N, K).

    p_ij = (q_ij^2 / f_j) / sum_j' (q_ij'^2 / f_j'), f_j = sum_i q_ij
    """
    weight = soft.square() / soft.sum(0)
    return weight / weight.sum(1, keepdim=True)


class DEC(nn.Module):
    """An encoder with K centroids in its latent space: images (N, C, H, W) -> q (N, K).

    The autoencoder's decoder is frozen.
    """

    def __init__(self, autoencoder: ConvAutoencoder, centroids: Tensor):
        super().__init__()
        self.autoencoder = autoencoder
        self.centroids = nn.Parameter(centroids.clone())
        autoencoder.decoder.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> q (N, K)."""
        return soft_assignment(self.autoencoder.encode(images), self.centroids)


def kmeans(latents: np.ndarray, clusters: int, *, inits: int, seed: int) -> KMeans:
    """scikit-learn's k-means of latents (N, D), the best of `inits` starts; same seed, same bits.

    Raises ValueError for fewer latents than clusters, and for NaN or infinite values.
    """
    if len(latents) < clusters:
        raise ValueError(f"got {len(latents)} images for {clusters} clusters: use fewer clusters")
    if not np.isfinite(latents).all():
        raise ValueError("latents hold NaN or infinite values: train the autoencoder again")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Number of distinct clusters")  # dead ones are reported
        return KMeans(clusters, n_init=inits, random_state=seed).fit(latents)


def clusters(
    split: Split,
    settings: Settings,
    autoencoder: Trained,
    *,
    watch: Callable[[DEC], object] = id,  # which changes nothing
) -> Clusters:
    """Stage 2: DEC's pseudo-labels of the training images.

    Sharpens k-means clusters by minimising KL(p || q) over encoder and centroids (equation 2). The
    target p is computed anew over all N images before each epoch; training stops when fewer than
    dec_tolerance of the labels change in an epoch. With a dead cluster at the end, the k-means
    clusters are kept and a warning says so. `batch_target` is the published defect: p from each
    mini-batch, images in fixed order. The autoencoder stays as it is.

    Reads clusters, kmeans_inits, dec_epochs, dec_lr, dec_optimizer, dec_batch, dec_tolerance,
    min_steps and batch_target. `watch` is called with the model before training and after each
    epoch. Raises ValueError for fewer images than clusters, and where all fall into one cluster.
    """
    plain = cast(Any, autoencoder.model)
    images = split.train.to(device_of(plain))  # which every epoch reads
    latents = infer(plain, images, function=plain.encode).numpy()
    best = kmeans(latents, settings.clusters, inits=settings.kmeans_inits, seed=settings.seed)
    centroids = torch.from_numpy(best.cluster_centers_)
    model = DEC(copy.deepcopy(plain), centroids).to(images.device)
    soft, churn, entropy = infer(model, images), list[float](), list[float]()
    target = target_distribution(soft).to(images.device)
    watch(model)

    def divergence(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        soft = model(images)
        target = target_distribution(soft).detach() if settings.batch_target else target
        return kl_div(soft.log(), target, reduction="batchmean")

    def settled(_epoch: int, _loss: float) -> bool:
        nonlocal soft
        before, soft = soft.argmax(1), infer(model, images)
        target.copy_(target_distribution(soft))
        churn.append(float((soft.argmax(1) != before).float().mean()))
        entropy.append(cluster_health(soft.numpy()).entropy)
        watch(model)
        return churn[-1] < settings.dec_tolerance

    options = options_of("dec", settings) | dict(on_epoch_end=settled, title="DEC")
    options |= dict(epochs=settings.dec_epochs, optimizer=settings.dec_optimizer)
    losses = fit(model, divergence, images, target, shuffle=not settings.batch_target, **options)
    labels, dead = soft.numpy().argmax(1), len(cluster_health(soft.numpy()).dead)
    if dead:
        warnings.warn(EMPTY.format(dead, settings.clusters), stacklevel=2)
        labels, parts = best.labels_, torch.from_numpy(latents).split(1024)
        soft = torch.cat([soft_assignment(part, centroids) for part in parts])
    numbered = np.unique(labels, return_inverse=True)[1]  # clusters without images drop out
    if not numbered.any():
        raise ValueError("all images fell into one cluster: use a larger latent or more images")
    converged = bool(churn) and churn[-1] < settings.dec_tolerance and not dead
    q, end = soft.numpy(), ("k-means" if dead else "dec", converged)
    found = q, numbered.astype(np.int64), q[np.arange(len(q)), labels], losses
    return Clusters(*found, np.asarray(churn), np.asarray(entropy), *end)


def cluster_health(soft: np.ndarray) -> ClusterHealth:
    """How evenly and how surely images lie in their clusters, from soft assignments q (N, K)."""
    count, clusters = soft.shape
    shares = np.bincount(soft.argmax(1), minlength=clusters) / count
    dead = tuple(int(k) for k in np.flatnonzero(shares < DEAD_SHARE / clusters))
    entropy = -(soft * np.log(np.clip(soft, 1e-12, 1))).sum(1).mean() / np.log(clusters)
    return ClusterHealth(shares, dead, float(entropy))


def purity(labels: np.ndarray, hidden: np.ndarray) -> float:
    """Share of images whose hidden class is the commonest of their cluster. Analysis only."""
    return float(contingency_matrix(labels, hidden).max(1).sum() / len(labels))
