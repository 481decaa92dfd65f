"""A detector on disk: tensors, a record and a card, in a folder or a .zip, checked when read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
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
from clad_lib.study.store import StoreError, atomic_folder, write_atomically

FORMAT = 1  # grows when an older clad_lib could not read what is written
SAVED = ("Patches", "NearestImage", "ODIN")  # the methods that are made of tensors
WEIGHTS, RECORD, CARD, SUMS = "model.safetensors", "detector.json", "MODEL_CARD.md", "SHA256SUMS"
FILES = (WEIGHTS, RECORD, CARD, SUMS)
LARGEST = 2**32  # bytes of a bundle

TEXT = """# A detector of anomalies in images

{report}

## What it is for
It says of a new image whether it differs from the normal images that it was fitted to. It does not
know which anomalies matter. Load it with `clad score` or `clad_lib.Detector.load`.

## What it holds
Numbers learnt from the training images, calibration scores, and {kept:,} training images as they
are, which `explain` shows: whoever has this folder can look at them. Also the paths of the folders
that the images were read from, by which `clad update` finds them again.

## When the promise is void
New images from another camera, place, process or time than the calibration images; several images
of one object counted as several; calibration images that were chosen because of their scores.
`clad score --normal` on fresh normal images looks for signs of this.
"""


def write_bundle(
    place: Path, tensors: dict[str, Tensor], record: dict, report: str, *, replace: bool = False
) -> Path:
    """Write tensors (safetensors), a record of JSON values and a card, whole or not at all.

    SHA256SUMS stands beside them, as `sha256sum -c` reads it. `place` is a folder, or a file that
    ends in .zip. Raises StoreError when something lies there, unless it is to `replace` it, or the
    disk refuses. Where a process is killed that replaces it, the old bundle or the new one is read.
    """
    if not replace:
        check(place, record["settings"]["method"])
    weights = save({name: each.detach().cpu().contiguous() for name, each in tensors.items()})
    text = json.dumps({"format": FORMAT, **record}, indent=1).encode()
    card = TEXT.format(report=report, kept=len(tensors["examples"])).encode()
    files = {WEIGHTS: weights, RECORD: text, CARD: card}
    files[SUMS] = checksums(files)
    if place.suffix == ".zip":
        with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        write_atomically(place, packed.getvalue())
        return place
    former, new = (place.with_name(f".{place.name}.{age}") for age in ("old", "new"))
    with atomic_folder(new if replace else place) as draft:
        for name, content in files.items():
            (draft / name).write_bytes(content)
    if replace:
        if place.exists():
            shutil.rmtree(former, ignore_errors=True)
            os.replace(place, former)
        os.replace(new, place)
        shutil.rmtree(former)
    return place


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


def read_bundle(place: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the record of a bundle; nothing is unpacked or unpickled.

    No name in the record, and none in a .zip, leads to a file. Raises StoreError for what is no
    bundle, is damaged or changed, larger than LARGEST, or has another format.
    """
    former = place.with_name(f".{place.name}.old")  # another was about to take its place
    place = former if former.exists() and not place.exists() else place
    root: Any = place
    if place.is_file():
        root = zipfile.Path(place)
        sizes = {each.filename: each.file_size for each in zipfile.ZipFile(place).infolist()}
    else:
        there = [place / name for name in FILES if (place / name).is_file()]
        sizes = {each.name: each.stat().st_size for each in there}
    if RECORD not in sizes:
        raise StoreError(f"no detector in {place}: expected what `clad fit` has written")
    if set(sizes) != set(FILES) or sum(sizes.values()) > LARGEST:
        raise StoreError(f"{place} holds {sizes}: expected {', '.join(FILES)}, and no more")
    files = {name: (root / name).read_bytes() for name in FILES}
    record = json.loads(files[RECORD])
    if record["format"] != FORMAT:
        found = f"{place} has format {record['format']!r}, this clad_lib reads {FORMAT}"
        raise StoreError(f"{found}: update clad_lib, or fit anew")
    if files.pop(SUMS) != checksums(files):
        raise StoreError(f"{place} was changed since it was written: copy it again, or fit anew")
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
