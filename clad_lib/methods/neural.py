"""OCNN and OCCNN: one boundary, drawn by a small network on the autoencoder's features."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from clad_lib.clad.networks import Trained
from clad_lib.clad.training import device_of, fit, infer, seeded
from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.methods.scorers import FittedScorer, check_training, encoder_features

HIDDEN = 32  # units of OCNN's one hidden layer
NOISE = 0.01  # standard deviation of OCCNN's draws


def ocnn(split: Split, settings: Settings, autoencoder: Trained) -> FittedScorer:
    """One-class neural network (Chalapathy et al. 2018, arXiv:1802.06360, equations 3 to 6).

    min_{w, V, r} |w|^2 / 2 + |V|^2 / 2 + 1 / (nu n) sum_i max(0, r - <w, g(V x_i)>) - r
    score = r - <w, g(V x)>, with g the sigmoid and x the features over their root mean square norm

    Alternates (algorithm 1) between an epoch of gradient steps on w and V, and r = the nu-quantile
    of the training responses, its exact minimiser. Compare it with the control `feature_norm`: the
    response grows with the size of the features.

    Deviations: the encoder stays fixed (the paper trains it on, its code does not); Adam on
    mini-batches in place of gradient descent; the features' common scale is removed, so that one
    learning rate fits all data sets.

    Reads nu and ocnn_epochs; trained on the autoencoder's device. Raises ValueError for NaN,
    NotApplicable without images.
    """
    check_training(split.train)
    encoder = encoder_features(autoencoder.model)
    features = infer(encoder, split.train)  # (N, 512)
    size = features.square().sum(1).mean().sqrt().clamp_min(1e-6)
    features = features / size
    with seeded(settings.seed):
        first, last = nn.Linear(512, HIDDEN, bias=False), nn.Linear(HIDDEN, 1, bias=False)  # V, w
    response = nn.Sequential(first, nn.Sigmoid(), last, nn.Flatten(0)).to(device_of(encoder))
    margin = torch.zeros((), device=device_of(encoder))  # r

    def solve_margin(*_epoch: float) -> None:
        margin.copy_(torch.quantile(infer(response, features), settings.nu))

    def objective(model: nn.Module, batch: Tensor) -> Tensor:
        weights = sum(weight.square().sum() for weight in model.parameters())
        return weights / 2 + (margin - model(batch)).clamp_min(0).mean() / settings.nu - margin

    solve_margin()
    fit(
        response,
        objective,
        features,
        epochs=settings.ocnn_epochs,
        batch_size=200,
        lr=1e-3,
        seed=settings.seed,
        on_epoch_end=solve_margin,
        title="OCNN",
        progress=settings.progress,
    )
    return FittedScorer(
        lambda images: margin.cpu() - infer(response, infer(encoder, images) / size),
        tuple(split.train.shape[1:]),
    )


def occnn(split: Split, settings: Settings, autoencoder: Trained) -> FittedScorer:
    """One-class CNN (Oza & Patel 2019, arXiv:1901.08688, equation 2): features against noise.

    min -1 / (2 n) sum_j y_j log p_j + (1 - y_j) log(1 - p_j) over n instance-normalised features
    (y = 0) and n draws from N(0, 0.01^2 I) (y = 1), both through a ReLU and one linear layer
    score = logit of p

    Deviations: features of the autoencoder's encoder in place of an ImageNet network's, which saw
    other data, and they stay fixed; one logistic output in place of two softmax ones; a logit in
    place of a probability, which ranks alike and does not saturate.

    Reads occnn_steps; trained on the autoencoder's device. Raises ValueError for NaN, NotApplicable
    without images.
    """
    check_training(split.train)
    encoder = encoder_features(autoencoder.model)
    encoder.append(nn.LayerNorm(512, elementwise_affine=False))
    features = infer(encoder, split.train)  # (N, 512), each of mean 0 and variance 1
    with seeded(settings.seed):
        head = nn.Sequential(nn.ReLU(), nn.Linear(512, 1), nn.Flatten(0))
    head.to(device_of(encoder))

    def cross_entropy(model: nn.Module, batch: Tensor) -> Tensor:
        noise = torch.randn(batch.shape, device=batch.device) * NOISE  # of the usual generator
        logits = model(torch.cat([batch, noise]))  # (2 n,)
        labels = torch.arange(len(logits), device=logits.device) >= len(batch)
        return binary_cross_entropy_with_logits(logits, labels.float())

    with seeded(settings.seed):
        fit(
            head,
            cross_entropy,
            features,
            epochs=1,
            batch_size=64,
            lr=1e-4,
            seed=settings.seed,
            min_steps=settings.occnn_steps,
            title="OCCNN",
            progress=settings.progress,
        )
    return FittedScorer(partial(infer, encoder.append(head)), tuple(split.train.shape[1:]))
