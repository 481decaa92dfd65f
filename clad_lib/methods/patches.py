"""A dictionary of image patches, learned without a gradient, and four distances on what it sees.

Features of Coates, Lee & Ng (2011), "An analysis of single-layer networks in unsupervised feature
learning": patches are normalised and whitened, k-means finds K centroids, and an image is described
by how much nearer than average each centroid is, pooled over the cells of a grid.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.methods.distances import (
    NEAREST,
    SCORES,
    Memory,
    distances,
    k_means,
    neighbours,
    remember,
    squared_distances,
    with_cluster,
)
from clad_lib.methods.scorers import PartScorer, check_shape, check_training

CONTRAST = 10.0  # added to a patch's variance, in squared grey levels, so that flat stays flat
WHITENING = 0.1  # added to the eigenvalues of the patches' covariance
LEARNED_FROM = 600, 50_000  # images and patches that a dictionary is learned from
BLOCK = {"cpu": 2**18, "cuda": 2**27}  # activations at a time; on a CPU they fit its cache


class Dictionary(NamedTuple):
    """Whitened centroids of patches with d numbers, laid out so that distances are one product."""

    layout: Tensor  # (5,) int64: side and stride of a patch, cells a side, C and S of the images
    whitening: Tensor  # (d, d + 1), its last column empty: the squared length is written there
    offset: Tensor  # (d + 1,) minus the mean patch, whitened
    filters: Tensor  # (d + 1, K): minus twice the centroids, then a row of ones
    lengths: Tensor  # (K,) squared lengths of the centroids
    mean: Tensor  # (D,) of the features of the training images, D = cells^2 K
    scale: Tensor  # (D,) one over a centroid's standard deviation, the same in all cells


def _rows(images: Tensor, side: int, stride: int) -> Tensor:
    """Patches as rows (B h h, C side side), each less its mean, over sqrt(variance + CONTRAST)."""
    levels = images.float() if images.dtype == torch.uint8 else images * 255
    windows = levels.unfold(2, side, stride).unfold(3, side, stride)  # (B, C, h, h, side, side)
    rows = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * side * side)
    share = rows.new_full((rows.shape[1],), 1 / rows.shape[1])  # a mean as a product: faster
    rows.sub_((rows @ share)[:, None])
    return rows.mul_((rows.square() @ share).add_(CONTRAST).rsqrt_()[:, None])


def learn_dictionary(
    images: Tensor, *, side: int, stride: int, cells: int, centroids: int, seed: int
) -> Dictionary:
    """A dictionary of patches of `side` pixels from images (N, C, S, S), on their device."""
    generator, size = torch.Generator().manual_seed(seed), images.shape[-1]
    few, many = LEARNED_FROM
    chosen = images[torch.randperm(len(images), generator=generator)[:few].to(images.device)]
    drawn = []
    for block in chosen.split(50):  # all patches of all chosen images would fill the memory
        rows = _rows(block, side, stride)
        count = many * len(block) // len(chosen)
        drawn.append(rows[torch.randint(len(rows), (count,), generator=generator).to(rows.device)])
    rows = torch.cat(drawn)
    values, axes = torch.linalg.eigh(torch.cov(rows.T).cpu().double())
    turn = (axes / (values.clamp_min(0) + WHITENING).sqrt() @ axes.T).to(rows)
    whitening = torch.nn.functional.pad(turn, (0, 1))
    found = k_means((rows - rows.mean(0)) @ turn, centroids, seed=seed)
    return Dictionary(
        torch.tensor([side, stride, cells, images.shape[1], size]),
        whitening,
        -(rows.mean(0) @ whitening),
        torch.nn.functional.pad(-2 * found.T, (0, 0, 0, 1), value=1.0),
        found.square().sum(1),
        mean=found.new_zeros(()),
        scale=found.new_ones(()),
    )


def pooling(dictionary: Dictionary) -> Tensor:
    """What takes the h x h activations of a centroid to their mean in each cell: (cells^2, h^2)."""
    side, stride, cells, _, size = dictionary.layout.tolist()
    places = (size - side) // stride + 1
    member = one_hot(torch.arange(places) * cells // places, cells).float()  # (h, cells)
    member /= member.sum(0)
    return torch.einsum("ia,jb->abij", member, member).reshape(cells**2, -1).to(dictionary.filters)


def encode(images: Tensor, dictionary: Dictionary) -> Tensor:
    """Images (N, C, S, S) -> pooled activations (N, cells^2 K) of max(0, mean_k d_k - d_k), scaled.

    d_k is a patch's distance to centroid k, a cell holds the mean over its patches. Blocks bound
    the memory, and all steps after the product work in its place.
    """
    side, stride, *_ = dictionary.layout.tolist()
    pool, filters = -pooling(dictionary), dictionary.filters  # pooled is minus the activation
    step = max(1, BLOCK.get(filters.device.type, 2**18) // (pool.shape[1] * filters.shape[1]))
    features = filters.new_empty(len(images), len(pool), filters.shape[1])
    for block, into in zip(images.split(step), features.split(step), strict=True):
        rows = _rows(block.to(filters.device), side, stride)
        points = torch.addmm(dictionary.offset, rows, dictionary.whitening)  # (P, d + 1)
        points[:, -1] = points.square().sum(1)
        gaps = torch.addmm(dictionary.lengths, points, filters).clamp_min_(0).sqrt_()  # (P, K)
        gaps.sub_(gaps.mean(1, keepdim=True)).clamp_max_(0)
        torch.matmul(pool, gaps.view(len(block), pool.shape[1], -1), out=into)
    return features.flatten(1).sub_(dictionary.mean).mul_(dictionary.scale)


def fits(dictionary: Dictionary, memory: Memory) -> bool:
    """Whether the sizes of a dictionary and of points described by it agree."""
    side, stride, cells, _, size = dictionary.layout.tolist()
    sizes = [memory.points.shape[1], *map(len, (dictionary.mean, memory.reach, memory.density))]
    width, count = cells**2 * len(dictionary.lengths), len(memory.points)
    return 1 <= side <= size and stride >= 1 <= cells and sizes == [width, width, count, count]


class PatchScorer(PartScorer):
    """Images (N, C, S, S) -> scores (N,): four distances for each of several patch sizes."""

    def __init__(self, views: Sequence[tuple[Dictionary, Memory]], own: Tensor):
        self.views, layouts = views, [dictionary.layout.tolist() for dictionary, _ in views]
        if not all(fits(*view) for view in views) or len({(*each[3:],) for each in layouts}) > 1:
            raise ValueError("its dictionaries of patches and what they remember do not fit")
        names = [f"{score}, {layout[0]} pixels" for layout in layouts for score in SCORES]
        super().__init__(names, (layouts[0][3], *[layouts[0][4]] * 2), own)

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
        return [
            torch.cat([score(memory, encode(block, dictionary)) for block in images.split(2048)])
            for dictionary, memory in self.views
        ]


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
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> PatchScorer:
    """Learn dictionaries of patches with `sides` pixels from normal images (N, C, S, S).

    `groups` (N,) are equal for images of one object, which are no evidence for each other. At most
    `keep` images, drawn at random, are remembered. Raises NotApplicable for fewer than 8 images.
    """
    check_training(images, least=8)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=generator)[:keep].sort().values
    images, names = images[rows], np.arange(len(rows)) if groups is None else groups[rows.numpy()]
    members = torch.from_numpy(np.unique(names, return_inverse=True)[1]).to(device)
    sides = [min(side, images.shape[-1]) for side in sides]
    cells = min(cells, (images.shape[-1] - max(sides)) // stride + 1)
    views, own = [], []
    for side in sides:
        dictionary, features = _described(
            images.to(device), side=side, stride=stride, cells=cells, centroids=centroids, seed=seed
        )
        memory, scores = remember(features, members, clusters=clusters, seed=seed)
        views.append((dictionary, memory))
        own.append(scores.cpu())
    return PatchScorer(views, torch.cat(own, 1))


def _described(images: Tensor, *, cells: int, **sizes: int) -> tuple[Dictionary, Tensor]:
    """A dictionary of images (N, C, S, S), and their own features (N, D) by it, scaled."""
    dictionary = learn_dictionary(images, cells=cells, **sizes)
    features = encode(images, dictionary)
    variance = features.var(0).view(cells**2, -1).mean(0)  # of a centroid, over all cells
    scale = variance.clamp_min(1e-12).rsqrt().repeat(cells**2)
    dictionary = dictionary._replace(mean=features.mean(0), scale=scale)
    return dictionary, features.sub_(dictionary.mean).mul_(scale)


def patch_clusters(images: Tensor, *, clusters: int, seed: int) -> Tensor:
    """Pseudo-labels (N,) of images (N, C, S, S): k-means on what a dictionary says of 2x2 cells."""
    size = images.shape[-1]
    _, features = _described(
        images,
        side=min(8, size // 2),
        stride=max(1, size // 32),
        cells=2,
        centroids=256,
        seed=seed,
    )
    return squared_distances(features, k_means(features, clusters, seed=seed)).argmin(1)


def patches(split: Split, settings: Settings) -> PatchScorer:
    """The row Patches: a grid of 2x2 cells for photographs, which may be mirrored, else 4x4.

    Reads patch_features, the numbers an image and patch size, patch_images and clusters.
    """
    cells = 2 if split.scenario.mirror else 4
    return fit_patches(
        split.train,
        groups=split.train_tracks,
        stride=max(1, split.train.shape[-1] // 32),
        cells=cells,
        centroids=settings.patch_features // cells**2,
        clusters=settings.clusters,
        keep=settings.patch_images,
        seed=settings.seed,
        device=settings.device or "cpu",
    )
