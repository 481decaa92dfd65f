"""DEC against ClustPy's, on the same trained autoencoder, images, batches and epochs.

`python benchmarks/dec.py [--small]`. scikit-learn's digits, enlarged, shifted and noisy. Both start
from k-means and take Adam at the same rate; ClustPy computes its target a batch at a time.
"""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from patches import digit_like
from sides import Row, asked, in_turn, ratios, show
from sklearn.metrics import normalized_mutual_info_score

from clad_lib.clad.dec import clusters
from clad_lib.clad.networks import ConvAutoencoder, Trained
from clad_lib.clad.training import fit, precision
from clad_lib.config import Settings, make_config

try:
    from clustpy.deep import DEC
    from clustpy.deep.neural_networks._abstract_autoencoder import _AbstractAutoencoder
except ImportError as error:
    sys.exit(f"left out: {error}; pip install clustpy")

RATE, BATCH, CLUSTERS = 3e-4, 256, 10


class Shared(_AbstractAutoencoder):
    """Our trained autoencoder as ClustPy calls one."""

    def __init__(self, model: ConvAutoencoder):
        super().__init__(work_on_copy=True, random_state=0)
        self.model, self.fitted, self.allow_nd_input = model, True, True

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, S, S) -> latents (N, D)."""
        return self.model.encode(images)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (N, D) -> images (N, C, S, S)."""
        return torch.sigmoid(self.model.decoder(latents))


def reconstruction(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The autoencoder's loss."""
    with precision(images.device):
        return (model(images).float() - images).square().mean()


def theirs(model: ConvAutoencoder, images: torch.Tensor, epochs: int) -> np.ndarray:
    """ClustPy's labels; what it prints does not matter here."""
    options = dict(neural_network=Shared(model), device="cpu", random_state=0)
    options |= dict(
        clustering_optimizer_params={"lr": RATE}, initial_clustering_params={"n_init": 20}
    )
    with contextlib.redirect_stdout(sys.stderr):
        method = DEC(CLUSTERS, batch_size=BATCH, clustering_epochs=epochs, **options)
        return method.fit(images.numpy()).dec_labels_


def main() -> None:
    """Time both on one autoencoder."""
    options = asked(__doc__)
    count, epochs = (400, 1) if options.small else (10_000, 10)
    images = digit_like(count, 0)
    model = ConvAutoencoder(1, 28, latent=10)
    training = dict(batch_size=BATCH, seed=0, progress=False)
    fit(model, reconstruction, images, epochs=epochs, lr=3e-3, schedule="onecycle", **training)
    chosen = dict(clusters=CLUSTERS, dec_epochs=epochs, dec_lr=RATE, dec_tolerance=0.0)
    config = make_config("mnist", "ALL", dec_batch=BATCH, min_steps=0, **chosen)
    ours = Settings.everything(config, device=torch.device("cpu"))
    split, trained = SimpleNamespace(train=images), Trained(model, np.zeros(1))
    unit = images.float() / 255
    sides = {
        "clad_lib": lambda: clusters(split, ours, trained).labels,
        "ClustPy": partial(theirs, model, unit, epochs),
    }
    costs = in_turn(sides, repeats=1 if options.small else 2)
    alike = normalized_mutual_info_score(costs["clad_lib"].result, costs["ClustPy"].result)
    row = Row("fit", "ClustPy", *ratios(costs["clad_lib"], costs["ClustPy"]), agreement=alike)
    what = f"DEC, {epochs} epochs on {count:,} images"
    show(options, what, [row], agreement="normalised mutual information of the labels")


if __name__ == "__main__":
    main()
