"""One epoch of `fit` on ResNet-18 against a plain loop over a DataLoader in float32.

`python benchmarks/training.py [--small]`. Random images of 28x28 pixels, batches of 128, Adam. The
last row is `fit` without clad_lib/clad/small_maps.py: what that is worth on this processor.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from unittest import mock

import torch
from sides import Row, asked, in_turn, ratios, show
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from clad_lib.clad import networks
from clad_lib.clad.networks import ResNet18
from clad_lib.clad.training import fit, gains_from_bf16, precision

BATCH, RATE = 128, 1e-3


def network(*, plain: bool = False) -> ResNet18:
    """A fresh ResNet-18; with torch's own convolutions where it is `plain`."""
    torch.manual_seed(0)
    torchs_own = mock.patch.object(networks, "on_small_maps", lambda conv, side: conv)
    with torchs_own if plain else nullcontext():
        return ResNet18(1, 28, classes=10, mean=torch.tensor([0.5]), std=torch.tensor([0.3]))


def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, as the classifier's stage computes it."""
    with precision(images.device):
        return cross_entropy(model(images), labels)


def by_fit(model: ResNet18, images: Tensor, labels: Tensor) -> float:
    """One epoch by the library; gives its mean loss."""
    settings = dict(epochs=1, batch_size=BATCH, lr=RATE, seed=0, progress=False)
    return float(fit(model, loss, images, labels, **settings)[-1])


def by_loader(model: ResNet18, images: Tensor, labels: Tensor) -> float:
    """One epoch as a tutorial has it: float32, a DataLoader that shuffles; its mean loss."""
    data, total = TensorDataset(images.float() / 255, labels), 0.0
    stepper = torch.optim.Adam(model.parameters(), lr=RATE)
    model.train()
    for batch, names in DataLoader(data, batch_size=BATCH, shuffle=True):
        stepper.zero_grad()
        value = cross_entropy(model(batch), names)
        value.backward()
        stepper.step()
        total += value.item() * len(batch)
    return total / len(images)


def main() -> None:
    """Time an epoch of each side, in turn."""
    options = asked(__doc__)
    small = options.small
    count, random = 128 if small else 10_000, torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=random)
    labels = torch.randint(0, 10, (count,), generator=random)
    by_fit(network(), images[:8], labels[:8])  # what is loaded first is not timed
    sides = {
        "clad_lib": partial(by_fit, network(), images, labels),
        "DataLoader, float32": partial(by_loader, network(plain=True), images, labels),
        "fit, torch's convolutions": partial(by_fit, network(plain=True), images, labels),
    }
    costs = in_turn(sides, repeats=1 if small else 3)
    ours = costs.pop("clad_lib")
    rows = [Row("epoch", name, *ratios(ours, theirs)) for name, theirs in costs.items()]
    kind = "bfloat16" if gains_from_bf16(torch.device("cpu")) else "float32"
    show(options, f"An epoch of ResNet-18 on {count:,} images, `fit` in {kind}", rows)


if __name__ == "__main__":
    main()
