"""Deep SVDD: a bias-free encoder trained to map normal images close to one fixed centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clad_lib.training import TrainingError, as_unit, fit, infer, seeded

Objective = Literal["soft", "hard"]

LEAK = 0.1  # of the leaky ReLUs
SMALLEST_CENTRE = 0.1  # |c_i| below this could be matched by zero weights
COLLAPSED = 1e-10  # variance of the outputs over |c|^2: below it, distances in float32 are rounding errors


def contrast_normalise(images: Tensor) -> Tensor:
    """Each image (N, C, H, W) minus its mean, over its mean absolute deviation: L1 global contrast normalisation."""
    centred = images - images.mean((1, 2, 3), keepdim=True)
    return centred / centred.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-6)


class ContrastNormalise(nn.Module):
    """L1 global contrast normalisation, then the affine map that takes the training images to [0, 1]."""

    low: Tensor
    high: Tensor

    def __init__(self, images: Tensor):
        super().__init__()
        parts = [contrast_normalise(as_unit(batch)).aminmax() for batch in images.split(1024)]
        self.register_buffer("low", torch.stack([part.min for part in parts]).min())
        self.register_buffer("high", torch.stack([part.max for part in parts]).max())

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] -> the same shape; other images than the training's may leave [0, 1]."""
        return (contrast_normalise(images) - self.low) / (self.high - self.low).clamp_min(1e-6)


class DeepSVDDNetwork(nn.Module):
    """The LeNet-type network of Ruff et al. (2018, section 4.2), without a bias anywhere, and its mirrored decoder.

    A level is a 5x5 convolution, batch norm without parameters, leaky ReLU, 2x2 max-pool; `widths` gives the filters
    of each. Images (N, C, S, S) in [0, 1] -> anomaly scores (N,): |phi(x) - c|^2 - R^2, with R = 0 for the hard
    objective. Raises ValueError unless S is a multiple of 2 ** len(widths).
    """

    centre: Tensor
    squared_radius: Tensor

    def __init__(self, prepare: nn.Module, channels: int, size: int, *, widths: Sequence[int], latent: int):
        super().__init__()
        if size % 2 ** len(widths):
            raise ValueError(f"image size is {size}: expected a multiple of {2 ** len(widths)}; resize the images")
        small = size // 2 ** len(widths)
        flat = widths[-1] * small**2
        self.prepare = prepare
        self.encoder = nn.Sequential(
            *(layer for pair in pairwise((channels, *widths)) for layer in _down(*pair)),
            nn.Flatten(), nn.Linear(flat, latent, bias=False),
        )  # fmt: skip
        back = (*reversed(widths), channels)
        self.decoder: nn.Module = nn.Sequential(
            nn.Linear(latent, flat, bias=False), nn.Unflatten(1, (widths[-1], small, small)),
            *(layer for pair in pairwise(back[:-1]) for layer in _up(*pair)),
            *_up(back[-2], channels)[:3], nn.Sigmoid(),
        )  # fmt: skip
        self.register_buffer("centre", torch.zeros(latent))
        self.register_buffer("squared_radius", torch.zeros(()))
        for weight in self.parameters():
            nn.init.xavier_uniform_(weight, gain=nn.init.calculate_gain("leaky_relu", LEAK))

    def embed(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> phi(x) (N, latent)."""
        return self.encoder(self.prepare(images))

    def distances(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> |phi(x) - c|^2 (N,)."""
        return (self.embed(images) - self.centre).square().sum(1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> anomaly scores (N,)."""
        return self.distances(images) - self.squared_radius


def _down(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 5, padding=2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs, eps=1e-4, affine=False), nn.LeakyReLU(LEAK), nn.MaxPool2d(2)]


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 5, padding=2, bias=False)
    return [nn.LeakyReLU(LEAK), nn.Upsample(scale_factor=2), convolution, nn.BatchNorm2d(outputs, eps=1e-4, affine=False)]


@dataclass(frozen=True)
class NetworkScorer:
    """A network that maps images (N, C, H, W), uint8 or float32 in [0, 1], to anomaly scores: float32 (N,), CPU."""

    network: nn.Module
    shape: tuple[int, ...]  # (C, H, W) of the training images
    method: str
    batch_size: int = 1024

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> anomaly scores (N,). ValueError for another shape than the training images'."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"images are {tuple(images.shape)}: expected (N, *{self.shape}) as in training; resize them")
        return infer(self.network, images, batch_size=self.batch_size)


def fit_deep_svdd(
    images: Tensor,
    *,
    objective: Objective = "soft",
    nu: float = 0.1,
    widths: Sequence[int] | None = None,
    latent: int | None = None,
    pretraining: tuple[int, int] = (250, 100),
    training: tuple[int, int] = (150, 100),
    lr: float = 1e-4,
    batch_size: int = 200,
    weight_decay: float = 1e-6,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> NetworkScorer:
    """Deep SVDD (Ruff et al. 2018): the smallest sphere around the outputs of a bias-free network.

    soft, eq. 3: min_{R, W} R^2 + 1 / (nu n) sum_i max(0, |phi(x_i; W) - c|^2 - R^2) + lambda / 2 |W|^2
    hard, eq. 4: min_W 1 / n sum_i |phi(x_i; W) - c|^2 + lambda / 2 |W|^2;  score, eq. 5: |phi(x) - c|^2 (- R^2)

    Weights come from an autoencoder with the same encoder; c is the mean output of its first pass, entries below 0.1
    in size moved to +-0.1, and stays fixed; R^2 is the (1 - nu)-quantile of the distances after each epoch, 0 before.
    `pretraining` and `training` count the epochs at `lr` and then at lr / 10. `widths` and `latent` default to the
    paper's networks: (8, 4) and 32 for grey images, (32, 64, 128) and 128 for colour.

    Deviations: the decoder starts with a linear layer, so that any size fits; Adam starts anew in the second phase; R
    is solved every epoch, not every fifth; L1 contrast normalisation and rescaling are a layer of the network.

    images (N, C, S, S), uint8 or float32 in [0, 1]. ValueError for wrong input, TrainingError for a collapsed sphere.
    """
    _check(images, objective, nu)
    grey = images.shape[1] == 1
    with seeded(seed):
        network = DeepSVDDNetwork(
            ContrastNormalise(images), images.shape[1], images.shape[2],
            widths=widths or ((8, 4) if grey else (32, 64, 128)), latent=latent or (32 if grey else 128),
        ).to(device)  # fmt: skip
    images = images.to(device)
    options: dict[str, Any] = {"batch_size": batch_size, "weight_decay": weight_decay, "progress": progress}
    for phase, (epochs, rate) in enumerate(zip(pretraining, (lr, lr / 10), strict=True)):
        title = f"DeepSVDD autoencoder {phase + 1}/2"
        fit(network, _reconstruction, images, epochs=epochs, lr=rate, seed=seed + phase, title=title, **options)
    network.decoder = nn.Identity()
    network.centre.copy_(centre_of(infer(network, images, function=network.embed)))

    def solve_radius(_epoch: int, _loss: float) -> None:
        distances = infer(network, images, function=network.distances)
        network.squared_radius.copy_(torch.quantile(distances, 1 - nu))

    loss = _soft_boundary(nu) if objective == "soft" else _one_class
    after = solve_radius if objective == "soft" else None
    for phase, (epochs, rate) in enumerate(zip(training, (lr, lr / 10), strict=True)):
        title = f"DeepSVDD {phase + 1}/2"
        fit(network, loss, images, epochs=epochs, lr=rate, seed=seed + 2 + phase, title=title, on_epoch_end=after, **options)
    check_spread(infer(network, images, function=network.embed), network.centre.cpu())
    return NetworkScorer(network.eval(), tuple(images.shape[1:]), f"deep_svdd_{objective}")


def _reconstruction(network: DeepSVDDNetwork, images: Tensor) -> Tensor:
    target = network.prepare(images)
    return (network.decoder(network.encoder(target)) - target).square().mean()


def _one_class(network: DeepSVDDNetwork, images: Tensor) -> Tensor:
    return network.distances(images).mean()


def _soft_boundary(nu: float):
    def loss(network: DeepSVDDNetwork, images: Tensor) -> Tensor:
        beyond = (network.distances(images) - network.squared_radius).clamp_min(0)
        return network.squared_radius + beyond.mean() / nu

    return loss


def centre_of(outputs: Tensor) -> Tensor:
    """The mean of outputs (N, d), with entries closer to 0 than 0.1 moved to +-0.1 (0 itself to 0.1): (d,)."""
    mean = outputs.mean(0)
    away = torch.where(mean < 0, -SMALLEST_CENTRE, SMALLEST_CENTRE)
    return torch.where(mean.abs() < SMALLEST_CENTRE, away, mean)


def check_spread(outputs: Tensor, centre: Tensor) -> None:
    """Raise TrainingError where outputs (N, d) are one point: the collapse that Ruff et al. (section 3.3) describe."""
    variance = float(outputs.double().var(0, correction=0).sum())
    if not variance > COLLAPSED * float(centre.square().sum()):
        raise TrainingError(
            f"DeepSVDD collapsed: the outputs of {len(outputs)} training images have a variance of {variance:.2g}, "
            "so all scores are alike; train for fewer epochs, lower lr or weight_decay, and check that images differ"
        )


def _check(images: Tensor, objective: str, nu: float) -> None:
    if images.ndim != 4 or images.shape[2] != images.shape[3] or len(images) < 2:
        raise ValueError(f"images are {tuple(images.shape)}: expected (N, C, S, S) with N > 1")
    if objective not in ("soft", "hard"):
        raise ValueError(f"objective is {objective!r}: expected 'soft' or 'hard'")
    if not 0 < nu < 1:
        raise ValueError(f"nu is {nu!r}: expected a share of the training images in (0, 1), such as 0.1")
