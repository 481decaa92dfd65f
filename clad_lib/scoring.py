"""Anomaly scores from a classifier: higher = more anomalous, always. MSP, max-logit, energy and ODIN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clad_lib.training import as_unit, device_of, evaluating, infer, precision

PUBLISHED_ODIN_FACTOR = 50 / (79 / 255)  # the published code multiplies ODIN's step by this, in standardised units


def log_confidence(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log max_j softmax_j(f / T): logits (N, K) -> (N,), in [-log K, 0]."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature!r}: expected a number above 0, such as 1 or 1000")
    return (logits / temperature).log_softmax(1).amax(1)


def msp(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Maximum softmax probability (Hendrycks & Gimpel 2017) as an anomaly score, -log max_j softmax_j(f / T).

    logits (N, K) -> (N,) in [0, log K]. The logarithm keeps the order and the digits that 1 - p would lose near p = 1.
    """
    return -log_confidence(logits.double(), temperature=temperature)


def max_logit(logits: Tensor) -> Tensor:
    """Negative largest logit (Hendrycks et al. 2022): logits (N, K) -> (N,)."""
    return -logits.double().amax(1)


def energy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Free energy -T log sum_j exp(f_j / T) (Liu et al. 2020, equation 4): logits (N, K) -> (N,)."""
    return -temperature * (logits.double() / temperature).logsumexp(1)


def odin(
    classifier: nn.Module,
    images: Tensor,
    *,
    temperature: float = 1000.0,
    epsilon: float = 0.0014,
    published_factor: bool = False,
    batch_size: int = 256,
) -> Tensor:
    """ODIN (Liang, Li, Srikant 2018): confidence after a small step that raises it, as an anomaly score.

    x' = x - epsilon sign(-grad_x log max_j softmax_j(f(x) / T)); score = -log max_j softmax_j(f(x') / T), in
    [0, log K]. images (N, C, H, W), uint8 or float32 in [0, 1] -> (N,) float64 on the CPU. `epsilon` is in pixel
    units; x' is not clipped, as in the paper. `published_factor` is the published code's step, 161.4 epsilon in
    standardised units. Gradients are taken with respect to the images only; the classifier is left as it was.

    Raises ValueError for a temperature of 0 or less or a negative epsilon.
    """
    if not epsilon >= 0:
        raise ValueError(f"epsilon is {epsilon!r}: expected a number of at least 0, in pixel units, such as 0.0014")
    if epsilon == 0:
        return msp(infer(classifier, images, batch_size=batch_size, bf16=True), temperature=temperature)
    device = device_of(classifier)
    spread: Any = classifier.standardise.std if published_factor else None  # (C, 1, 1)
    step = epsilon if spread is None else epsilon * PUBLISHED_ODIN_FACTOR * spread
    scores = []
    with evaluating(classifier), precision(device):
        for batch in images.split(batch_size):
            nudged = _towards_confidence(classifier, as_unit(batch.to(device)), temperature, step)
            with torch.no_grad():
                scores.append(msp(classifier(nudged), temperature=temperature).cpu())
    return torch.cat(scores)


def _towards_confidence(classifier: nn.Module, images: Tensor, temperature: float, step: Tensor | float) -> Tensor:
    images = images.detach().requires_grad_(True)
    confidence = log_confidence(classifier(images), temperature=temperature).sum()
    (gradient,) = torch.autograd.grad(confidence, images)
    return images.detach() + step * gradient.sign()
