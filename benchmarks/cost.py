"""Cost against the number of images n and of clusters K, an image, beside the smallest of each.

`python benchmarks/cost.py [--small]`. The rival of a size is clad_lib itself at the smallest size:
1 means that the cost grows in proportion, less that it grows faster.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from patches import CELLS, CENTROIDS, CLUSTERS, SIDES, digit_like
from sides import Row, asked, in_turn, ratios, show

from clad_lib.clad.dec import clusters
from clad_lib.clad.networks import ConvAutoencoder, Trained
from clad_lib.config import Settings, make_config
from clad_lib.methods.patches import fit_patches


def main() -> None:
    """Time Patches and DEC at each size."""
    options = asked(__doc__)
    sizes = (100, 200) if options.small else (1000, 5000, 10_000, 20_000, 50_000)
    groups = (5, 10) if options.small else (5, 10, 20, 50, 100)
    images = digit_like(max(sizes), 0)
    torch.manual_seed(0)
    model = ConvAutoencoder(1, 28, latent=10)
    shape = dict(sides=SIDES, cells=CELLS, centroids=CENTROIDS, clusters=CLUSTERS)
    training = dict(dec_epochs=1, dec_batch=256, dec_lr=3e-4, kmeans_inits=1, min_steps=0)
    middle, rows = sizes[len(sizes) // 2], []
    kinds = {
        "fit of Patches, n": (sizes, lambda n: fit_patches(images[:n], keep=n, **shape)),
        "score of Patches, n": (sizes, partial(_score, fit_patches(images[:100], **shape), images)),
        "DEC, n": (sizes, lambda n: _cluster(model, images[:n], clusters=CLUSTERS, **training)),
        "DEC, K": (groups, lambda k: _cluster(model, images[:middle], clusters=k, **training)),
    }
    for what, (steps, call) in kinds.items():
        units = {f"{step:,}": step if what.endswith("n") else 1 for step in steps}
        costs = in_turn({f"{s:,}": partial(call, s) for s in steps}, units=units)
        first = f"{steps[0]:,}"
        for name in list(costs)[1:]:
            faster = ratios(costs[name], costs[first])
            rows.append(Row(f"{what} = {name}", f"itself at {first}", *faster))
    show(options, "Cost an image, for K a fit", rows)


def _cluster(model: ConvAutoencoder, images: torch.Tensor, **settings) -> None:
    view = Settings.everything(make_config("mnist", "ALL", **settings), device=torch.device("cpu"))
    clusters(SimpleNamespace(train=images), view, Trained(model, np.zeros(1)))


def _score(scorer, images: torch.Tensor, count: int) -> torch.Tensor:
    return scorer(images[:count])


if __name__ == "__main__":
    main()
