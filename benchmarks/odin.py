"""ODIN in batches against one image at a time, as the published code does, and pytorch-ood.

`python benchmarks/odin.py [--small]`. An untrained ResNet-18 and random images of 28x28 pixels; all
sides take the same temperature and step, and must rank the images alike.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import torch
from pytorch_ood.detector import ODIN
from scipy.stats import spearmanr
from sides import EPSILON, TEMPERATURE, Row, asked, in_turn, one_by_one, ratios, show
from torch import Tensor

from clad_lib.clad.networks import ResNet18
from clad_lib.clad.scores import odin

BATCH = 256


def pytorch_ood(classifier: ResNet18, images: Tensor) -> Tensor:
    """pytorch-ood's detector, float32, in batches of the same size."""
    detector = ODIN(classifier, eps=EPSILON, temperature=TEMPERATURE)
    return torch.cat([detector.predict(batch.float() / 255) for batch in images.split(BATCH)])


def main() -> None:
    """Time the sides for the stem of CPUs and for the published one."""
    options = asked(__doc__)
    small = options.small
    count, looped = (64, 8) if small else (10_000, 200)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=random)
    rows = []
    for stem in ("small", "published"):
        torch.manual_seed(0)
        shape = dict(mean=torch.tensor([0.5]), std=torch.tensor([0.3]))
        classifier = ResNet18(1, 28, classes=10, stem=stem, **shape).eval()
        plain = deepcopy(classifier)  # for the rivals, laid out as torch builds it
        odin(classifier, images[:8])  # what is loaded first is not timed
        settings = dict(temperature=TEMPERATURE, epsilon=EPSILON, batch_size=BATCH)
        sides = {
            "clad_lib": partial(odin, classifier, images, **settings),
            "one image at a time": partial(one_by_one, plain, images[:looped]),
            "pytorch-ood": partial(pytorch_ood, plain, images),
        }
        units = dict.fromkeys(sides, count) | {"one image at a time": looped}
        costs = in_turn(sides, repeats=1 if small else 2, units=units)
        ours = costs.pop("clad_lib")
        for name, theirs in costs.items():
            alike = spearmanr(ours.result[: units[name]], theirs.result).statistic
            faster = ratios(ours, theirs)
            rows.append(Row(f"{stem} stem", name, *faster, agreement=float(alike)))
            assert alike > 0.9, f"{name} ranks the images otherwise: {alike:.3f}"
    what = f"ODIN of {count:,} images, {looped} for the loop"
    show(options, what, rows, agreement="rank correlation of the scores")


if __name__ == "__main__":
    main()
