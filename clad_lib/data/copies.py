"""Images that are not independent of each other: exact and near copies, and lost tracks."""

from __future__ import annotations

import hashlib
import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import SpectralClustering
from sklearn.neighbors import NearestNeighbors

CELLS = 2**23  # pairs compared at once: 32 MB of distances


class Copies(NamedTuple):
    """Which images are copies of each other, and how many.

    groups: for each image the position of the first image of its group; an image without a copy
    is its own group. With two sets the positions count through the first set, then the second.
    exact, near: in one set, how many images could be left out as exact, then as near copies, so
    that number of images = number of groups + exact + near. Between two sets, how many images of
    the first have an exact, or else only a near copy in the second; these images are
    `np.isin(groups[:n], groups[n:])`, n being the size of the first set.
    """

    groups: np.ndarray
    exact: int
    near: int


def find_copies(
    images: ArrayLike, other: ArrayLike | None = None, *, tolerance: float = 0.2
) -> Copies:
    """Exact and near copies within a set of images, or also between it and another set.

    images (N, C, H, W), other (M, C, H, W), both uint8 -> groups (N,), or (N + M,). Exact copies
    have the same SHA-256. Near copies: each image has its channels' means subtracted and is divided
    by its standard deviation; the root mean square difference of the two is at most `tolerance`,
    so that the correlation of their pixels is at least 1 - tolerance^2 / 2 (0.98). A changed
    brightness or contrast and a new JPEG encoding are seen through, a shift or a crop is not.
    Copies of copies are in one group. The search misses none: images are first compared by the
    means of about 8 x 8 blocks, an orthogonal projection, which cannot increase a distance.

    Simple pictures are alike without being copies: in MNIST's training part all 458 pairs that
    are found are ones. 60,000 images of 32 x 32 take about 20 s on one core and 0.5 GB besides
    the images. Raises ValueError for images that are not uint8 (N, C, H, W) of one shape.
    """
    parts = [np.asarray(part) for part in (images, other) if part is not None]
    if {part.dtype for part in parts} != {np.dtype(np.uint8)} or any(p.ndim != 4 for p in parts):
        found = ", ".join(f"{part.dtype} {part.shape}" for part in parts)
        raise ValueError(f"images are {found}: expected uint8 (N, C, H, W); give unscaled pixels")
    every, n = np.concatenate(parts), len(parts[0])
    digests = [hashlib.sha256(image.tobytes()).digest() for image in every]
    first, kind = np.unique(digests, return_index=True, return_inverse=True)[1:]
    joined = _near(every[first], tolerance)[kind]  # (N,) number of the group
    groups = np.unique(joined, return_index=True)[1][np.unique(joined, return_inverse=True)[1]]
    if other is None:
        return Copies(groups, n - len(first), len(first) - len(np.unique(groups)))
    exact = int(np.isin(kind[:n], kind[n:]).sum())
    return Copies(groups, exact, int(np.isin(groups[:n], groups[n:]).sum()) - exact)


class CopiesInSplit(NamedTuple):
    """test_in_train (m,) bool: test images with an exact or near copy among the training images.

    The counts are of `Copies`: training images that could be left out as copies, and test images
    with an exact, or only a near, copy in training.
    """

    test_in_train: np.ndarray
    train_exact: int
    train_near: int
    test_exact: int
    test_near: int


def copies_in_split(split: Any, settings: Any) -> CopiesInSplit:
    """The copies within a Split's training images and between them and its test images."""
    train, test = split.train.numpy(), split.test.numpy()
    within, between = find_copies(train), find_copies(test, train)
    again = np.isin(between.groups[: len(test)], between.groups[len(test) :])
    return CopiesInSplit(again, within.exact, within.near, between.exact, between.near)


def recover_tracks(images: ArrayLike, labels: ArrayLike, *, length: int = 30) -> np.ndarray:
    """Tracks of images whose track numbers are not published, such as GTSRB's test images.

    images (N, C, H, W) uint8, labels (N,) -> tracks (N,) int64, each within one class. A track is
    `length` frames of one physical object: GTSRB's 12,630 test images are 421 tracks of 30, since
    each class's number of images is a multiple of 30. The order of the files tells nothing.

    Features are the logarithms of the means of 8 x 8 blocks. Their metric is learnt without track
    numbers: the two nearest images of the same class are taken to be of the same track, and the 32
    linear discriminants that separate the images of a class best, relative to the differences in
    such pairs, are the next features, three times over. Spectral clustering of the
    nearest-neighbour graph then divides a class into (number of images / `length`) tracks.
    """
    pixels = np.log(_block_means(np.asarray(images)) + 8.0).astype(np.float64)  # (N, D)
    tracks = np.unique(labels, return_inverse=True)[1]  # a small class stays one track
    classes = [np.flatnonzero(tracks == label) for label in np.unique(tracks)]
    large, features = [rows for rows in classes if len(rows) >= 1.5 * length], pixels
    for _ in range(3 if large else 0):
        features = pixels @ _discriminants(pixels, features, large)
    for rows in large:
        method = SpectralClustering(
            round(len(rows) / length),
            affinity="nearest_neighbors",
            n_neighbors=6,
            assign_labels="cluster_qr",
            random_state=0,
        )
        with warnings.catch_warnings():  # a track that is apart from all others is welcome
            warnings.filterwarnings("ignore", "Graph is not fully connected")
            tracks[rows] = tracks.max() + 1 + method.fit_predict(features[rows])
    return tracks


def _discriminants(
    pixels: np.ndarray, features: np.ndarray, classes: list[np.ndarray]
) -> np.ndarray:
    """Directions (D, 32) in which a class spreads most where its nearest pairs differ least."""
    finder = NearestNeighbors(n_neighbors=2)
    nearest = [rows[finder.fit(features[rows]).kneighbors()[1]] for rows in classes]
    steps = np.concatenate(
        [pixels[rows, None] - pixels[near] for rows, near in zip(classes, nearest, strict=True)]
    ).reshape(-1, pixels.shape[1])
    centred = np.concatenate([pixels[rows] - pixels[rows].mean(0) for rows in classes])
    within = steps.T @ steps / len(steps)
    within += (1e-3 * np.trace(within) / len(within) + 1e-12) * np.eye(len(within))
    return eigh(centred.T @ centred / len(centred), within)[1][:, -32:]


def _standardised(images: np.ndarray) -> np.ndarray:
    """Images with channel means 0 and unit length, float32; a constant image becomes 0."""
    centred = images - images.mean((2, 3), keepdims=True, dtype=np.float32)
    return centred / np.maximum(np.sqrt((centred**2).sum((1, 2, 3), keepdims=True)), 1e-6)


def _block_means(images: np.ndarray) -> np.ndarray:
    """Means of at most 8 x 8 blocks of equal size, what is over at the edges left out: (N, D)."""
    n, c, height, width = images.shape
    a, b = math.ceil(height / 8), math.ceil(width / 8)
    whole = images[:, :, : height // a * a, : width // b * b]
    blocks = whole.reshape(n, c, height // a, a, width // b, b)
    return blocks.mean((3, 5), dtype=np.float32).reshape(n, -1)


def _near(images: np.ndarray, tolerance: float) -> np.ndarray:
    """Group numbers (n,) of images that are all different; near copies have the same number."""
    n, some, least = len(images), max(1, CELLS // images[0].size), 1 - tolerance**2 / 2
    side = math.sqrt(math.ceil(images.shape[2] / 8) * math.ceil(images.shape[3] / 8))
    parts = [_block_means(_standardised(images[k : k + some])) for k in range(0, n, some)]
    coarse = side * np.concatenate(parts)  # coordinates in an orthonormal basis of the blocks
    half, ones = (coarse**2).sum(1, keepdims=True) / 2, np.ones((n, 1), np.float32)
    left, right = np.hstack([coarse, -half, ones]), np.hstack([coarse, ones, -half])
    groups, step = np.arange(n), max(1, CELLS // n)
    for start in range(0, n, step):  # left @ right.T is minus half the squared distance
        close = left[start : start + step] @ right[start:].T >= least - 1 - 1e-5
        pairs = np.argwhere(close) + start
        for k in range(0, len(pairs), some):
            pair = pairs[k : k + some].T
            one, two = pair[:, groups[pair[0]] != groups[pair[1]]]
            alike = (_standardised(images[one]) * _standardised(images[two])).sum((1, 2, 3))
            edge = groups[one[alike >= least]], groups[two[alike >= least]]
            graph = coo_array((np.ones(len(edge[0])), edge), shape=(n, n))
            groups = connected_components(graph, directed=False)[1][groups]
    return groups
