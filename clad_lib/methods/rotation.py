"""Which way up is it? A network that tells quarter turns apart is unsure of what it never saw.

Rotation prediction (Golan & El-Yaniv 2018; Hendrycks et al. 2019) times pseudo-labels of latent
classes: the network names the cluster and the turn of an image together. On signs and photographs
it names the turn alone.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from clad_lib.clad.networks import PlainNet, Trained, channel_statistics
from clad_lib.clad.training import fit, infer, precision
from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.methods.dictionary import described
from clad_lib.methods.distances import NEAREST, SCORES, k_means, neighbours, squared_distances
from clad_lib.methods.scorers import (
    REMEMBERED,
    TURNS,
    NotApplicable,
    PartScorer,
    held_out,
    some,
    turned,
)

BATCHES = {0: 128, 1_000_000: 1024}  # turned images in a training step, from so many views on
RATE = 3e-3  # Adam's peak learning rate


def rotation_network(split: Split, settings: Settings, *, count: int = 0) -> Trained:
    """A network that names cluster and turn of `count` turned training images.

    Reads rotation_views, the count where none is given, rotation_labels, clusters and device.
    Images of data sets with `mirror` are mirrored at random. Raises NotApplicable where a turned
    image is as normal (`turnable`).
    """
    if split.scenario.turnable:
        raise NotApplicable(
            "turnable is true: Rotation expects images that are normal one way up; use Patches"
        )
    images = split.train[~held_out(split.train_tracks, seed=settings.seed)]
    count = count or settings.rotation_views
    each = count // TURNS  # the number of images, each of them in four turns
    if len(images) > each:
        images = images[some(len(images), each, seed=settings.seed)]
    labels = torch.zeros(len(images)).long()
    if settings.rotation_labels == "patches":
        clusters = min(settings.clusters, len(images))
        labels = patch_clusters(
            images.to(settings.device), clusters=clusters, seed=settings.seed
        ).cpu()
    return fit_rotation(images, labels, split, settings, count=count)


def patch_clusters(images: Tensor, *, clusters: int, seed: int) -> Tensor:
    """Pseudo-labels (N,) of images (N, C, S, S): k-means on what a dictionary says of 2x2 cells."""
    size = images.shape[-1]
    _, features = described(
        images,
        side=min(8, size // 2),
        stride=max(1, size // 32),
        cells=2,
        centroids=256,
        seed=seed,
    )
    return squared_distances(features, k_means(features, clusters, seed=seed)).argmin(1)


def fit_rotation(
    images: Tensor, labels: Tensor, split: Split, settings: Settings, *, count: int
) -> Trained:
    """A network that names label and turn of `count` turned images, (N, C, S, S) with labels (N,).

    Each of the uint8 images is shown in all four turns.
    """
    model = PlainNet(
        *images.shape[1:3],
        classes=TURNS * (int(labels.max()) + 1),
        **channel_statistics(images),
    )

    def loss(model: torch.nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if split.scenario.mirror:
            flip = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(flip, images.flip(3), images)
        turns = torch.arange(TURNS, device=labels.device)[:, None]
        with precision(images.device):
            return cross_entropy(model(turned(images)), (TURNS * labels + turns).flatten())

    losses = fit(
        model.to(settings.device),
        loss,
        images,
        labels,
        epochs=max(1, round(count / TURNS / len(images))),
        batch_size=max(n for least, n in BATCHES.items() if count >= least) // TURNS,
        lr=RATE,
        schedule="onecycle",
        seed=settings.seed,
        title="rotation",
        progress=settings.progress,
    )
    return Trained(model, losses)


class RotationScorer(PartScorer):
    """Images (N, C, S, S) -> scores (N,): doubt about their turns, and distance of their features.

    `normals` are those of training images that the network was not trained on; `accuracy` is the
    share of their turns that get better than even odds of a network of at most `trust_views`, a
    monitor that needs no anomaly.
    """

    def __init__(
        self, model: Any, known: Tensor, own: Tensor, accuracy: float, shape: tuple[int, ...]
    ):
        self.model, self.known, self.accuracy = model, known, accuracy
        super().__init__(("turn", SCORES[0]), shape, own)

    def distances(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) -> the two `doubts` about each, (N, 2)."""
        return doubts(views(self.model, images), self.known)


def doubts(seen: Tensor, known: Tensor) -> Tensor:
    """`views` (N, 4 + D) -> minus the summed log-probabilities of the right turns, and the mean
    distance to the NEAREST of the features `known` (n, D): (N, 2)."""
    near, _ = neighbours(seen[:, TURNS:], known, k=min(NEAREST, len(known)))
    return torch.stack([-seen[:, :TURNS].sum(1), near.mean(1)], 1)


def views(model: Any, images: Tensor) -> Tensor:
    """The log-probability of the right turn of each view (N, 4), then their features (N, 4 256).

    A turn's probability is the sum over the clusters; features are of unit length a view.
    """

    def look(batch: Tensor) -> Tensor:
        features = model.features(turned(batch)).float()  # (4 N, 256)
        shares = model.logits(features).log_softmax(1).view(TURNS, len(batch), -1, TURNS)
        right = shares.logsumexp(2).diagonal(dim1=0, dim2=2)  # (N, 4)
        each = normalize(features).view(TURNS, len(batch), -1).transpose(0, 1)
        return torch.cat([right, each.flatten(1)], 1)

    return infer(model, images, function=look, batch_size=64, bf16=True)


def rotation(split: Split, settings: Settings, trained: Trained) -> RotationScorer:
    """The row Rotation: its normals are the training images that the network did not see.

    Its accuracy is that of a network of at most `trust_views`: with more training turns are known
    better everywhere, of anomalies too, and say less. That network is not kept: each fit trains it.
    Reads what `rotation_network` reads, too.
    """
    held, model = held_out(split.train_tracks, seed=settings.seed), trained.model
    shown = split.train[~held]  # a file may hold one class after the other: some at random
    rows = some(len(shown), REMEMBERED, seed=settings.seed).sort().values
    known = views(model, shown[rows])[:, TURNS:]
    seen = views(model, split.train[held])
    judged = seen
    if settings.trust_views < settings.rotation_views:
        short = rotation_network(split, settings, count=settings.trust_views)
        judged = views(short.model, split.train[held])
    accuracy = float((judged[:, :TURNS].exp() > 0.5).float().mean())
    return RotationScorer(model, known, doubts(seen, known), accuracy, tuple(split.train.shape[1:]))
