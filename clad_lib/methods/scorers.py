"""What the methods share: what they ask of images, and the scorers that they return."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clad_lib.clad.training import as_unit
from clad_lib.methods.distances import SMALLEST

TURNS = 4  # quarter turns of an image
HELD_OUT = 0.1  # share of the training tracks that a network does not see: what is normal for it
REMEMBERED = 5_000  # training images with whose features others are compared, at most


class NotApplicable(ValueError):
    """A method that cannot run on this split, such as for too few images or no anomalies."""


@dataclass(frozen=True)
class FittedScorer:
    """Images (N, C, H, W), uint8 or float32 in [0, 1] -> anomaly scores (N,) on the CPU."""

    score: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]  # (C, H, W) of the training images

    def __call__(self, images: Tensor) -> Tensor:
        """The score of each image; ValueError for another shape than the training images'."""
        check_shape(images, self.shape)
        return self.score(images)


class PartScorer:
    """Images (N, C, S, S) -> scores (N,): the mean of several parts, made comparable.

    A part is the logarithm of a distance, less its median over training images that were kept out
    of it, over their median absolute deviation. `own` (n, parts) are the distances of those
    images, `normals` (n,) their scores. A kind of scorer says how images (N, C, S, S) get their
    `distances` (N, parts).
    """

    distances: Callable[[Tensor], Tensor]

    def __init__(self, names: Sequence[str], shape: tuple[int, ...], own: Tensor):
        self.names, self.shape, self.own = names, shape, own
        logarithms = own.clamp_min(SMALLEST).log()
        self.centre = logarithms.median(0).values
        self.spread = (logarithms - self.centre).abs().median(0).values.clamp_min(1e-6)
        self.normals = self._comparable(own).mean(1)

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S), uint8 or float32 in [0, 1] -> scores (N,) on the CPU."""
        return torch.stack(list(self.parts(images).values())).mean(0)

    def parts(self, images: Tensor) -> dict[str, Tensor]:
        """Name of a part, such as "local density, 8 pixels" -> its scores (N,) on the CPU."""
        check_shape(images, self.shape)
        scores = self._comparable(self.distances(images).cpu())
        return dict(zip(self.names, scores.T, strict=True))

    def _comparable(self, found: Tensor) -> Tensor:
        return (found.clamp_min(SMALLEST).log() - self.centre) / self.spread


def check_shape(images: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless images are (N, C, H, W) with the (C, H, W) that `shape` gives."""
    if tuple(images.shape[1:]) != shape:
        raise ValueError(
            f"images are {tuple(images.shape)}: expected (N, *{shape}) as in training; resize them"
        )


def check_training(images: Tensor, *, least: int = 1) -> None:
    """Refuse images to which no method can be fitted.

    Raises NotApplicable for fewer than `least` images, ValueError for other than (N, C, H, W) and
    for NaN or infinite pixels.
    """
    if images.ndim != 4:
        raise ValueError(f"images are {tuple(images.shape)}: expected (N, C, H, W); add an axis")
    if len(images) < least:
        raise NotApplicable(f"got {len(images)} training image(s): expected {least} or more")
    if images.is_floating_point() and not torch.isfinite(images).all():
        raise ValueError("images hold NaN or infinite values: expected finite pixels; repair them")


def pixels(images: Tensor) -> Tensor:
    """Images (N, C, H, W), uint8 or float32 in [0, 1] -> rows of pixels in [0, 1], (N, C H W)."""
    return as_unit(images).flatten(1)


def encoder_features(autoencoder: Any) -> nn.Sequential:
    """A copy of the encoder: images (N, C, S, S) -> the 512 activations under the latent."""
    return copy.deepcopy(nn.Sequential(autoencoder.standardise, autoencoder.encoder))


def turned(images: Tensor) -> Tensor:
    """Images (N, C, S, S) in the four quarter turns, one turn after the other: (4 N, C, S, S)."""
    return torch.cat([torch.rot90(images, turn, (2, 3)) for turn in range(TURNS)])


def held_out(tracks: np.ndarray, *, seed: int) -> Tensor:
    """Which training images (N,) the network is not trained on: whole tracks, at least one."""
    names, place = np.unique(tracks, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return torch.from_numpy(np.isin(place, order[: max(1, int(HELD_OUT * len(names)))]))


def some(count: int, most: int, *, seed: int) -> Tensor:
    """At most `most` of the numbers below `count`, drawn at random."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most]
