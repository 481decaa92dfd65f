"""A contrastive expert beside Patches and Rotation on development scenarios: does it add to them?

In the manner of EMP-SSL (Tong et al. 2023): many crops of an image are drawn together, the coding
rate of a batch keeps different images apart, and few passes are made. The quarter turns of an
image count as other images (Sohn et al. 2021). Distances are taken on three levels of the network.
For example:

    CLAD_DATA=... python tools/contrastive.py --datasets cifar10 --groupings 1

One row for each level, and for each weight of the expert beside Fused, is appended to
results/development.csv.
"""

import argparse
import time
from collections.abc import Sequence

import torch
from develop import development_split, groupings, write_rows
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, affine_grid, grid_sample, normalize

from clad_lib.clad.networks import PlainNet, channel_statistics
from clad_lib.clad.training import fit, infer, precision, seeded
from clad_lib.config import Settings, make_config
from clad_lib.data.split import Split
from clad_lib.methods.distances import Memory, distances, remember
from clad_lib.methods.fused import FusedScorer, fused
from clad_lib.methods.patches import patches
from clad_lib.methods.rotation import (
    REMEMBERED,
    TURNS,
    held_out,
    rotation,
    rotation_network,
    turned,
)
from clad_lib.methods.scorers import PartScorer

CROPS, IMAGES, RATE = 8, 16, 3e-3  # crops of a turned image and images in a step; peak of Adam
DISTORTION, TOGETHER = 0.2, 200.0  # of the coding rate; weight of the crops' agreement with it
LEVELS = {"level 2": 11, "level 3": 18, "level 4": 24}  # end in PlainNet's trunk
WEIGHTS = 0.25, 0.5, 1, 2


def crops(images: Tensor) -> Tensor:
    """Images (N, C, S, S) -> a random crop of each, (N, C, 3 S / 4, 3 S / 4), some mirrored.

    A crop is at least a quarter of the image; its colours are changed.
    """
    count = len(images)
    side = torch.rand(count).mul(0.75).add(0.25).sqrt()  # of a quarter of the area, at least
    place = (torch.rand(count, 2) * 2 - 1) * (1 - side)[:, None]
    flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    zero = torch.zeros(count)
    rows = [torch.stack([side * flip, zero, place[:, 0]], 1)]
    rows += [torch.stack([zero, side, place[:, 1]], 1)]
    size = 3 * images.shape[-1] // 4
    grid = affine_grid(torch.stack(rows, 1), [*images.shape[:2], size, size], align_corners=False)
    cut = grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain = torch.rand(count, images.shape[1], 1, 1) * 0.4 + 0.8
    light = torch.rand(count, 1, 1, 1) * 0.8 + 0.6
    grey = cut.mean(1, keepdim=True).expand_as(cut)
    cut = torch.where(torch.rand(count, 1, 1, 1) < 0.2, grey, cut * gain)
    return (cut * light).clamp(0, 1).contiguous(memory_format=torch.channels_last)


def coding_rate(points: Tensor) -> Tensor:
    """Points (n, D) of unit length -> half log det(I + D / (n eps^2) Z Z'), Yu et al. 2020."""
    share = points.shape[1] / (len(points) * DISTORTION**2)
    return torch.logdet(torch.eye(len(points)) + share * points @ points.T) / 2


def network(split: Split, views: int, settings: Settings) -> PlainNet:
    """A PlainNet that maps the crops of a turned image to one place, on `views` crops in all."""
    images = split.train[~held_out(split.train_tracks, seed=settings.seed)]
    mean, std = channel_statistics(images)
    model = PlainNet(*images.shape[1:3], classes=128, mean=mean, std=std)

    def loss(model: PlainNet, images: Tensor) -> Tensor:
        instances = turned(images)
        with precision(images.device):
            out = model(torch.cat([crops(instances) for _ in range(CROPS)]))
        places = normalize(out.float()).view(CROPS, len(instances), -1)
        agreement = (places * normalize(places.mean(0))).sum(2).mean()
        return -TOGETHER * agreement - torch.stack([*map(coding_rate, places)]).mean()

    epochs = max(1, round(views / (CROPS * TURNS * len(images))))
    by = dict(epochs=epochs, batch_size=IMAGES, lr=RATE, seed=settings.seed)
    fit(model, loss, images, schedule="onecycle", title="contrastive", **by)
    return model


def levels(model: PlainNet, images: Tensor) -> list[Tensor]:
    """What each level of the network says of images (N, C, S, S), on 2x2 cells: [(N, D)]."""

    def look(batch: Tensor) -> Tensor:
        seen, found = model.standardise(batch), []
        for place, part in enumerate(model.trunk):
            if place in LEVELS.values():
                found.append(adaptive_avg_pool2d(seen.float(), 2).flatten(1))
            seen = part(seen)
        return torch.cat(found, 1)

    both = infer(model, images, function=look, batch_size=256, bf16=True)
    return list(both.split([256, 512, 1024], 1))


class ContrastiveScorer(PartScorer):
    """Images (N, C, S, S) -> scores (N,): four distances on each level of a network."""

    def __init__(self, model: PlainNet, memories: Sequence[Memory], normal: Tensor):
        self.model, self.memories = model, memories
        names = [f"contrastive, {level}, part {part}" for level in LEVELS for part in range(4)]
        super().__init__(names, tuple(normal.shape[1:]), self.distances(normal))

    def distances(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) -> distances (N, 12)."""
        seen = levels(self.model, images)
        return torch.cat([*map(distances, self.memories, seen)], 1)


def contrastive(split: Split, views: int, settings: Settings) -> ContrastiveScorer:
    """The expert: its normals are the training images that the network did not see."""
    held, model = held_out(split.train_tracks, seed=settings.seed), network(split, views, settings)
    shown = split.train[~held]
    rows = torch.randperm(len(shown), generator=torch.Generator().manual_seed(settings.seed))
    known = levels(model, shown[rows[:REMEMBERED]])
    groups = torch.arange(len(known[0]))
    memories = [remember(each, groups, clusters=10, seed=settings.seed)[0] for each in known]
    return ContrastiveScorer(model, memories, split.train[held])


def main() -> None:
    """Measure the expert, and Fused with it, on the scenarios that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=("cifar10", "tiny_imagenet"))
    parser.add_argument("--groupings", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--views", type=int, default=96_000)
    parser.add_argument("--max-train", type=int, default=4000)
    parser.add_argument("--max-test", type=int, default=2000)
    asked = parser.parse_args()
    for dataset in asked.datasets:
        settings = Settings.everything(make_config(dataset, "ALL"), device=torch.device("cpu"))
        for normal in (groupings(dataset)[place] for place in asked.groupings):
            split = development_split(
                dataset, normal, max_train=asked.max_train, max_test=asked.max_test
            )
            start = time.process_time()
            with seeded(settings.seed):
                expert = contrastive(split, asked.views, settings)
                seconds = time.process_time() - start
                turning = rotation(split, settings, rotation_network(split, settings))
                old = fused(split, settings, patches(split, settings), turning)
            experts = {**old.experts, "contrastive": expert}
            scores = [each(split.test) for each in experts.values()]
            found = {"": scores[-1], **expert.parts(split.test), "Fused": old.join(scores[:-1])}
            for weight in WEIGHTS:
                new = FusedScorer(experts, {**old.weights, "contrastive": weight})
                found[f"Fused and contrastive, weight {weight:g}"] = new.join(scores)
            chosen = {"views": asked.views, "crops": CROPS}
            write_rows(dataset, split, "contrastive", chosen, found, seconds)


if __name__ == "__main__":
    main()
