"""Several experts as one score, made comparable by normal images that they were not fitted to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clad_lib.clad.networks import Trained
from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.judge.guarantees import conformal_p_values
from clad_lib.methods.distances import PartScorer
from clad_lib.methods.patches import patches
from clad_lib.methods.rotation import rotation


class FusedScorer:
    """Images (N, C, S, S) -> scores (N,): the weighted sum of -log p over the experts.

    p is the share of an expert's own `normals`, images that it was not fitted to, that score as
    high as the image: no calibration image is used up, so that the threshold keeps its promise.
    """

    def __init__(self, experts: Mapping[str, PartScorer], weights: Mapping[str, float]):
        self.experts, self.weights = experts, weights

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) -> scores (N,)."""
        values = self.p_values(images)
        return sum(
            (-self.weights[name] * torch.log(p) for name, p in values.items()), torch.zeros(())
        )

    def p_values(self, images: Tensor) -> dict[str, Tensor]:
        """Expert -> p-values (N,) in (0, 1], uniform on images like the training images."""
        return {
            name: torch.from_numpy(conformal_p_values(expert.normals, expert(images)))
            for name, expert in self.experts.items()
        }


def fused(split: Split, settings: Settings, rotation_network: Trained) -> FusedScorer:
    """The row Fused: Patches, and Rotation times `rotation_weight`, which is one for a data set."""
    experts = {
        "Patches": patches(split, settings),
        "Rotation": rotation(split, settings, rotation_network),
    }
    return FusedScorer(experts, {"Patches": 1.0, "Rotation": settings.rotation_weight})
