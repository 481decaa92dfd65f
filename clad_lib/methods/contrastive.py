"""A network for which all crops of a photograph are alike, and different photographs are not.

In the manner of EMP-SSL (Tong et al. 2023): many crops of an image are drawn at a time, their
coding rate keeps images apart (Yu et al. 2020), and few passes are made. The quarter turns of an
image count as other images (Sohn et al. 2021). Distances are taken on three levels of the network.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, affine_grid, grid_sample, normalize

from clad_lib.clad.networks import PlainNet, Trained, channel_statistics
from clad_lib.clad.training import fit, infer, precision
from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.methods.distances import SCORES, Memory, distances, remember
from clad_lib.methods.scorers import (
    REMEMBERED,
    TURNS,
    NotApplicable,
    PartScorer,
    held_out,
    some,
    turned,
)

CROPS, IMAGES = 8, 16  # crops of a turned image; images in a step
PLACES, RATE = 128, 3e-3  # outputs of the network; Adam's peak learning rate
DISTORTION, AGREEMENT = 0.2, 200.0  # of the coding rate; weight of the crops' agreement beside it
LEVELS = 11, 18, 24  # places in PlainNet's trunk before which a level has ended
LEAST = 11  # pixels a side: a crop is 3/4 of them, and PlainNet takes 8


def crops(images: Tensor) -> Tensor:
    """Images (N, C, S, S) in [0, 1] -> a random crop of each, (N, C, 3 S // 4, 3 S // 4) in [0, 1].

    A crop shows at least a quarter of the image; some are mirrored, all colours are changed.
    """

    def random(*shape: int) -> Tensor:
        return torch.rand(len(images), *shape, device=images.device)

    side = random().mul(0.75).add(0.25).sqrt()
    place = (random(2) * 2 - 1) * (1 - side)[:, None]
    none = torch.zeros_like(side)
    width = torch.where(random() < 0.5, -side, side)
    frame = torch.stack([width, none, place[:, 0], none, side, place[:, 1]], 1).view(-1, 2, 3)
    size = 3 * images.shape[-1] // 4
    grid = affine_grid(frame, [*images.shape[:2], size, size], align_corners=False)
    cut = grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    tint = random(images.shape[1], 1, 1) * 0.4 + 0.8
    light = random(1, 1, 1) * 0.8 + 0.6
    grey = random(1, 1, 1) < 0.2
    cut = torch.where(grey, cut.mean(1, keepdim=True), cut * tint) * light
    return cut.clamp(0, 1).contiguous(memory_format=torch.channels_last)


def coding_rate(points: Tensor) -> Tensor:
    """Points (n, D) of unit length -> half log det(I + D / (n DISTORTION^2) Z Z')."""
    share = points.shape[1] / (len(points) * DISTORTION**2)
    one = torch.eye(len(points), device=points.device)
    return torch.logdet(one + share * points @ points.T) / 2


def contrastive_network(split: Split, settings: Settings) -> Trained:
    """A PlainNet that maps the crops of a turned image to one place, on `contrastive_views` crops.

    Also reads device. It holds out the training images that Rotation holds out. Raises
    NotApplicable where images may not be mirrored or have fewer than LEAST pixels a side.
    """
    side, mirror = split.train.shape[-1], split.scenario.mirror
    if not mirror or side < LEAST:
        raise NotApplicable(
            f"images have {side} pixels a side, mirror is {mirror}: Contrastive expects photographs"
            f" of {LEAST} pixels or more that may be mirrored (`clad fit --mirror`); use Fused"
        )
    images = split.train[~held_out(split.train_tracks, seed=settings.seed)]
    each = max(1, settings.contrastive_views // (CROPS * TURNS))  # the number of images
    images = images[some(len(images), each, seed=settings.seed)]
    model = PlainNet(*images.shape[1:3], classes=PLACES, **channel_statistics(images))

    def loss(model: nn.Module, images: Tensor) -> Tensor:
        instances = turned(images)
        with precision(images.device):
            out = model(torch.cat([crops(instances) for _ in range(CROPS)]))
        places = normalize(out.float()).view(CROPS, len(instances), -1)
        agreement = (places * normalize(places.mean(0), dim=1)).sum(2).mean()
        return -AGREEMENT * agreement - torch.stack([*map(coding_rate, places)]).mean()

    losses = fit(
        model.to(settings.device),
        loss,
        images,
        epochs=round(each / len(images)),
        batch_size=IMAGES,
        lr=RATE,
        schedule="onecycle",
        seed=settings.seed,
        title="contrastive",
        progress=settings.progress,
    )
    return Trained(model, losses)


def levels(model: Any, images: Tensor) -> Sequence[Tensor]:
    """What three levels say of images (N, C, S, S), on 2x2 cells, on the CPU.

    They are (N, 256), (N, 512) and (N, 1024).
    """

    def look(batch: Tensor) -> Tensor:
        seen, found = model.standardise(batch), []
        for place, part in enumerate(model.trunk):
            if place in LEVELS:
                found.append(adaptive_avg_pool2d(seen.float(), 2).flatten(1))
            seen = part(seen)
        return torch.cat(found, 1)

    found = infer(model, images, function=look, batch_size=256, bf16=True)
    return found.split([256, 512, 1024], 1)


class ContrastiveScorer(PartScorer):
    """Images (N, C, S, S) -> scores (N,): four distances on each level of the network."""

    def __init__(self, model: Any, memories: Sequence[Memory], own: Tensor, shape: tuple[int, ...]):
        self.model, self.memories = model, memories
        names = [f"{score}, level {2 + level}" for level in range(3) for score in SCORES]
        super().__init__(names, shape, own)

    def distances(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) -> distances (N, 12) on the CPU."""
        return level_distances(self.model, self.memories, images)


def level_distances(model: Any, memories: Sequence[Memory], images: Tensor) -> Tensor:
    """Images (N, C, S, S) -> four distances on each of the `levels`, (N, 12) on the CPU."""
    seen = zip(memories, levels(model, images), strict=True)
    found = [distances(each, points.to(each.points.device)) for each, points in seen]
    return torch.cat(found, 1).cpu()


def contrastive(
    split: Split, settings: Settings, contrastive_network: Trained
) -> ContrastiveScorer:
    """The row Contrastive: its normals are the training images that the network did not see."""
    model = contrastive_network.model
    held = held_out(split.train_tracks, seed=settings.seed)
    shown = split.train[~held]
    rows = some(len(shown), REMEMBERED, seed=settings.seed)
    alone = torch.arange(len(rows), device=settings.device)
    known = levels(model, shown[rows])
    by = dict(clusters=settings.clusters, seed=settings.seed)
    memories = [remember(each.to(settings.device), alone, **by)[0] for each in known]
    own = level_distances(model, memories, split.train[held])
    return ContrastiveScorer(model, memories, own, tuple(split.train.shape[1:]))
