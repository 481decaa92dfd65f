"""CLAD's stages on one split, each trained once and found again: what the notebooks, the methods and the batch call."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from clad_lib import clustering, embedding, runs
from clad_lib.config import Config, as_dict
from clad_lib.models import ConvAutoencoder, ResNet18, channel_statistics
from clad_lib.scenarios import Split, load_split, split_key
from clad_lib.training import Watcher, device_of, epochs_for, fit, infer, pick_device, precision, seeded


@dataclass(frozen=True)
class Study:
    """One configuration with its data, its run folder and the device it computes on; `watch` hears of every epoch."""

    config: Config
    split: Split
    run: runs.Run
    device: torch.device
    progress: bool = True
    watch: Watcher | None = field(default=None, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """Where the executed notebooks and pictures of this very configuration go."""
        settings = json.dumps(as_dict(self.config), sort_keys=True) + self.run.data
        digest = hashlib.blake2b(settings.encode(), digest_size=5).hexdigest()
        return self.run.folder("autoencoder").parents[1] / f"study-{digest}" / f"seed{self.config.seed}"


class Clusters(NamedTuple):
    """The second stage's arrays: latents (N, D), soft (N, K), labels (N,); losses, churn and entropy an epoch."""

    latents: np.ndarray
    soft: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    losses: np.ndarray
    churn: np.ndarray
    entropy: np.ndarray
    source: str


def open_study(
    config: Config,
    *,
    runs_root: str | Path = "runs",
    device: str = "auto",
    progress: bool = True,
    watch: Watcher | None = None,
) -> Study:
    """Load the data, make the split, and point at the run folder; trains nothing. `watch` goes to each `fit`."""
    target = pick_device(device)
    split = load_split(config)
    return Study(config, split, runs.Run(Path(runs_root), config, split_key(split)), target, progress, watch)


def autoencoder(study: Study, *, make: bool = True) -> tuple[ConvAutoencoder, np.ndarray]:
    """Stage 1: the trained autoencoder and its loss an epoch; with `make=False` it must be there already."""
    if make and not study.run.has("autoencoder"):
        with study.run.writing("autoencoder") as folder, seeded(study.config.seed):
            model, losses, shape = train_autoencoder(study)
            runs.save_model(folder, model, **shape)
            runs.save_arrays(folder, losses=losses)
    folder = study.run.find("autoencoder")
    return _load(ConvAutoencoder, folder, study), runs.load_arrays(folder)["losses"]


def train_autoencoder(study: Study) -> tuple[ConvAutoencoder, np.ndarray, dict[str, Any]]:
    """A new autoencoder fitted to the training normals by mean squared error; with its losses and its shape."""
    config, images = study.config, study.split.train
    shape: dict[str, Any] = dict(channels=images.shape[1], size=images.shape[2], latent=config.latent, encoder=config.encoder,
                 noisy=config.noisy_latents)  # fmt: skip
    mean, std = statistics(study)
    model = ConvAutoencoder(**shape, mean=mean, std=std).to(study.device)
    losses = fit(
        model, _reconstruction_loss, images,
        epochs=_epochs(study, config.ae_epochs, config.ae_batch), batch_size=config.ae_batch, lr=config.ae_lr,
        seed=config.seed, title="autoencoder", progress=study.progress, watch=study.watch,
    )  # fmt: skip
    return model, losses, shape


def statistics(study: Study) -> tuple[Tensor, Tensor]:
    """Channel mean and standard deviation of the training normals; per hidden class only as the published defect."""
    if not study.config.hidden_statistics:
        return channel_statistics(study.split.train)
    classes = study.split.answers.train_class
    parts = [channel_statistics(study.split.train[torch.from_numpy(classes == k)]) for k in np.unique(classes)]
    return torch.stack([mean for mean, _ in parts]).mean(0), torch.stack([std for _, std in parts]).mean(0)


def clusters(study: Study, *, make: bool = True) -> Clusters:
    """Stage 2: DEC's pseudo-labels of the training images, with what is needed to judge them."""
    if make and not study.run.has("clusters"):
        model, _ = autoencoder(study, make=False)
        with study.run.writing("clusters") as folder, seeded(study.config.seed):
            result = _fit_dec(study, copy.deepcopy(model))
            labels, confidence = clustering.self_label(result)
            latents = infer(result.model, study.split.train, function=result.model.encode)
            runs.save_arrays(
                folder, latents=latents.numpy(), soft=result.soft, labels=labels, confidence=confidence,
                losses=result.losses, churn=result.churn, entropy=result.entropy, source=np.asarray(result.source),
            )  # fmt: skip
    arrays: dict[str, Any] = runs.load_arrays(study.run.find("clusters"))
    return Clusters(**arrays | {"source": str(arrays["source"])})


def _fit_dec(study: Study, model: ConvAutoencoder) -> clustering.Clustering:
    config = study.config
    return clustering.fit_dec(
        model, study.split.train, clusters=config.clusters, inits=config.kmeans_inits, lr=config.dec_lr,
        epochs=_epochs(study, config.dec_epochs, config.dec_batch), batch_size=config.dec_batch,
        tolerance=config.dec_tolerance, seed=config.seed, batch_target=config.batch_target, progress=study.progress,
        watch=study.watch,
    )  # fmt: skip


def classifier(study: Study, *, make: bool = True) -> tuple[ResNet18, np.ndarray]:
    """Stage 3: ResNet-18 trained on (image, pseudo-label), and its loss an epoch."""
    if make and not study.run.has("classifier"):
        labels = torch.from_numpy(clusters(study, make=False).labels)
        with study.run.writing("classifier") as folder, seeded(study.config.seed):
            model, losses, shape = train_classifier(study, study.split.train, labels)
            runs.save_model(folder, model, **shape)
            runs.save_arrays(folder, losses=losses)
    folder = study.run.find("classifier")
    return _load(ResNet18, folder, study), runs.load_arrays(folder)["losses"]


def train_classifier(
    study: Study, images: Tensor, labels: Tensor, *, epochs: int | None = None, title: str = "classifier"
) -> tuple[ResNet18, np.ndarray, dict[str, Any]]:
    """A new ResNet-18 fitted to images (N, C, S, S) and pseudo-labels (N,) by cross-entropy; its losses and its shape.

    `epochs` other than the configuration's make half of its least number of steps.
    """
    config, steps = study.config, study.config.min_steps if epochs is None else study.config.min_steps // 2
    shape: dict[str, Any] = dict(channels=images.shape[1], size=images.shape[2], classes=int(labels.max()) + 1, stem=config.stem)
    mean, std = statistics(study)
    model = ResNet18(**shape, mean=mean, std=std).to(study.device)
    rounds = epochs_for(len(images), epochs=epochs or config.clf_epochs, batch_size=config.clf_batch, min_steps=steps)
    losses = fit(
        model, _classification_loss, images, labels, epochs=rounds, batch_size=config.clf_batch, lr=config.clf_lr,
        seed=config.seed, schedule=config.clf_schedule, title=title, progress=study.progress, watch=study.watch,
    )  # fmt: skip
    return model, losses, shape


def latent_map(study: Study, *, limit: int = 10_000, make: bool = True) -> tuple[embedding.Embedding, np.ndarray]:
    """The t-SNE map of at most `limit` of the autoencoder's latents, and which training images are on it, (n,)."""
    if make and not study.run.has("embedding"):
        model, _ = autoencoder(study, make=False)
        rows = np.sort(np.random.default_rng(study.config.seed).permutation(len(study.split.train))[:limit])
        with study.run.writing("embedding") as folder:
            latents = infer(model, study.split.train[torch.from_numpy(rows)], function=model.encode)
            drawn = embedding.tsne(latents.numpy(), seed=study.config.seed)
            runs.save_arrays(folder, rows=rows, **{name: np.asarray(value) for name, value in drawn._asdict().items()})
    arrays = runs.load_arrays(study.run.find("embedding"))
    rows = arrays.pop("rows")
    return embedding.Embedding(arrays.pop("points"), **{name: value.item() for name, value in arrays.items()}), rows


def _load(kind: type[nn.Module], folder: Path, study: Study) -> Any:
    weights, shape = runs.load_weights(folder)
    blank = torch.zeros(shape["channels"])
    model = kind(**shape, mean=blank, std=blank + 1)
    model.load_state_dict(weights)
    return model.to(study.device).eval()


def _epochs(study: Study, epochs: int, batch_size: int) -> int:
    return epochs_for(len(study.split.train), epochs=epochs, batch_size=batch_size, min_steps=study.config.min_steps)


def _reconstruction_loss(model: nn.Module, images: Tensor) -> Tensor:
    with precision(device_of(model)):
        return mse_loss(model(images).float(), images)


def _classification_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with precision(device_of(model)):
        return cross_entropy(model(images), labels)
