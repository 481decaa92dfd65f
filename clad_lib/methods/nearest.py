"""The controls, which learn next to nothing, and the check before training by the same distance."""

import io
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor

from clad_lib.clad.networks import Trained
from clad_lib.clad.training import as_unit, infer
from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.judge.metrics import Interval, bootstrap
from clad_lib.methods.scorers import FittedScorer, check_training, encoder_features, pixels

LOF_NEIGHBOURS = 20
RESAMPLES = 500
DIRECTIONS = {
    -1: "anomalies look MORE normal than the normal images: expect an AUROC below 0.5 from scores "
    "that follow pixels",
    0: "in pixels, anomalies and normal images are alike: nothing can be said of the direction of "
    "scores",
    1: "anomalies lie farther from the training images than normal images do: scores should point "
    "the right way",
}


def nearest(images: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance in pixels to the nearest known image, and which that is: (N,), (N,) int64.

    images (N, C, H, W) and known (M, C, H, W), uint8 or float32 in [0, 1]. The search compares
    |b|^2 - 2 ab block by block, where the known images lie; the distance is that of the pixels'
    differences, 0 for a copy.
    """
    distances, places = [], []
    for batch in images.split(512):
        rows = pixels(batch.to(known.device))  # (n, D)
        ranks = [  # each (n, m)
            block.square().sum(1) - 2 * rows @ block.T for block in map(pixels, known.split(4096))
        ]
        places.append(torch.cat(ranks, 1).argmin(1))
        distances.append((rows - pixels(known[places[-1]])).norm(dim=1))
    return torch.cat(distances).cpu(), torch.cat(places).cpu()


def distance_to(known: Tensor, images: Tensor) -> Tensor:
    """The distances (N,) of `nearest`."""
    return nearest(images, known)[0]


def nearest_image(split: Split, settings: Settings) -> FittedScorer:
    """Distance to the nearest training image in pixels: as many boundaries as images."""
    known = split.train.to(settings.device)
    return FittedScorer(partial(distance_to, known), tuple(known.shape[1:]))


def pixel_lof(split: Split, settings: Settings) -> FittedScorer:
    """Local outlier factor (Breunig et al. 2000) of the pixels among 20 neighbours in training.

    It compares an image's distances with those that its neighbours have: 1 where they are alike.
    Raises NotApplicable for fewer than 2 training images.
    """
    check_training(split.train, least=2)
    lof = LocalOutlierFactor(min(LOF_NEIGHBOURS, len(split.train) - 1), novelty=True)
    lof.fit(pixels(split.train).numpy())
    return FittedScorer(
        lambda images: -torch.from_numpy(lof.score_samples(pixels(images.cpu()).numpy())),
        tuple(split.train.shape[1:]),
    )


def image_bytes(split: Split, settings: Settings) -> FittedScorer:
    """Bytes of the image as PNG: a control for scores that only follow an image's complexity.

    For images of 1 or 3 channels.
    """

    def score(images: Tensor) -> Tensor:
        levels = as_unit(images).mul(255).round().byte().movedim(1, -1)  # (N, H, W, C)
        return torch.tensor([_png_bytes(each) for each in levels.cpu().numpy()])

    return FittedScorer(score, tuple(split.train.shape[1:]))


def _png_bytes(image: np.ndarray) -> int:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.tell()


def feature_norm(split: Split, settings: Settings, autoencoder: Trained) -> FittedScorer:
    """Minus the length of the encoder's 512 features: a control for OCNN, which may follow it."""
    encoder = encoder_features(autoencoder.model)
    return FittedScorer(
        lambda images: -infer(encoder, images).norm(dim=1), tuple(split.train.shape[1:])
    )


class Neighbours(NamedTuple):
    """Test images, the distance of each to the nearest training image, and which that is: (M,)."""

    rows: np.ndarray
    distance: np.ndarray  # Euclidean, pixels in [0, 1]
    nearest: np.ndarray
    tracks: np.ndarray  # the physical object that each test image shows


class Verdict(NamedTuple):
    """AUROC of the distance with its interval, and what that says of the direction of scores."""

    auroc: Interval
    text: str


def neighbours(split: Split, *, limit: int = 5000) -> Neighbours:
    """The nearest of at most `limit` training images to each of at most `limit` test images."""
    random = np.random.default_rng(0)
    known, rows = (
        np.sort(random.permutation(len(part))[:limit]) for part in (split.train, split.test)
    )
    distance, place = nearest(split.test[rows], split.train[known])
    return Neighbours(rows, distance.numpy(), known[place], split.test_tracks[rows])


def verdict(found: Neighbours, anomaly: np.ndarray) -> Verdict:
    """What the distances say of the direction of scores; anomaly (M,) bool. Analysis only.

    The text warns where the whole 95 % interval of the AUROC, over tracks, lies below 0.5: a score
    that follows pixels then ranks the wrong way round. Raises ValueError where one of the two kinds
    of image is missing.
    """
    interval = bootstrap(found.distance, anomaly, resamples=RESAMPLES, seed=0, units=found.tracks)
    direction = int(interval.low > 0.5) - int(interval.high < 0.5)
    span = "AUROC {:.3f} (95 % interval {:.3f} to {:.3f})".format(*interval)
    return Verdict(interval, f"{span}: {DIRECTIONS[direction]}")


def most_normal_anomalies(found: Neighbours, anomaly: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the 12 anomalies closest to a training image, and of the image each is close to."""
    closest = np.flatnonzero(anomaly)[np.argsort(found.distance[anomaly], kind="stable")[:12]]
    return found.rows[closest], found.nearest[closest]
