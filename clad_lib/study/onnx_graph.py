"""The detector Patches as an ONNX graph: images in, score and map out, the threshold beside it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from clad_lib.methods.dictionary import CONTRAST, Dictionary, pooling
from clad_lib.methods.distances import LOCAL, NEAREST, SMALLEST, density_of, squared_distances
from clad_lib.methods.patches import PatchScorer
from clad_lib.study.store import StoreError, write_atomically

NOT_CARRIED = (
    "It does not read pictures: give it pixels (N, C, S, S), float32 in [0, 1], brought to S as "
    "`clad score` does. It has no latent classes and no training images. The p-value of a score s "
    "is (1 + the number of `calibration` scores that are s or more) / (1 + their number)."
)


class PatchGraph(nn.Module):
    """Images (N, C, S, S) in [0, 1] -> scores (N,) and maps (N, cells, cells) of a PatchScorer.

    The steps of `methods.dictionary` and `methods.distances` on all images at once; an inverse
    stands in place of the triangular system, which ONNX cannot solve.
    """

    def __init__(self, scorer: PatchScorer):
        super().__init__()
        self.centre, self.spread = scorer.centre, scorer.spread
        self.views = [
            (self._known(dictionary), memory, torch.linalg.inv(memory.factors.double()).float().mT)
            for dictionary, memory in scorer.views
        ]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        parts, maps = list[Tensor](), list[Tensor]()
        for known, memory, turns in self.views:
            points = self._cells(images, *known).flatten(1)  # (N, D)
            gaps = squared_distances(points, memory.points)  # (N, n)
            least, places = gaps.topk(min(LOCAL, len(memory.points)), largest=False)
            near = least.sqrt()
            local = memory.density[places].mean(1) / density_of(near, places, memory.reach)
            parts += [near[:, :NEAREST].mean(1), local]
            residuals = (points @ turns)[:, :, None] - (memory.centres @ turns)[:, None]
            parts += [*residuals.square().sum(3).amin(2)]  # of (2, N, clusters, D)
            shares = (points[:, None] - memory.points[places[:, :NEAREST]]).square().mean(1)
            maps.append(shares.unflatten(1, (known[0][2], known[0][2], -1)).sum(3))
        logarithms = torch.stack(parts, 1).clamp_min(SMALLEST).log()
        return ((logarithms - self.centre) / self.spread).mean(1), torch.stack(maps).sum(0)

    def _known(self, dictionary: Dictionary) -> tuple[list[int], Tensor, Dictionary, Any]:
        source = dictionary.source and self._known(dictionary.source)
        return dictionary.layout.tolist(), pooling(dictionary), dictionary, source

    def _cells(
        self, images: Tensor, layout: list[int], pool: Tensor, dictionary: Dictionary, source: Any
    ) -> Tensor:
        """`encode`: images (N, C, S, S) -> (N, cells, cells, K)."""
        if source:
            images = self._cells(images, *source).permute(0, 3, 1, 2)
        side, stride, cells, *_ = layout
        rows = unfold(images * 255, side, stride=stride).transpose(1, 2)  # (N, P, d)
        rows = rows - rows.mean(2, keepdim=True)
        rows = rows * (rows.square().mean(2, keepdim=True) + CONTRAST).rsqrt()
        seen = rows @ dictionary.whitening[:, :-1] + dictionary.offset[:-1]
        gaps = seen @ dictionary.filters[:-1] + dictionary.lengths  # (N, P, K)
        gaps = (gaps + seen.square().sum(2, keepdim=True)).clamp_min(0).sqrt()
        active = (gaps.mean(2, keepdim=True) - gaps).clamp_min(0)
        points = ((pool @ active).flatten(1) - dictionary.mean) * dictionary.scale  # (N, D)
        return points.unflatten(1, (cells, cells, -1))


def write_onnx(path: Path, scorer: Any, images: Tensor, facts: dict[str, Any]) -> Path:
    """Write the graph of a PatchScorer on the CPU for any number of images, whole or not at all.

    `images` (2, C, S, S) uint8 are like those that it was fitted to. The input is named images, the
    outputs score and map; `facts` stand as JSON texts in the metadata, with what the graph does not
    carry. Raises StoreError for other scorers, without the packages of the extra `onnx`, and
    where the disk refuses.
    """
    if not isinstance(scorer, PatchScorer):
        raise StoreError("only Patches can be an ONNX graph: fit with --method Patches")
    try:
        import onnxscript  # noqa: F401  the exporter needs it, and says so late
    except ImportError as error:
        raise StoreError(f"{error}: pip install 'clad-lib[onnx]'") from error
    with warnings.catch_warnings(action="ignore"):  # of the exporter about its own insides
        program: Any = torch.onnx.export(
            PatchGraph(scorer).eval(),
            (images / 255,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            input_names=["images"],
            output_names=["score", "map"],
            verbose=False,
        )
    for name, value in {**facts, "not_carried": NOT_CARRIED}.items():
        program.model.metadata_props[name] = json.dumps(value)
    write_atomically(path, program.model_proto.SerializeToString())
    return path
