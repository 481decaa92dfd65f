"""The networks: the published autoencoder, and ResNet-18 with a stem for small images."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from clad_lib.clad.small_maps import on_small_maps
from clad_lib.config import Encoder, Settings, Stem
from clad_lib.data.split import Split

SMALLEST_STD = 1 / 255  # a constant channel is divided by one grey level, not by zero


class Trained(NamedTuple):
    """A trained network and the mean loss of each epoch of its training, (epochs,)."""

    model: nn.Module
    losses: np.ndarray


class Clusters(NamedTuple):
    """The pseudo-labels of N training images in K clusters, and how clustering went.

    `source` is "dec", or "k-means" where DEC left a cluster without images: soft, labels and
    confidence belong to it. DEC `converged` where its labels are kept and stood still at last.
    """

    soft: np.ndarray  # (N, K), q
    labels: np.ndarray  # (N,) int64 in [0, K), without gaps
    confidence: np.ndarray  # (N,), the soft assignment to the image's own cluster
    losses: np.ndarray  # (epochs,)
    churn: np.ndarray  # (epochs,), share of the labels that changed
    entropy: np.ndarray  # (epochs,), of the soft assignment, over log K
    source: str
    converged: bool


def channel_statistics(images: Tensor) -> dict[str, Any]:
    """The `mean` and `std` (C,) of each channel of uint8 images (N, C, H, W) in [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    channels = images.cpu().unbind(1)
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in channels])
    share = counts.double() / counts.sum(1, keepdim=True)  # (C, 256)
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(1)
    return {"mean": mean.float(), "std": variance.sqrt().clamp_min(SMALLEST_STD).float()}


def statistics(split: Split, settings: Settings) -> dict[str, Any]:
    """The `mean` and `std` (C,) by which a network standardises; reads hidden_statistics.

    They are those of the training images; with the published defect, the mean of each hidden
    class's own.
    """
    groups = [split.train]
    if settings.hidden_statistics:
        classes = torch.from_numpy(split.answers.train_class)
        groups = [split.train[classes == k] for k in classes.unique()]
    found = [*map(channel_statistics, groups)]
    return {name: torch.stack([each[name] for each in found]).mean(0) for name in ("mean", "std")}


class Standardise(nn.Module):
    """Images in [0, 1] -> zero mean and unit variance a channel, so that networks take pixels.

    `mean` and `std` (C,) are 0 and 1 where they are not given, as before weights are loaded.
    """

    def __init__(self, channels: int, mean: Tensor | float = 0.0, std: Tensor | float = 1.0):
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(channels, 1, 1) + torch.as_tensor(mean).view(-1, 1, 1))
        self.std = nn.Buffer(torch.zeros(channels, 1, 1) + torch.as_tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return (images - self.mean) / self.std


class ConvAutoencoder(nn.Module):
    """CLAD's autoencoder (arXiv:2104.09793): three levels, 512 units, the latent, and the mirror.

    `small` has one convolution a level with 4c, 8c, 16c filters for c channels; `large` has two
    with batch norm, and 16c, 32c, 64c. The input is standardised inside and the target is the pixel
    itself, so that the decoder's sigmoid reaches every value. `noisy` is the published defect:
    z = mu + exp(s / 2) N(0, 1) in training and in prediction, without a KL term.

    `statistics` are the mean and std of Standardise. Images (N, C, S, S) in [0, 1] -> the same
    shape in [0, 1]. Raises ValueError when S is not a multiple of 4: the encoder halves it twice.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        latent: int,
        encoder: Encoder = "small",
        noisy: bool = False,
        **statistics: Tensor,
    ):
        super().__init__()
        if size % 4:
            raise ValueError(f"image size is {size}: expected a multiple of 4, such as 32; resize")
        self.shape = dict(channels=channels, size=size, latent=latent, encoder=encoder, noisy=noisy)
        width, level = (4, _plain_level) if encoder == "small" else (16, _double_level)
        a, b, c = (width * channels * factor for factor in (1, 2, 4))
        flat = c * (size // 4) ** 2
        self.standardise = Standardise(channels, **statistics)
        self.encoder = nn.Sequential(
            *level(channels, a), nn.MaxPool2d(2),  # (N, a, S/2, S/2)
            *level(a, b), nn.MaxPool2d(2),  # (N, b, S/4, S/4)
            *level(b, c), nn.Flatten(),  # (N, flat)
            nn.Linear(flat, 512), nn.ReLU(),
        )  # fmt: skip
        self.to_latent = nn.Linear(512, latent)
        self.to_spread = nn.Linear(512, latent) if noisy else None
        self.decoder = nn.Sequential(
            nn.Linear(latent, 512), nn.ReLU(),
            nn.Linear(512, flat), nn.ReLU(),
            nn.Unflatten(1, (c, size // 4, size // 4)),
            nn.ConvTranspose2d(c, b, 2, stride=2), *level(b, b),  # (N, b, S/2, S/2)
            nn.ConvTranspose2d(b, a, 2, stride=2), *level(a, a),  # (N, a, S, S)
            nn.Conv2d(a, channels, 3, padding=1),
        )  # fmt: skip

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> latents z (N, D)."""
        hidden = self.encoder(self.standardise(images))  # (N, 512)
        latents = self.to_latent(hidden)
        if self.to_spread is not None:
            latents = latents + torch.exp(self.to_spread(hidden) / 2) * torch.randn_like(latents)
        return latents

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> reconstructions of the same shape in [0, 1]."""
        return torch.sigmoid(self.decoder(self.encode(images)))


def _plain_level(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ELU()]


def _double_level(inputs: int, outputs: int) -> list[nn.Module]:
    first, second = (nn.Conv2d(each, outputs, 3, padding=1) for each in (inputs, outputs))
    return [first, nn.BatchNorm2d(outputs), nn.ELU(), second, nn.BatchNorm2d(outputs), nn.ELU()]


class Classifier(nn.Module):
    """Images, standardised, through a `trunk` to features, which a `head` turns into logits."""

    standardise: nn.Module
    trunk: Any
    head: nn.Linear

    def features(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> penultimate features (N, D)."""
        return self.trunk(self.standardise(images))

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, D) -> logits (N, K), in float32: ODIN divides them by up to 1000."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> logits (N, K)."""
        return self.logits(self.features(images))


class ResNet18(Classifier):
    """torchvision's ResNet-18 (He et al. 2016) with standardisation inside and a stem of its own.

    Stem `small`: a small convolution and the max-pool, so that the first block sees about 8 pixels
    a side up to S = 64: what a CPU can train. `full`: a 3x3 convolution with stride 1 and no
    max-pool, for GPUs. `published`: the 7x7 stride-2 convolution and max-pool of the ImageNet
    network, as CLAD's code keeps it.

    `statistics` are the mean and std of Standardise. Images (N, C, S, S) in [0, 1] -> logits
    (N, K); `features` -> (N, 512), which `head` takes.
    """

    def __init__(
        self, channels: int, size: int, *, classes: int, stem: Stem = "small", **statistics: Tensor
    ):
        from torchvision.models import resnet18  # the import takes seconds

        super().__init__()
        self.shape = dict(channels=channels, size=size, classes=classes, stem=stem)
        self.standardise = Standardise(channels, **statistics)
        self.trunk = resnet18(num_classes=classes)
        stride = 1 if stem == "full" or size <= 16 else 2 if size <= 32 else 4
        kernel, stride = (7, 2) if stem == "published" else (max(3, 2 * stride - 1), stride)
        self.trunk.conv1 = nn.Conv2d(channels, 64, kernel, stride, kernel // 2, bias=False)
        if stem == "full":
            self.trunk.maxpool = nn.Identity()
        side = -(-size // (2 if stem == "full" else 4) // stride)  # of the maps after layer 2
        for block in (*self.trunk.layer3, *self.trunk.layer4):
            block.conv1, side = on_small_maps(block.conv1, side), -(-side // block.stride)
            block.conv2 = on_small_maps(block.conv2, side)
        self.head, self.trunk.fc = self.trunk.fc, nn.Identity()


class PlainNet(Classifier):
    """Seven 3x3 convolutions with batch norm and GELU, and the mean over the last map.

    In the manner of airbench (Jordan 2024): no shortcuts and few filters at high resolution, so
    that a second buys many training steps. Images above 32 pixels are halved by the first
    convolution.

    `statistics` are the mean and std of Standardise. Images (N, C, S, S) in [0, 1], S at least 8,
    -> logits (N, K); `features` -> (N, 256), which `head` takes.
    """

    def __init__(self, channels: int, size: int, *, classes: int, **statistics: Tensor):
        super().__init__()
        self.shape = dict(channels=channels, size=size, classes=classes)
        self.standardise = Standardise(channels, **statistics)
        self.trunk = nn.Sequential(
            *_gelu_level(channels, 32, stride=2 if size > 32 else 1),
            *_gelu_level(32, 32), nn.MaxPool2d(2),  # (N, 32, 16, 16) of 32 pixels
            *_gelu_level(32, 64), nn.MaxPool2d(2),  # (N, 64, 8, 8)
            *_gelu_level(64, 128), *_gelu_level(128, 128), nn.MaxPool2d(2),  # (N, 128, 4, 4)
            *_gelu_level(128, 256), *_gelu_level(256, 256),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(256, classes)


def _gelu_level(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.GELU()]


NETWORKS: dict[str, type[nn.Module]] = {
    "ConvAutoencoder": ConvAutoencoder,
    "ResNet18": ResNet18,
    "PlainNet": PlainNet,
}  # those that can be built again from their `shape`
