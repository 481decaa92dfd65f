"""Patches against the same scores made directly with torch.cdist and scikit-learn.

`python benchmarks/patches.py [--small]`. Fits 10,000 images of 28x28 pixels and scores 4,000 more:
scikit-learn's digits, enlarged, shifted and noisy. Each side runs in a process of its own; memory
is what its peak adds to the images and imports. Both learn the same dictionaries. Ours also gets
50,000 images of 3x32x32, of which it learns from 20,000, and scores 10,000, beside its own time a
pixel value on the small images: with the same recipe, and with that of photographs, two layers of
2,048 numbers a patch size. In brackets are the seconds and megabytes of ours. The last row, in
one process, asks what bfloat16 would gain from the product with the centroids on, where the library
does not take it; its agreement is that of the features.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sides import Cost, Row, asked, in_turn, ratios, show
from sklearn.cluster import KMeans
from sklearn.covariance import ShrunkCovariance
from sklearn.datasets import load_digits
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from torch import Tensor
from torch.nn.functional import interpolate, unfold

from clad_lib.methods.dictionary import (
    BLOCK,
    Dictionary,
    described,
    encode,
    learn_dictionary,
    pooling,
)
from clad_lib.methods.dictionary import _rows as patch_rows
from clad_lib.methods.patches import fit_patches

CELLS, CENTROIDS, CLUSTERS, SIDES = 4, 64, 10, (4, 8)


def digit_like(count: int, seed: int, *, size: int = 28, channels: int = 1) -> Tensor:
    """Random images (count, channels, size, size), uint8."""
    random = np.random.default_rng(seed)
    digits = torch.from_numpy(load_digits().images).float()[:, None] * 255 / 16
    digits = interpolate(digits, size=size, mode="bilinear").expand(-1, channels, -1, -1)
    images = digits[random.integers(0, len(digits), count)]
    shifts = random.integers(-2, 3, (count, 2)).tolist()
    images = torch.stack([image.roll(s, (1, 2)) for image, s in zip(images, shifts, strict=True)])
    noise = torch.from_numpy(random.normal(0, 10, images.shape)).float()
    return (images + noise).clamp(0, 255).to(torch.uint8)


def ours(train: Tensor, tested: Tensor, **recipe: Any) -> np.ndarray:
    """The library's scores; `recipe` are settings of `fit_patches` other than those of digits."""
    settings = dict(sides=SIDES, cells=CELLS, centroids=CENTROIDS, clusters=CLUSTERS) | recipe
    return fit_patches(train, **settings)(tested).numpy()


def in_bfloat16(images: Tensor, dictionary: Dictionary) -> Tensor:
    """The library's `encode` in bfloat16 from the product with the centroids on."""
    side, stride, *_ = dictionary.layout.tolist()
    pool, filters, lengths = (
        each.bfloat16() for each in (-pooling(dictionary), dictionary.filters, dictionary.lengths)
    )
    found = []
    for block in images.split(max(1, BLOCK["cpu"] // (pool.shape[1] * filters.shape[1]))):
        rows = torch.addmm(dictionary.offset, patch_rows(block, side, stride), dictionary.whitening)
        rows[:, -1] = rows.square().sum(1)
        gaps = torch.addmm(lengths, rows.bfloat16(), filters).clamp_min_(0).sqrt_()
        gaps.sub_(gaps.mean(1, keepdim=True)).clamp_max_(0)
        found.append(torch.matmul(pool, gaps.view(len(block), pool.shape[1], -1)).float())
    return torch.cat(found).flatten(1).sub_(dictionary.mean).mul_(dictionary.scale)


def plain_features(images: Tensor, dictionary: Dictionary, side: int) -> np.ndarray:
    """Pooled activations (N, D) as the paper writes them, 500 images at a time."""
    whitening, offset = dictionary.whitening[:, :-1], dictionary.offset[:-1]
    centroids, places = -dictionary.filters[:-1].T / 2, 28 - side + 1
    cell = torch.arange(places) * CELLS // places
    found = []
    for batch in images.split(500):
        rows = unfold(batch.float(), side).transpose(1, 2)  # (B, places^2, d)
        rows = rows - rows.mean(2, keepdim=True)
        rows = rows / (rows.square().mean(2, keepdim=True) + 10).sqrt()
        gaps = torch.cdist(rows @ whitening + offset, centroids)
        active = (gaps.mean(2, keepdim=True) - gaps).relu().unflatten(1, (places, places))
        cells = [active[:, cell == i][:, :, cell == j] for i in range(CELLS) for j in range(CELLS)]
        found.append(torch.stack([each.mean((1, 2)) for each in cells], 1).flatten(1))
    return torch.cat(found).numpy()


def plain_distances(seen: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Four distances of seen points, each left out, (n, 4), and of new ones, (m, 4)."""
    near = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(seen)
    local = LocalOutlierFactor(n_neighbors=20, novelty=True, algorithm="brute").fit(seen)
    centres = KMeans(CLUSTERS, n_init=1, random_state=0).fit(seen)
    whole = ShrunkCovariance(shrinkage=0.1).fit(seen)
    within = ShrunkCovariance(shrinkage=0.1, assume_centered=True)
    within.fit(seen - centres.cluster_centers_[centres.labels_])

    def gaussians(points: np.ndarray) -> list[np.ndarray]:
        each = [within.mahalanobis(points - centre) for centre in centres.cluster_centers_]
        return [whole.mahalanobis(points), np.min(each, 0)]

    left_out = [each / (1 - 0.9 * each / len(seen)) for each in gaussians(seen)]
    own = [near.kneighbors()[0].mean(1), -local.negative_outlier_factor_, *left_out]
    fresh = [near.kneighbors(new)[0].mean(1), -local.score_samples(new), *gaussians(new)]
    return np.stack(own, 1), np.stack(fresh, 1)


def direct(train: Tensor, tested: Tensor) -> np.ndarray:
    """The same scores without anything that the library does for speed."""
    settings, parts = dict(stride=1, cells=CELLS, centroids=CENTROIDS, seed=0), []
    for side in SIDES:
        dictionary = learn_dictionary(train, side=side, **settings)
        seen, new = (plain_features(images, dictionary, side) for images in (train, tested))
        scale = np.tile(seen.var(0).reshape(CELLS**2, -1).mean(0), CELLS**2) ** -0.5
        own, fresh = plain_distances((seen - seen.mean(0)) * scale, (new - seen.mean(0)) * scale)
        middle = np.median(np.log(own), 0)
        spread = np.median(np.abs(np.log(own) - middle), 0)
        parts.append((np.log(fresh) - middle) / spread)
    return np.concatenate(parts, 1).mean(1)


def measured(
    side: Callable[..., np.ndarray], count: int, more: int, shape: dict[str, int]
) -> tuple[Cost, int]:
    """What a side costs in this process, and by how many kB it raises the peak memory."""
    train, tested = (
        torch.cat([digit_like(n // 100, 100 * seed + part, **shape) for part in range(100)])
        for seed, n in enumerate((count, more))
    )  # in parts, so that making them is no peak
    side(train[:100], tested[:100])  # imports and threads
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cost = in_turn({"": lambda: side(train, tested)})[""]
    return cost, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def precision(count: int) -> Row:
    """Features by the recipe of photographs, as they are and in bfloat16."""
    images = digit_like(count, 0, size=32, channels=3)
    dictionary, _ = described(images[:600], side=8, stride=1, cells=2, centroids=512, seed=0)
    sides = {"ours": encode, "bfloat16": in_bfloat16}
    found = in_turn({name: partial(side, images, dictionary) for name, side in sides.items()})
    own, other = (found[name].result.flatten()[::97].numpy() for name in sides)
    speed = ratios(found["ours"], found["bfloat16"])
    case = f"features of {count:,} of 3x32x32, recipe of photographs, patches of 8 pixels"
    alike = spearmanr(own, other).statistic
    rival = "itself in bfloat16, from the product with the centroids on"
    return Row(case, rival, *speed, None, alike)


def main() -> None:
    """Measure both sides, one after the other."""
    options = asked(__doc__)
    count, more = (200, 100) if options.small else (10_000, 4000)
    many, shape = (500, 100) if options.small else (50_000, 10_000), dict(size=32, channels=3)
    photographs, found = partial(ours, cells=2, centroids=512, layers=2), []
    for each in (
        (ours, count, more, {}),
        (direct, count, more, {}),
        (ours, *many, shape),
        (photographs, *many, shape),
    ):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            found.append(fresh.submit(measured, *each).result())
    (cost, memory), (their_cost, their_memory), *larger = found
    alike = spearmanr(cost.result, their_cost.result).statistic
    assert alike > 0.9, f"the two sides rank the images otherwise: {alike:.3f}"
    less = their_memory / memory if memory else None  # in a small try nothing is added
    case = f"fit and score ({cost.wall:.1f} s, {memory / 1e3:.0f} MB)"
    rows = [Row(case, "torch.cdist, scikit-learn", *ratios(cost, their_cost), less, alike)]
    numbers = sum(many) * 3 * 32**2 / ((count + more) * 28**2)
    for recipe, (large, most) in zip(("", ", recipe of photographs"), larger, strict=True):
        speed = [each * numbers for each in ratios(large, cost)]
        seen = f"{many[0]:,} of 3x32x32, of which 20,000 at most are learnt from, and {many[1]:,}"
        case = f"{seen}{recipe} ({large.wall:.1f} s, {most / 1e3:.0f} MB)"
        rows.append(Row(case, "itself on 1x28x28, a pixel value", *speed))
    rows.append(precision(200 if options.small else 2000))
    what = f"Patches, {count:,} images fitted and {more:,} scored"
    show(options, what, rows, agreement="rank correlation of the scores or features")


if __name__ == "__main__":
    main()
