"""Anomalies by four distances on what dictionaries of patches say of an image."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.methods.dictionary import MAPS, Dictionary, described, encode, learn_maps
from clad_lib.methods.distances import (
    NEAREST,
    SCORES,
    Memory,
    distances,
    neighbours,
    remember,
    with_cluster,
)
from clad_lib.methods.scorers import PartScorer, check_shape, check_training, some


def fits(dictionary: Dictionary, memory: Memory) -> bool:
    """Whether the sizes of a dictionary and of points described by it agree."""
    (side, stride, cells, *read), source = dictionary.layout.tolist(), dictionary.source
    sizes = [memory.points.shape[1], *map(len, (dictionary.mean, memory.reach, memory.density))]
    width, count = cells**2 * len(dictionary.lengths), len(memory.points)
    if source and (read != [len(source.lengths), int(source.layout[2])] or source.source):
        return False
    right = 1 <= side <= read[1] and stride >= 1 <= cells and (not source or read[1] <= MAPS)
    return right and sizes == [width, width, count, count]


class PatchScorer(PartScorer):
    """Images (N, C, S, S) -> scores (N,): four distances for each of several patch sizes."""

    def __init__(self, views: Sequence[tuple[Dictionary, Memory]], own: Tensor):
        self.views = views
        read = {(*(each.source or each).layout.tolist()[3:],) for each, _ in views}
        if not all(fits(*view) for view in views) or len(read) > 1:
            raise ValueError("its dictionaries of patches and what they remember do not fit")
        names = [
            f"{score}, {int(each.layout[0])} {'cells' if each.source else 'pixels'}"
            for each, _ in views
            for score in SCORES
        ]
        channels, size = read.pop()
        super().__init__(names, (channels, size, size), own)

    def distances(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) -> distances (N, parts)."""
        return torch.cat(self._seen(images, distances), 1)

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N,), and latent classes (N,): the nearest cluster, as the last patches see it."""
        check_shape(images, self.shape)
        seen = torch.stack(self._seen(images, with_cluster)).cpu()  # (views, N, parts + 1)
        parts = self._comparable(torch.cat([*seen[..., :-1]], 1))
        return parts.T.contiguous().mean(0), seen[-1, :, -1].long()

    def map(self, images: Tensor) -> Tensor:
        """Where the distance comes from: images (N, C, S, S) -> (N, cells, cells) on the CPU.

        The mean squared distance to the NEAREST training images is a sum over the grid's cells;
        those of all patch sizes are added up.
        """
        cells = int(self.views[0][0].layout[2])

        def by_cell(memory: Memory, points: Tensor) -> Tensor:
            _, places = neighbours(points, memory.points, k=min(NEAREST, len(memory.points)))
            shares = (points[:, None] - memory.points[places]).square().mean(1)  # (N, D)
            return shares.view(len(points), cells, cells, -1).sum(3)

        return torch.stack(self._seen(images, by_cell)).sum(0).cpu()

    def _seen(self, images: Tensor, score: Callable[[Memory, Tensor], Tensor]) -> list[Tensor]:
        """The score of all images through each dictionary, made in blocks."""
        found = [
            [score(memory, encode(block, dictionary)) for dictionary, memory in self.views]
            for block in images.split(2048)
        ]
        return [torch.cat(blocks) for blocks in zip(*found, strict=True)]


def fit_patches(
    images: Tensor,
    *,
    groups: np.ndarray | None = None,
    sides: Sequence[int] = (4, 8),
    stride: int = 1,
    cells: int = 4,
    centroids: int = 64,
    clusters: int = 10,
    keep: int = 20_000,
    layers: Literal[1, 2] = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> PatchScorer:
    """Learn dictionaries of patches with `sides` pixels from normal images (N, C, S, S).

    With two `layers` there are more, of patches with 2 and 3 cells of the maps that one more
    dictionary gives. A side that images are too small for becomes theirs. `groups` (N,) are equal
    for images of one object, which are no evidence for each other. At most `keep` images, drawn at
    random, are remembered. Raises NotApplicable for fewer than 8 images.
    """
    check_training(images, least=8)
    rows = some(len(images), keep, seed=seed).sort().values
    images, names = images[rows], np.arange(len(rows)) if groups is None else groups[rows.numpy()]
    members = torch.from_numpy(np.unique(names, return_inverse=True)[1]).to(device)
    images = images.to(device)
    layers_read: list[Any] = [(None, images, sides, stride)]
    if layers == 2:
        layers_read.append((*learn_maps(images, stride=stride, seed=seed), (2, 3), 1))
    read = [
        (source, each, side, step)
        for source, each, sides, step in layers_read
        for side in sorted({min(side, each.shape[-1]) for side in sides})
    ]
    cells = min(cells, *((each.shape[-1] - side) // step + 1 for _, each, side, step in read))
    views, own = [], []
    for source, each, side, step in read:
        dictionary, features = described(
            each, side=side, stride=step, cells=cells, centroids=centroids, seed=seed
        )
        memory, scores = remember(features, members, clusters=clusters, seed=seed)
        # A copy of the source for each: a bundle cannot hold one tensor under two names.
        views.append((dictionary._replace(source=deepcopy(source)), memory))
        own.append(scores.cpu())
    return PatchScorer(views, torch.cat(own, 1))


def patches(split: Split, settings: Settings) -> PatchScorer:
    """The row Patches: a grid of 2x2 cells for photographs, which may be mirrored, else 4x4.

    Reads patch_features, the numbers an image and patch size, patch_layers, patch_images and
    clusters.
    """
    cells = 2 if split.scenario.mirror else 4
    return fit_patches(
        split.train,
        groups=split.train_tracks,
        layers=settings.patch_layers,
        stride=max(1, split.train.shape[-1] // 32),
        cells=cells,
        centroids=settings.patch_features // cells**2,
        clusters=settings.clusters,
        keep=settings.patch_images,
        seed=settings.seed,
        device=settings.device or "cpu",
    )
