"""A detector on disk: tensors, a record and a card in one folder, checked when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from clad_lib.clad.networks import NETWORKS
from clad_lib.clad.scores import Scorer, odin
from clad_lib.methods.nearest import nearest
from clad_lib.methods.patches import PatchScorer
from clad_lib.methods.scorers import FittedScorer
from clad_lib.study.store import StoreError, atomic_folder

FORMAT = 1  # grows when an older clad_lib could not read what is written
SAVED = ("Patches", "NearestImage", "ODIN")  # the methods that are made of tensors
WEIGHTS, RECORD, CARD, SUMS = "model.safetensors", "detector.json", "MODEL_CARD.md", "SHA256SUMS"

TEXT = """# A detector of anomalies in images

{report}

## What it is for
It says of a new image whether it differs from the normal images that it was fitted to. It does not
know which anomalies matter. Load it with `clad score` or `clad_lib.Detector.load`.

## What it holds
Numbers learnt from the training images, calibration scores, and {kept:,} training images as they
are, which `explain` shows: whoever has this folder can look at them.

## When the promise is void
New images from another camera, place, process or time than the calibration images; several images
of one object counted as several; calibration images that were chosen because of their scores.
`clad score --normal` on fresh normal images looks for signs of this.
"""


def write_bundle(folder: Path, tensors: dict[str, Tensor], record: dict, report: str) -> Path:
    """Write tensors (safetensors), a record of JSON values and a card, whole or not at all.

    SHA256SUMS stands beside them, as `sha256sum -c` reads it. Raises StoreError when something lies
    at `folder`, which is never replaced, or the disk refuses.
    """
    check(folder, record["settings"]["method"])
    weights = save({name: each.detach().cpu().contiguous() for name, each in tensors.items()})
    text = json.dumps({"format": FORMAT, **record}, indent=1).encode()
    card = TEXT.format(report=report, kept=len(tensors["examples"])).encode()
    files = {WEIGHTS: weights, RECORD: text, CARD: card}
    with atomic_folder(folder) as draft:
        for name, content in (files | {SUMS: checksums(files)}).items():
            (draft / name).write_bytes(content)
    return folder


def check(folder: Path, method: str) -> None:
    """Raise StoreError where something lies at `folder`, or for a method that is not in SAVED."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise StoreError(f"{folder} exists already: name another folder, or remove it first")
    if method not in SAVED:
        raise StoreError(f"{method} cannot be saved: only {', '.join(SAVED)} are made of tensors")


def checksums(files: Mapping[str, bytes]) -> bytes:
    """One line a file, as `sha256sum` writes it."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


def read_bundle(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the record of a bundle; nothing is unpickled.

    No name in the record leads to a file. Raises StoreError for a folder that is no bundle, is
    damaged or changed, or has another format.
    """
    if not (folder / RECORD).is_file():
        raise StoreError(f"no detector in {folder}: expected a folder that `clad fit` has written")
    files = {name: (folder / name).read_bytes() for name in (WEIGHTS, RECORD, CARD)}
    record = json.loads(files[RECORD])
    if record["format"] != FORMAT:
        found = f"{folder} has format {record['format']!r}, this clad_lib reads {FORMAT}"
        raise StoreError(f"{found}: update clad_lib, or fit anew")
    if (folder / SUMS).read_bytes() != checksums(files):
        raise StoreError(f"{folder} was changed since it was written: copy it again, or fit anew")
    return load(files[WEIGHTS]), record


def taken_apart(method: str, scorer: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A fitted scorer of a method in SAVED as tensors and JSON values."""
    if method == "ODIN":
        (model,) = scorer.args
        return model.state_dict(), {"shape": model.shape, "options": scorer.keywords}
    return (scorer.state() if method == "Patches" else {}), {}  # NearestImage: the examples


def put_together(method: str, tensors: dict[str, Tensor], parts: Any, device: Any) -> Scorer:
    """The scorer that `taken_apart` took apart, for images like the `examples` (N, C, S, S).

    Raises ValueError for numbers that do not fit each other: a bundle may come from anywhere.
    """
    state = {name: each.to(device) for name, each in tensors.items()}
    known, shape = state["examples"], tuple(tensors["examples"].shape[1:])
    if method == "Patches":
        scorer = PatchScorer.from_state(state | {"own": tensors["own"]})
        if not all(_fits(*view, shape) for view in scorer.views):
            raise ValueError(f"its dictionaries of patches do not fit images {shape}")
        return scorer
    if method == "NearestImage":
        return FittedScorer(lambda images: nearest(images, known, device=device)[0], shape)
    with torch.device("meta"):  # takes no memory, whatever sizes the record names
        model = NETWORKS["ResNet18"](**parts["shape"])
    model.load_state_dict({name: state[name] for name in model.state_dict()}, assign=True)
    model.to(memory_format=torch.channels_last).eval()  # as after training: the same bits
    return FittedScorer(lambda images: odin(model, images, **parts["options"]), shape)


def _fits(dictionary: Any, memory: Any, shape: tuple[int, ...]) -> bool:
    side, stride, cells, *rest = dictionary.layout.tolist()
    sizes = [memory.points.shape[1], *map(len, (dictionary.mean, memory.reach, memory.density))]
    width, count = cells**2 * len(dictionary.lengths), len(memory.points)
    ranges = tuple(rest) == shape[:2] and 1 <= side <= shape[1] and stride >= 1 <= cells
    return ranges and sizes == [width, width, count, count]
