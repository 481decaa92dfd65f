"""Deep SVDD: a bias-free network trained to map normal images close to one fixed centre."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from clad_lib.clad.training import TrainingError, as_unit, epochs_for, fit, infer, seeded
from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.methods.scorers import FittedScorer, check_training

BATCH, RATE, DECAY = 200, 1e-4, 1e-6  # of Adam, in both trainings
LEAK = 0.1  # of the leaky ReLUs
SMALLEST_CENTRE = 0.1  # |c_i| below this could be matched by zero weights
COLLAPSED = 1e-10  # variance of the outputs over |c|^2; below, distances are rounding errors


def contrast_normalise(images: Tensor) -> Tensor:
    """Each image (N, C, H, W) minus its mean, over its mean absolute deviation."""
    centred = images - images.mean((1, 2, 3), keepdim=True)
    return centred / centred.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-6)


class DeepSVDDNetwork(nn.Module):
    """The network of Ruff et al. (2018, section 4.2), no bias anywhere, and its mirrored decoder.

    A level is a 5x5 convolution, batch norm without parameters, leaky ReLU and 2x2 max-pool;
    `widths` gives the filters of each. Images (N, C, S, S) in [0, 1] -> anomaly scores (N,):
    |phi(x) - c|^2 - R^2, with R = 0 for the hard objective. `images` are those of training: their
    contrast-normalised pixels are brought to [0, 1].

    Raises ValueError unless S is a multiple of 2 ** len(widths).
    """

    def __init__(self, images: Tensor, *, widths: Sequence[int], latent: int):
        super().__init__()
        channels, size = images.shape[1:3]
        if size % 2 ** len(widths):
            raise ValueError(
                f"image size is {size}: expected a multiple of {2 ** len(widths)}; resize them"
            )
        small = size // 2 ** len(widths)
        flat, back = widths[-1] * small**2, (*reversed(widths), channels)
        self.encoder = nn.Sequential(
            *(layer for a, b in pairwise((channels, *widths))
              for layer in (*_convolution(a, b), nn.LeakyReLU(LEAK), nn.MaxPool2d(2))),
            nn.Flatten(), nn.Linear(flat, latent, bias=False),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent, flat, bias=False), nn.Unflatten(1, (widths[-1], small, small)),
            *(layer for a, b in pairwise(back)
              for layer in (nn.LeakyReLU(LEAK), nn.Upsample(scale_factor=2), *_convolution(a, b))),
        )[:-1].append(nn.Sigmoid())  # fmt: skip
        parts = [contrast_normalise(as_unit(batch)).aminmax() for batch in images.split(1024)]
        self.low = nn.Buffer(torch.stack([part.min for part in parts]).min())
        self.high = nn.Buffer(torch.stack([part.max for part in parts]).max())
        self.centre = nn.Buffer(torch.zeros(latent))
        self.squared_radius = nn.Buffer(torch.zeros(()))
        for weight in self.parameters():
            nn.init.xavier_uniform_(weight, gain=nn.init.calculate_gain("leaky_relu", LEAK))

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> their contrast normalised and rescaled, same shape."""
        return (contrast_normalise(images) - self.low) / (self.high - self.low).clamp_min(1e-6)

    def embed(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> phi(x) (N, latent)."""
        return self.encoder(self.prepare(images))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> anomaly scores (N,)."""
        return (self.embed(images) - self.centre).square().sum(1) - self.squared_radius


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 5, padding=2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs, eps=1e-4, affine=False)]


def deep_svdd(split: Split, settings: Settings) -> FittedScorer:
    """Deep SVDD (Ruff et al. 2018): the smallest sphere round the outputs of a bias-free network.

    soft, eq. 3: min_{R, W} R^2 + 1 / (nu n) sum_i max(0, |phi(x_i) - c|^2 - R^2) + lambda / 2 |W|^2
    hard, eq. 4: min_W 1 / n sum_i |phi(x_i) - c|^2 + lambda / 2 |W|^2
    score, eq. 5: |phi(x) - c|^2 - R^2, with R = 0 for `hard`

    Weights come from an autoencoder with the same encoder; c is the mean output of its first pass,
    entries below 0.1 in size moved to +-0.1, and stays fixed; R^2 is the (1 - nu)-quantile of the
    distances after each epoch. Both trainings take a third of their epochs at a tenth of the
    learning rate. The networks are the paper's, for grey and for colour images.

    Deviations: the decoder starts with a linear layer, so that any size fits; Adam starts anew in
    the second phase; R is solved every epoch, not every fifth; L1 contrast normalisation and
    rescaling are part of the network.

    Reads nu, deep_objective, deep_pretraining, deep_training and deep_min_steps. Raises ValueError
    for images that are not square or hold NaN, NotApplicable for fewer than 2 images, TrainingError
    for a collapsed sphere.
    """
    check_training(split.train, least=2)
    _, channels, height, width = split.train.shape
    if height != width:
        raise ValueError(
            f"images are {height} x {width} pixels: expected square ones, (N, C, S, S)"
        )
    widths, latent = ((8, 4), 32) if channels == 1 else ((32, 64, 128), 128)
    with seeded(settings.seed):
        network = DeepSVDDNetwork(split.train, widths=widths, latent=latent).to(settings.device)
    images, soft = split.train.to(settings.device), settings.deep_objective == "soft"

    def train(loss: Callable[..., Tensor], epochs: int, first: int, **more: Any) -> None:
        steps = settings.deep_min_steps
        total = epochs_for(len(images), epochs=epochs, batch_size=BATCH, min_steps=steps)
        more |= dict(batch_size=BATCH, weight_decay=DECAY, progress=settings.progress)
        for phase, count in enumerate((total - total // 3, total // 3)):
            by = dict(epochs=count, lr=RATE / 10**phase, seed=settings.seed + first + phase)
            fit(network, loss, images, **by, **more)

    def solve_radius(*_epoch: float) -> None:
        network.squared_radius.zero_()
        network.squared_radius.copy_(torch.quantile(infer(network, images), 1 - settings.nu))

    def sphere(network: DeepSVDDNetwork, images: Tensor) -> Tensor:
        outside, radius = network(images), network.squared_radius
        return radius + outside.clamp_min(0).mean() / settings.nu if soft else outside.mean()

    train(_reconstruction, settings.deep_pretraining, 0, title="DeepSVDD autoencoder")
    network.centre.copy_(centre_of(infer(network, images, function=network.embed)))
    network.decoder = nn.Sequential()
    hook = dict(on_epoch_end=solve_radius) if soft else {}
    train(sphere, settings.deep_training, 2, title="DeepSVDD", **hook)
    check_spread(infer(network, images, function=network.embed), network.centre.cpu())
    return FittedScorer(partial(infer, network.eval()), tuple(images.shape[1:]))


def _reconstruction(network: DeepSVDDNetwork, images: Tensor) -> Tensor:
    target = network.prepare(images)
    return (network.decoder(network.encoder(target)) - target).square().mean()


def centre_of(outputs: Tensor) -> Tensor:
    """The mean of outputs (N, d), with entries closer to 0 than 0.1 moved to +-0.1: (d,)."""
    mean = outputs.mean(0)
    away = torch.where(mean < 0, -SMALLEST_CENTRE, SMALLEST_CENTRE)
    return torch.where(mean.abs() < SMALLEST_CENTRE, away, mean)


def check_spread(outputs: Tensor, centre: Tensor) -> None:
    """Raise TrainingError where outputs (N, d) are one point (the collapse of section 3.3)."""
    variance = float(outputs.double().var(0, correction=0).sum())
    if not variance > COLLAPSED * float(centre.square().sum()):
        raise TrainingError(
            f"DeepSVDD collapsed: the outputs of {len(outputs)} training images have a variance of "
            f"{variance:.2g}, so all scores are alike; train for fewer epochs, lower lr or "
            "weight_decay, and check that the images differ"
        )
