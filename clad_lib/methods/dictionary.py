"""A dictionary of image patches, learned without a gradient, and what it says of images.

Features of Coates, Lee & Ng (2011), "An analysis of single-layer networks in unsupervised feature
learning": patches are normalised and whitened, k-means finds K centroids, and an image is described
by how much nearer than average each centroid is, pooled over the cells of a grid. The activations
of a fine grid are maps, which a second dictionary can read as it reads images.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from clad_lib.methods.distances import k_means

CONTRAST = 10.0  # added to a patch's variance, in squared grey levels, so that flat stays flat
WHITENING = 0.1  # added to the eigenvalues of the patches' covariance
LEARNED_FROM = 600, 50_000  # images and patches that a dictionary is learned from
OF_MAPS = 6, 64  # side of the patches, and centroids, of a dictionary that gives maps
MAPS = 8  # cells a side of them, at most
BLOCK = {"cpu": 2**18, "cuda": 2**27}  # activations at a time; on a CPU they fit its cache


class Dictionary(NamedTuple):
    """Whitened centroids of patches with d numbers, laid out so that distances are one product."""

    layout: Tensor  # (5,) int64: side and stride of a patch, cells a side, C and S of what it reads
    whitening: Tensor  # (d, d + 1), its last column empty: the squared length is written there
    offset: Tensor  # (d + 1,) minus the mean patch, whitened
    filters: Tensor  # (d + 1, K): minus twice the centroids, then a row of ones
    lengths: Tensor  # (K,) squared lengths of the centroids
    mean: Tensor  # (D,) of the features of the training images, D = cells^2 K; or ()
    scale: Tensor  # (D,) one over a centroid's standard deviation, the same in all cells
    source: "Dictionary | None" = None  # it reads the maps that this one gives, and not the images


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

    d_k is a patch's distance to centroid k, a cell holds the mean over its patches. Whitening stays
    a product of its own, since d_k takes the length of a whitened patch too. Blocks bound the
    memory, but that of maps, and all steps after the second product work in its place.
    """
    if dictionary.source is not None:
        images = maps_of(images, dictionary.source)
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


def learn_maps(images: Tensor, *, stride: int, seed: int) -> tuple[Dictionary, Tensor]:
    """A dictionary, and the maps (N, K, cells, cells) that it gives of images (N, C, S, S).

    The largest number in them is 1. There are at most 8x8 cells.
    """
    (side, centroids), size = OF_MAPS, images.shape[-1]
    side = min(max(side, stride), size)  # no pixel is left out
    sizes = dict(side=side, stride=stride, cells=min(MAPS, (size - side) // stride + 1))
    source = learn_dictionary(images, **sizes, centroids=centroids, seed=seed)
    maps = maps_of(images, source)
    scale = 1 / maps.max().clamp_min(1e-3)  # of equal images nothing but rounding is left
    return source._replace(scale=scale), maps * scale


def maps_of(images: Tensor, source: Dictionary) -> Tensor:
    """The maps (N, K, cells, cells) that a dictionary gives of images (N, C, S, S)."""
    cells = int(source.layout[2])
    return encode(images, source).unflatten(1, (cells, cells, -1)).permute(0, 3, 1, 2)


def described(images: Tensor, *, cells: int, **sizes: int) -> tuple[Dictionary, Tensor]:
    """A dictionary of images (N, C, S, S), and their own features (N, D) by it, scaled."""
    dictionary = learn_dictionary(images, cells=cells, **sizes)
    features = encode(images, dictionary)
    variance = features.var(0).view(cells**2, -1).mean(0)  # of a centroid, over all cells
    scale = variance.clamp_min(1e-12).rsqrt().repeat(cells**2)
    dictionary = dictionary._replace(mean=features.mean(0), scale=scale)
    return dictionary, features.sub_(dictionary.mean).mul_(scale)
