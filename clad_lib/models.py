"""The two networks: the published convolutional autoencoder, and ResNet-18 with a stem for small images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from clad_lib.config import Encoder, Stem

SMALLEST_STD = 1 / 255  # a constant channel is divided by one grey level, not by zero


def channel_statistics(images: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), in [0, 1] units: two tensors (C,)."""
    tensor = torch.as_tensor(images)
    if tensor.dtype != torch.uint8 or tensor.ndim != 4 or not len(tensor):
        raise ValueError(f"got {tensor.dtype} {tuple(tensor.shape)}: expected uint8 images (N, C, H, W), N > 0")
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in tensor.unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)  # (C, 256)
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(1)
    return mean.float(), variance.sqrt().clamp_min(SMALLEST_STD).float()


class Standardise(nn.Module):
    """Images in [0, 1] -> zero mean and unit variance a channel, so that every network takes plain pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.reshape(-1, 1, 1).clone())
        self.register_buffer("std", std.reshape(-1, 1, 1).clone())

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return (images - self.mean) / self.std


class ConvAutoencoder(nn.Module):
    """CLAD's autoencoder (arXiv:2104.09793): three convolution levels, a 512-unit layer, the latent, and the mirror.

    `small` has one convolution a level with 4c, 8c, 16c channels; `large` has two with batch norm and 16c, 32c, 64c.
    Images (N, C, S, S) in [0, 1] -> reconstructions of the same shape in [0, 1]. The input is standardised inside and
    the target is the pixel itself, so that the decoder's sigmoid reaches every value. `noisy` is the published
    defect: z = mu + exp(s / 2) N(0, 1) in training and in prediction, without a KL term.

    Raises ValueError when S is not a multiple of 4, since the encoder halves it twice.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        latent: int,
        encoder: Encoder = "small",
        mean: Tensor,
        std: Tensor,
        noisy: bool = False,
    ):
        super().__init__()
        if size % 4:
            raise ValueError(f"image size is {size}: expected a multiple of 4; resize the images, for example to 32")
        width = 4 if encoder == "small" else 16
        a, b, c = (width * channels * factor for factor in (1, 2, 4))
        level = _plain_level if encoder == "small" else _double_level
        flat = c * (size // 4) ** 2
        self.standardise = Standardise(mean, std)
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
        """Images (N, C, S, S) -> latents z (N, D)."""
        hidden = self.encoder(self.standardise(images))  # (N, 512)
        latents = self.to_latent(hidden)
        if self.to_spread is not None:
            latents = latents + torch.exp(self.to_spread(hidden) / 2) * torch.randn_like(latents)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, D) -> images (N, C, S, S) in [0, 1]."""
        return torch.sigmoid(self.decoder(latents))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> reconstructions of the same shape."""
        return self.decode(self.encode(images))


def _plain_level(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ELU()]


def _double_level(inputs: int, outputs: int) -> list[nn.Module]:
    first = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ELU()]
    return [*first, nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ELU()]


class SmallMapConv2d(nn.Conv2d):
    """A convolution whose weight gradient is one matrix product on the CPU when the feature map is at most 2x2.

    Some CPU kernels of torch accumulate that gradient image by image, which is slow for many filters on a tiny map; how
    slow depends on the processor (`benchmarks/small_maps.py`). Results are the same up to rounding.
    """

    @classmethod
    def like(cls, conv: nn.Conv2d) -> SmallMapConv2d:
        """A copy of a square 3x3 convolution without bias, with the same weights."""
        stride, padding = conv.stride[0], int(conv.padding[0])
        copy = cls(conv.in_channels, conv.out_channels, conv.kernel_size[0], stride, padding, bias=False)
        copy.weight = conv.weight
        return copy

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', h', w')."""
        if not self.training or maps.device.type != "cpu" or maps.shape[-1] > 2 * self.stride[0]:
            return super().forward(maps)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            maps, weight = maps.to(dtype), weight.to(dtype)
        return _SmallMapProduct.apply(maps, weight, self.stride[0], self.padding[0])


class _SmallMapProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps, weight, stride, padding):
        ctx.save_for_backward(maps, weight)
        ctx.stride, ctx.padding = stride, padding
        return nn.functional.conv2d(maps, weight, stride=stride, padding=padding)

    @staticmethod
    def backward(ctx, grad):
        maps, weight = ctx.saved_tensors
        grad_maps = conv2d_input(maps.shape, weight, grad, stride=ctx.stride, padding=ctx.padding)
        size, pad = weight.shape[-1], ctx.padding
        padded = nn.functional.pad(maps, (pad,) * 4)
        patches = padded.unfold(2, size, ctx.stride).unfold(3, size, ctx.stride)  # (N, C, h', w', k, k)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, weight[0].numel())  # (N h' w', C k k)
        columns = grad.permute(0, 2, 3, 1).reshape(-1, len(weight))  # (N h' w', C')
        return grad_maps, (columns.T @ patches).view_as(weight), None, None


class ResNet18(nn.Module):
    """torchvision's ResNet-18 (He et al. 2016) with an input standardisation and a stem chosen by image size.

    Stem `small`: a small convolution and the max-pool, so that the first block sees about 8 pixels a side up to
    S = 64: what a CPU can train. `full`: a 3x3 convolution with stride 1 and no max-pool, for GPUs. `published`: the
    7x7 stride-2 convolution and max-pool of the ImageNet network, as CLAD's code keeps it.
    Images (N, C, S, S) in [0, 1] -> logits (N, K); `features` -> (N, 512), the input of the last layer.
    """

    def __init__(self, channels: int, size: int, *, classes: int, stem: Stem = "small", mean: Tensor, std: Tensor):
        from torchvision.models import resnet18  # here: the import takes seconds, and only the classifier needs it

        super().__init__()
        self.standardise = Standardise(mean, std)
        self.trunk = resnet18(num_classes=classes)
        self.trunk.conv1 = _stem_convolution(stem, channels, size)
        if stem == "full":
            self.trunk.maxpool = nn.Identity()
        for block in (*self.trunk.layer3, *self.trunk.layer4):
            block.conv1, block.conv2 = SmallMapConv2d.like(block.conv1), SmallMapConv2d.like(block.conv2)
        self.head = self.trunk.fc
        self.trunk.fc = nn.Identity()

    def features(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) -> penultimate features (N, 512)."""
        return self.trunk(self.standardise(images))

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, 512) -> logits (N, K), always in float32: ODIN divides them by up to 1000."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> logits (N, K)."""
        return self.logits(self.features(images))


def _stem_convolution(stem: Stem, channels: int, size: int) -> nn.Conv2d:
    if stem == "published":
        return nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    stride = 1 if stem == "full" or size <= 16 else 2 if size <= 32 else 4
    kernel = max(3, 2 * stride - 1)
    return nn.Conv2d(channels, 64, kernel, stride=stride, padding=kernel // 2, bias=False)
