"""One loop that trains every network, one pass that applies it, and CLAD's two trainings."""

import contextlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from clad_lib.clad.networks import Clusters, ConvAutoencoder, ResNet18, Trained, statistics
from clad_lib.clad.steps import as_unit, channels_last, step_of
from clad_lib.config import Optimiser, Schedule, Settings
from clad_lib.data.split import Split

OPTIMISERS: dict[str, Callable[..., Any]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}


class TrainingError(RuntimeError):
    """Training that cannot go on, with what was seen and what to do."""


def pick_device(name: str = "auto") -> torch.device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; ValueError when it is not there."""
    found = {"cuda": torch.cuda.device_count(), "mps": torch.mps.device_count(), "cpu": 1}
    name = next(kind for kind, count in found.items() if count) if name == "auto" else name
    kind, _, index = name.partition(":")
    if kind not in found or (index and not index.isdigit()):
        raise ValueError(f"unknown device {name!r}: expected auto, cpu, cuda, cuda:N or mps")
    if int(index or 0) >= found[kind]:
        raise ValueError(f"device {name!r}: torch finds {found[kind]} of them; use cpu or auto")
    return torch.device(name)


def device_of(model: nn.Module) -> torch.device:
    """The device on which the model's parameters lie."""
    return next(model.parameters()).device


@contextlib.contextmanager
def seeded(seed: int):
    """Inside, torch's generators start from `seed`; afterwards they are as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def gains_from_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: on CUDA, and CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)


def precision(device: torch.device, *, enabled: bool = True) -> torch.autocast:
    """Autocast to bfloat16 where the device gains from it."""
    kind = "cpu" if device.type == "mps" else device.type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled and gains_from_bf16(device))


def epochs_for(count: int, *, epochs: int, batch_size: int, min_steps: int) -> int:
    """`epochs`, or as many more as make `min_steps` optimiser steps over `count` images."""
    return max(epochs, math.ceil(min_steps / math.ceil(count / batch_size)))


def fit(
    model: nn.Module,
    loss: Callable[..., Tensor],
    *data: Tensor,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    min_steps: int = 0,
    optimizer: Optimiser = "adam",
    weight_decay: float = 0.0,
    schedule: Schedule = "constant",
    shuffle: bool = True,
    on_epoch_end: Callable[[int, float], bool | None] | None = None,
    title: str = "training",
    progress: bool = True,
) -> np.ndarray:
    """Train `model` on whole tensors of equal length; gives the mean loss of each epoch (epochs,).

    `loss(model, *batch)` gives a scalar; uint8 tensors reach it as float32 in [0, 1]. There are
    `epochs`, or more to make `min_steps` optimiser steps. `schedule` is `constant` or `onecycle`
    (Smith & Topin 2019, peak at `lr`). The order of the batches depends on `seed` alone; a last
    batch of one image joins the one before where a batch norm could not normalise it. By returning
    True `on_epoch_end(epoch, mean_loss)` ends training; it may rewrite data on the model's device,
    which are not copied. On CUDA `loss` is captured, as CapturedStep says. An interrupt leaves a
    usable model. Raises ValueError for data that do not fit, TrainingError when the loss is not
    finite.
    """
    if len({len(tensor) for tensor in data}) != 1 or not len(data[0]):
        raise ValueError(f"got data of lengths {[len(t) for t in data]}: expected equal, above 0")
    if any(each.is_floating_point() and not torch.isfinite(each).all() for each in data):
        raise ValueError("training data hold NaN or infinite values: check the images")
    device, count, losses = device_of(model), len(data[0]), list[float]()
    tensors = [tensor.to(device) for tensor in data]
    channels_last(model)
    sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
    if sizes[-1] == 1 < len(sizes) and any(isinstance(m, _BatchNorm) for m in model.modules()):
        sizes[-2:] = [batch_size + 1]  # one image has no spread to normalise by
    epochs = epochs_for(count, epochs=epochs, batch_size=batch_size, min_steps=min_steps)
    steps, order = epochs * len(sizes), torch.Generator().manual_seed(seed)
    stepping = _stepping(model, optimizer, schedule, lr, weight_decay, steps)
    step = step_of(model, loss, device=device, size=sizes[0], steps=steps)
    with tqdm(total=epochs, desc=title, unit="epoch", disable=not progress) as bar:
        for epoch in range(epochs):
            rows = torch.randperm(count, generator=order) if shuffle else torch.arange(count)
            model.train()
            losses.append(_epoch(step, tensors, rows.to(device).split(sizes), *stepping))
            if not math.isfinite(losses[-1]):
                seen = f"loss is {losses[-1]} after epoch {epoch + 1}"
                raise TrainingError(f"{title}: {seen}: try a learning rate below {lr:g}")
            bar.set_postfix_str(f"loss {losses[-1]:.4g}", refresh=False)
            bar.update()
            if on_epoch_end and on_epoch_end(epoch, losses[-1]):
                break
    return np.asarray(losses)


def _stepping(model, optimizer, schedule, lr, weight_decay, steps) -> tuple[Any, Any]:
    stepper = OPTIMISERS[optimizer](model.parameters(), lr=lr, weight_decay=weight_decay)
    if schedule == "onecycle":
        return stepper, torch.optim.lr_scheduler.OneCycleLR(stepper, lr, total_steps=steps)
    return stepper, torch.optim.lr_scheduler.ConstantLR(stepper, factor=1)


def _epoch(step, tensors, batches, stepper, scheduler) -> float:
    total = torch.zeros((), device=tensors[0].device)
    for index in batches:
        value = step(*(tensor[index] for tensor in tensors))
        stepper.step()
        scheduler.step()
        total += value * len(index)
    return float(total / len(tensors[0]))


def infer(
    model: nn.Module,
    images: Tensor,
    *,
    function: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 1024,
    bf16: bool = False,
) -> Tensor:
    """Apply `function` (the model, if not given) batch by batch in eval mode, without gradients.

    images (N, ...), uint8 or float32 in [0, 1] -> (N, ...) float32 on the CPU. `batch_size` is for
    a CPU, see `batch_for`. `bf16` computes in bfloat16 where the device gains from it.
    """
    device, batch_size = device_of(model), batch_for(model, images, batch_size)
    with evaluating(model), torch.no_grad(), precision(device, enabled=bf16):
        batches = (as_unit(batch.to(device)) for batch in images.split(batch_size))
        return torch.cat([(function or model)(batch).float().cpu() for batch in batches])


def batch_for(model: nn.Module, images: Tensor, few: int = 256) -> int:
    """How many images (N, C, S, S) to take at a time: `few` on a CPU, on a GPU 2**20 pixels."""
    return few if device_of(model).type == "cpu" else max(1, 2**20 // images.shape[2:].numel())


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """Inside, the model is in eval mode; afterwards it is as before, but channels last."""
    modes = {part: part.training for part in model.modules()}
    try:
        yield channels_last(model).eval()
    finally:
        for part, mode in modes.items():
            part.training = mode


def options_of(stage: str, settings: Settings) -> dict[str, Any]:
    """What `fit` takes from the settings of a stage: `ae`, `dec` or `clf`, as their names begin."""
    shared = dict(min_steps=settings.min_steps, seed=settings.seed, progress=settings.progress)
    batch_size, lr = (getattr(settings, f"{stage}_{name}") for name in ("batch", "lr"))
    return shared | dict(batch_size=batch_size, lr=lr)


def autoencoder(split: Split, settings: Settings) -> Trained:
    """Stage 1: an autoencoder fitted to the training images by mean squared error.

    Reads encoder, latent, ae_epochs, ae_lr, ae_schedule, ae_batch, min_steps, noisy_latents and
    hidden_statistics.
    """
    model = ConvAutoencoder(
        *split.train.shape[1:3],
        latent=settings.latent,
        encoder=settings.encoder,
        noisy=settings.noisy_latents,
        **statistics(split, settings),
    ).to(settings.device)

    def loss(model: nn.Module, images: Tensor) -> Tensor:
        with precision(images.device):
            return mse_loss(model(images).float(), images)

    by = dict(epochs=settings.ae_epochs, schedule=settings.ae_schedule, title="autoencoder")
    return Trained(model, fit(model, loss, split.train, **options_of("ae", settings), **by))


def classifier(split: Split, settings: Settings, clusters: Clusters) -> Trained:
    """Stage 3: ResNet-18 fitted to the training images and their pseudo-labels.

    Reads stem, clf_epochs, clf_lr, clf_batch, clf_schedule, min_steps and hidden_statistics.
    """
    return train_classifier(split, settings, split.train, torch.from_numpy(clusters.labels))


def train_classifier(
    split: Split,
    settings: Settings,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int | None = None,
    title: str = "classifier",
) -> Trained:
    """ResNet-18 fitted to images (N, C, S, S) and labels (N,) in [0, K) by cross-entropy.

    `epochs` in place of clf_epochs ask for half of min_steps.
    """
    model = ResNet18(
        *images.shape[1:3],
        classes=int(labels.max()) + 1,
        stem=settings.stem,
        **statistics(split, settings),
    ).to(settings.device)

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with precision(images.device):
            return cross_entropy(model(images), labels)

    options = options_of("clf", settings) | dict(
        epochs=epochs or settings.clf_epochs, schedule=settings.clf_schedule, title=title
    )
    options["min_steps"] //= 1 if epochs is None else 2
    return Trained(model, fit(model, loss, images, labels, **options))
