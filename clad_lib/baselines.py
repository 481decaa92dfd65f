"""The five one-class methods of the study behind one signature: OCSVM, OCNN, OCCNN, SVDD, DeepSVDD."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn

from clad_lib.deep_svdd import NetworkScorer, fit_deep_svdd
from clad_lib.kernel_baselines import fit_ocsvm, fit_svdd
from clad_lib.models import ConvAutoencoder, Standardise
from clad_lib.training import Scorer, epochs_for, fit, infer, seeded

__all__ = ["BASELINES", "fit_deep_svdd", "fit_occnn", "fit_ocnn", "fit_ocsvm", "fit_svdd"]

Features = Literal["encoder", "alexnet", "vgg16"]

IMAGENET_SIZE = 224
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class EncoderFeatures(nn.Module):
    """Images (N, C, S, S) -> the 512 ReLU activations under an autoencoder's latent; a copy, cut off from later training."""

    def __init__(self, autoencoder: ConvAutoencoder):
        super().__init__()
        self.standardise = copy.deepcopy(autoencoder.standardise)
        self.encoder = copy.deepcopy(autoencoder.encoder)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, 512)."""
        return self.encoder(self.standardise(images))


class OneClassHead(nn.Module):
    """OCNN's network on features (N, D): one hidden layer V without bias, output w, and the margin r."""

    margin: Tensor
    size: Tensor

    def __init__(self, dimensions: int, hidden: int):
        super().__init__()
        self.hidden = nn.Linear(dimensions, hidden, bias=False)  # V
        self.output = nn.Linear(hidden, 1, bias=False)  # w
        self.register_buffer("size", torch.ones(()))  # root mean square norm of the training features
        self.register_buffer("margin", torch.zeros(()))  # r

    def response(self, features: Tensor) -> Tensor:
        """Features (N, D) -> <w, g(V x)> (N,), high for normal."""
        return self.output(torch.sigmoid(self.hidden(features / self.size))).squeeze(1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) -> anomaly scores r - <w, g(V x)> (N,)."""
        return self.margin - self.response(features)


def fit_ocnn(
    images: Tensor,
    autoencoder: ConvAutoencoder,
    *,
    nu: float = 0.1,
    hidden: int = 32,
    epochs: int = 100,
    lr: float = 1e-3,
    batch_size: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> NetworkScorer:
    """One-class neural network (Chalapathy, Menon & Chawla 2018, arXiv:1802.06360, eqs. 3 to 6, algorithm 1).

    min_{w, V, r} |w|^2 / 2 + |V|^2 / 2 + 1 / (nu n) sum_i max(0, r - <w, g(V x_i)>) - r;  score = r - <w, g(V x)>

    Alternates: an epoch of gradient steps on w and V with r fixed, then r = the nu-quantile of the training
    responses, its exact minimiser. g is the sigmoid, x the encoder's 512 ReLU activations over their root mean
    square norm.

    Deviations: the encoder stays fixed (the paper trains it on, its code does not); Adam on mini-batches in
    place of gradient descent; the features' common scale is removed so that one learning rate fits all data sets.

    images (N, C, S, S), uint8 or float32 in [0, 1]; runs on the autoencoder's device. ValueError for wrong input.
    """
    if not 0 < nu < 1:
        raise ValueError(f"nu is {nu!r}: expected a share of the training images in (0, 1), such as 0.1")
    encoder = EncoderFeatures(autoencoder)
    features = infer(encoder, images)  # (N, 512)
    device = next(encoder.parameters()).device
    with seeded(seed):
        head = OneClassHead(features.shape[1], hidden).to(device)
    head.size.copy_(features.square().sum(1).mean().sqrt().clamp_min(1e-6))

    def solve_margin(_epoch: int, _loss: float) -> None:
        head.margin.copy_(torch.quantile(infer(head, features, function=head.response), nu))

    def objective(model: OneClassHead, batch: Tensor) -> Tensor:
        weights = model.hidden.weight.square().sum() + model.output.weight.square().sum()
        missing = (model.margin - model.response(batch)).clamp_min(0)
        return weights / 2 + missing.mean() / nu - model.margin

    solve_margin(0, 0.0)
    fit(
        head, objective, features, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed,
        on_epoch_end=solve_margin, title="OCNN", progress=progress,
    )  # fmt: skip
    return NetworkScorer(nn.Sequential(encoder, head).eval(), tuple(images.shape[1:]), "ocnn")


class PretrainedFeatures(nn.Module):
    """Images (N, C, S, S) in [0, 1] -> the 4,096 second fully connected outputs of an ImageNet network from torchvision.

    Images are resized to 224 pixels, grey ones repeated over three channels. Raises RuntimeError, in one line, where
    the weights are neither cached nor to be downloaded.
    """

    def __init__(self, name: Literal["alexnet", "vgg16"]):
        super().__init__()
        try:
            network = torchvision.models.get_model(name, weights="DEFAULT")
        except (OSError, RuntimeError) as error:
            cure = "connect to the network, or use features='encoder'"
            raise RuntimeError(f"features={name!r}: no pretrained weights ({error}); {cure}") from error
        network.classifier = network.classifier[: {"alexnet": -2, "vgg16": -3}[name]]
        self.standardise = Standardise(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, 4096)."""
        large = nn.functional.interpolate(images, size=IMAGENET_SIZE, mode="bilinear", antialias=True)
        return self.network(self.standardise(large.expand(-1, 3, -1, -1)))


class PseudoNegativeHead(nn.Module):
    """OCCNN's classifier on features (N, D): instance normalisation, ReLU, one linear layer."""

    def __init__(self, dimensions: int):
        super().__init__()
        self.classifier = nn.Linear(dimensions, 1)

    def normalise(self, features: Tensor) -> Tensor:
        """Each feature vector (N, D) to mean 0 and variance 1 over its own entries."""
        return nn.functional.layer_norm(features, features.shape[1:])

    def logits(self, normalised: Tensor) -> Tensor:
        """Normalised features or noise (N, D) -> logit of being noise (N,)."""
        return self.classifier(torch.relu(normalised)).squeeze(1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) -> anomaly scores (N,): the logit of the pseudo-negative class."""
        return self.logits(self.normalise(features))


def fit_occnn(
    images: Tensor,
    autoencoder: ConvAutoencoder | None,
    *,
    features: Features = "encoder",
    sigma: float = 0.01,
    steps: int = 1000,
    lr: float = 1e-4,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> NetworkScorer:
    """One-class CNN (Oza & Patel 2019, arXiv:1901.08688, eq. 2): features against Gaussian pseudo-negatives.

    min -1 / (2 n) sum_j y_j log p_j + (1 - y_j) log(1 - p_j) over n instance-normalised features (y = 0) and n draws
    from N(0, sigma^2 I) (y = 1), both through a ReLU and one linear layer; score = logit of p.

    The features are the encoder's 512 ReLU activations, or with `features='alexnet'` or `'vgg16'` the 4,096 of a
    torchvision network pretrained on ImageNet, as in the paper; only then may `autoencoder` be None.

    Deviations: the feature network stays fixed, where the paper also trains its fully connected layers; one logistic
    output in place of two softmax ones; a logit in place of a probability, which ranks alike and does not saturate.

    images (N, C, S, S), uint8 or float32 in [0, 1]. ValueError for wrong input, RuntimeError without the weights.
    """
    extractor = _extractor(features, autoencoder).to(device)
    chunk = 1024 if features == "encoder" else 64
    known = infer(extractor, images, batch_size=chunk)  # (N, D)
    with seeded(seed):
        head = PseudoNegativeHead(known.shape[1]).to(device)
    draws = torch.Generator().manual_seed(seed)
    epochs = epochs_for(len(known), epochs=1, batch_size=batch_size, min_steps=steps)

    def cross_entropy(model: PseudoNegativeHead, batch: Tensor) -> Tensor:
        noise = torch.randn(batch.shape, generator=draws).to(batch.device) * sigma
        logits = model.logits(torch.cat([model.normalise(batch), noise]))  # (2 n,)
        labels = torch.arange(len(logits), device=logits.device) >= len(batch)
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())

    fit(
        head, cross_entropy, known, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed,
        title="OCCNN", progress=progress,
    )  # fmt: skip
    return NetworkScorer(nn.Sequential(extractor, head).eval(), tuple(images.shape[1:]), f"occnn_{features}", chunk)


def _extractor(features: Features, autoencoder: ConvAutoencoder | None) -> nn.Module:
    if features in ("alexnet", "vgg16"):
        return PretrainedFeatures(features)
    if features != "encoder":
        raise ValueError(f"features is {features!r}: expected 'encoder', 'alexnet' or 'vgg16'")
    return EncoderFeatures(_required(autoencoder, "OCCNN"))


def _required(autoencoder: ConvAutoencoder | None, method: str) -> ConvAutoencoder:
    if autoencoder is None:
        raise ValueError(f"{method} got no autoencoder: expected a trained ConvAutoencoder; run notebook 02 first")
    return autoencoder


def _ocsvm(images: Tensor, *, device: Any = None, autoencoder: Any = None, progress: bool = True, **settings: Any) -> Scorer:
    return fit_ocsvm(images, **settings)


def _svdd(images: Tensor, *, device: Any = None, autoencoder: Any = None, progress: bool = True, **settings: Any) -> Scorer:
    return fit_svdd(images, **settings)


def _ocnn(images: Tensor, *, device: Any = None, autoencoder: ConvAutoencoder | None = None, **settings: Any) -> Scorer:
    return fit_ocnn(images, _required(autoencoder, "OCNN"), **settings)


def _occnn(images: Tensor, *, autoencoder: ConvAutoencoder | None = None, **settings: Any) -> Scorer:
    return fit_occnn(images, autoencoder, **settings)


def _deep_svdd(images: Tensor, *, autoencoder: Any = None, **settings: Any) -> Scorer:
    return fit_deep_svdd(images, **settings)


# name -> f(training images, seed=, device=, autoencoder=, progress=, settings of its fit_*) -> Scorer, in the paper's order
BASELINES: dict[str, Callable[..., Scorer]] = {
    "OCSVM": _ocsvm, "OCNN": _ocnn, "OCCNN": _occnn, "SVDD": _svdd, "DeepSVDD": _deep_svdd,
}  # fmt: skip
