"""Several experts as one score, made comparable by normal images that were kept out of each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.judge.guarantees import conformal_p_values
from clad_lib.methods.contrastive import ContrastiveScorer
from clad_lib.methods.patches import PatchScorer
from clad_lib.methods.rotation import RotationScorer
from clad_lib.methods.scorers import TURNS, PartScorer

CONTRASTIVE = 0.5  # weight of Contrastive, where Patches weighs 1


class FusedScorer:
    """Images (N, C, S, S) -> scores (N,): the weighted sum of -log p over the experts.

    p is the share of an expert's own `normals` that score as high as the image: training images
    that Rotation and Contrastive held out, and that Patches left out of the neighbours and
    covariances they are compared with. No calibration image is used up, so that the threshold
    keeps its promise.
    """

    def __init__(self, experts: Mapping[str, PartScorer], weights: Mapping[str, float]):
        self.experts, self.weights = dict(experts), dict(weights)

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) -> scores (N,)."""
        return self.join([expert(images) for expert in self.experts.values()])

    def join(self, scores: Sequence[Any]) -> Tensor:
        """Scores (N,) of each expert, in their order -> scores (N,)."""
        values = self.p_values(scores)
        return sum(
            (-self.weights[name] * torch.log(p) for name, p in values.items()), torch.zeros(())
        )

    def p_values(self, scores: Sequence[Any]) -> dict[str, Tensor]:
        """Expert -> p-values (N,) in (0, 1], about uniform on images like the training images."""
        return {
            name: torch.from_numpy(conformal_p_values(expert.normals, each))
            for (name, expert), each in zip(self.experts.items(), scores, strict=True)
        }


def trust(accuracy: float) -> float:
    """The share of its weight that a rotation network keeps: none at 1/4, all of it at 1.

    `accuracy` is the share of the turns of normal images, on which it was not trained, that it
    gives better than even odds.
    """
    return max(0.0, (accuracy - 1 / TURNS) / (1 - 1 / TURNS))


def fused(
    split: Split, settings: Settings, patches: PatchScorer, rotation: RotationScorer
) -> FusedScorer:
    """The row Fused: Patches, and Rotation times `rotation_weight` as far as its turns are right.

    The weight and `trust_power` are one for a data set, whatever the scenario.
    """
    weight = settings.rotation_weight * trust(rotation.accuracy) ** settings.trust_power
    return FusedScorer(
        {"Patches": patches, "Rotation": rotation}, {"Patches": 1.0, "Rotation": weight}
    )


def fused_photographs(
    split: Split,
    settings: Settings,
    patches: PatchScorer,
    rotation: RotationScorer,
    contrastive: ContrastiveScorer,
) -> FusedScorer:
    """The row FusedPhotographs: Fused and CONTRASTIVE times Contrastive; reads what Fused reads."""
    both = fused(split, settings, patches, rotation)
    return FusedScorer(
        both.experts | {"Contrastive": contrastive}, both.weights | {"Contrastive": CONTRASTIVE}
    )
