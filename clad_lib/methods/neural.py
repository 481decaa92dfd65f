"""OCNN and OCCNN: one boundary, drawn by a small network on the autoencoder's features."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from clad_lib.clad.networks import Trained
from clad_lib.clad.training import device_of, epochs_for, fit, infer, seeded
from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.methods.scorers import FittedScorer, check_training, encoder_features


def ocnn(split: Split, settings: Settings, autoencoder: Trained) -> FittedScorer:
    """One-class neural network on the autoencoder's features; reads nu and ocnn_epochs."""
    return fit_ocnn(
        split.train,
        autoencoder.model,
        nu=settings.nu,
        epochs=settings.ocnn_epochs,
        seed=settings.seed,
        progress=settings.progress,
    )


def occnn(split: Split, settings: Settings, autoencoder: Trained) -> FittedScorer:
    """One-class CNN on the autoencoder's features; reads occnn_steps."""
    return fit_occnn(
        split.train,
        autoencoder.model,
        steps=settings.occnn_steps,
        seed=settings.seed,
        progress=settings.progress,
    )


def fit_ocnn(
    images: Tensor,
    autoencoder: nn.Module,
    *,
    nu: float = 0.1,
    hidden: int = 32,
    epochs: int = 100,
    lr: float = 1e-3,
    batch_size: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> FittedScorer:
    """One-class neural network (Chalapathy et al. 2018, arXiv:1802.06360, equations 3 to 6).

    min_{w, V, r} |w|^2 / 2 + |V|^2 / 2 + 1 / (nu n) sum_i max(0, r - <w, g(V x_i)>) - r
    score = r - <w, g(V x)>, with g the sigmoid and x the features over their root mean square norm

    Alternates (algorithm 1) between an epoch of gradient steps on w and V, and r = the nu-quantile
    of the training responses, its exact minimiser. Compare it with the control `feature_norm`: the
    response grows with the size of the features.

    Deviations: the encoder stays fixed (the paper trains it on, its code does not); Adam on
    mini-batches in place of gradient descent; the features' common scale is removed, so that one
    learning rate fits all data sets.

    images (N, C, S, S), uint8 or float32 in [0, 1]; trained on the autoencoder's device. Raises
    ValueError for NaN or `nu` outside (0, 1], NotApplicable without images.
    """
    check_training(images, nu=nu)
    encoder = encoder_features(autoencoder)
    features = infer(encoder, images)  # (N, 512)
    size = features.square().sum(1).mean().sqrt().clamp_min(1e-6)
    features = features / size
    layers = [(features.shape[1], hidden), (hidden, 1)]
    with seeded(seed):
        first, last = (nn.Linear(*layer, bias=False) for layer in layers)  # V, w
    response = nn.Sequential(first, nn.Sigmoid(), last, nn.Flatten(0)).to(device_of(encoder))
    margin = torch.quantile(infer(response, features), nu).to(device_of(encoder))  # r

    def solve_margin(_epoch: int, _loss: float) -> None:
        margin.copy_(torch.quantile(infer(response, features), nu))

    def objective(model: nn.Module, batch: Tensor) -> Tensor:
        weights = sum(weight.square().sum() for weight in model.parameters())
        return weights / 2 + (margin - model(batch)).clamp_min(0).mean() / nu - margin

    fit(
        response,
        objective,
        features,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        on_epoch_end=solve_margin,
        title="OCNN",
        progress=progress,
    )

    def score(images: Tensor) -> Tensor:
        return margin.cpu() - infer(response, infer(encoder, images) / size)

    return FittedScorer(score, tuple(images.shape[1:]))


def fit_occnn(
    images: Tensor,
    autoencoder: nn.Module,
    *,
    sigma: float = 0.01,
    steps: int = 1000,
    lr: float = 1e-4,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> FittedScorer:
    """One-class CNN (Oza & Patel 2019, arXiv:1901.08688, equation 2): features against noise.

    min -1 / (2 n) sum_j y_j log p_j + (1 - y_j) log(1 - p_j) over n instance-normalised features
    (y = 0) and n draws from N(0, sigma^2 I) (y = 1), both through a ReLU and one linear layer
    score = logit of p

    Deviations: features of the autoencoder's encoder in place of an ImageNet network's, which saw
    other data, and they stay fixed; one logistic output in place of two softmax ones; a logit in
    place of a probability, which ranks alike and does not saturate.

    images (N, C, S, S), uint8 or float32 in [0, 1]; trained on the autoencoder's device. Raises
    ValueError for NaN, NotApplicable without images.
    """
    check_training(images)
    encoder = encoder_features(autoencoder)
    encoder.append(nn.LayerNorm(infer(encoder, images[:1]).shape[1:], elementwise_affine=False))
    features = infer(encoder, images)  # (N, 512), each of mean 0 and variance 1
    with seeded(seed):
        head = nn.Sequential(nn.ReLU(), nn.Linear(features.shape[1], 1), nn.Flatten(0))
    head.to(device_of(encoder))
    draws = torch.Generator().manual_seed(seed)

    def cross_entropy(model: nn.Module, batch: Tensor) -> Tensor:
        noise = torch.randn(batch.shape, generator=draws).to(batch.device) * sigma
        logits = model(torch.cat([batch, noise]))  # (2 n,)
        labels = torch.arange(len(logits), device=logits.device) >= len(batch)
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())

    fit(
        head,
        cross_entropy,
        features,
        epochs=epochs_for(len(features), epochs=1, batch_size=batch_size, min_steps=steps),
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        title="OCCNN",
        progress=progress,
    )
    return FittedScorer(partial(infer, encoder.append(head)), tuple(images.shape[1:]))
