"""Training ResNet-18 on small images with SmallMapConv2d against torch's own convolution, one core, in one run."""

from __future__ import annotations

import time

import torch
from torch import nn

from clad_lib.models import ResNet18, SmallMapConv2d

BATCH, STEPS = 128, 6


def rate(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Training images a second, float32, channels-last."""
    model.train().to(memory_format=torch.channels_last)
    started = time.perf_counter()
    for _ in range(STEPS):
        model.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
    return STEPS * BATCH / (time.perf_counter() - started)


def plain(model: ResNet18) -> ResNet18:
    """The same network with torch's convolutions everywhere."""
    for block in (*model.trunk.layer3, *model.trunk.layer4):
        for name in ("conv1", "conv2"):
            old: SmallMapConv2d = getattr(block, name)
            new = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
            new.weight = old.weight
            setattr(block, name, new)
    return model


def main() -> None:
    """Alternate both networks three times."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = torch.rand(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))
    images = images.contiguous(memory_format=torch.channels_last)
    shape = dict(classes=10, mean=torch.tensor([0.5]), std=torch.tensor([0.3]))
    ours, theirs = ResNet18(1, 28, **shape), plain(ResNet18(1, 28, **shape))
    for _ in range(3):
        a, b = rate(ours, images, labels), rate(theirs, images, labels)
        print(f"matrix product {a:6.0f} images/s, torch's convolution {b:6.0f} images/s, ratio {a / b:.2f}")


if __name__ == "__main__":
    main()
