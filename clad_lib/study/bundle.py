"""A detector on disk: tensors, a record and a card, in a folder or a .zip, checked when read."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import pkgutil
import shutil
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from clad_lib.clad.networks import NETWORKS
from clad_lib.study.store import StoreError, atomic_folder, write_atomically

FORMAT = 3  # grows when an older clad_lib could not read what is written
SAVED = (
    *("Patches", "Rotation", "Contrastive", "Fused", "FusedPhotographs", "Pretrained"),
    *("ODIN", "NearestImage", "OCSVM", "SVDD"),
)
KINDS = {  # of what scorers are made: classes, and functions whose first arguments are kept
    place.partition(":")[2]: f"clad_lib.{place}"
    for place in (
        "clad.scores:odin",
        "methods.contrastive:ContrastiveScorer",
        "methods.dictionary:Dictionary",
        "methods.distances:Memory",
        "methods.fused:FusedScorer",
        "methods.kernel:KernelScorer",
        "methods.nearest:distance_to",
        "methods.patches:PatchScorer",
        "methods.pretrained:PretrainedScorer",
        "methods.rotation:RotationScorer",
        "methods.scorers:FittedScorer",
    )
}
ON_DEVICE = ("Dictionary", "Memory", "distance_to")  # of which the tensors lie where it computes
WEIGHTS, RECORD, CARD, SUMS = "model.safetensors", "detector.json", "MODEL_CARD.md", "SHA256SUMS"
FILES = (WEIGHTS, RECORD, CARD, SUMS)
LARGEST = 2**32  # bytes of a bundle

TEXT = """# A detector of anomalies in images

{report}

## What it is for
It says of a new image whether it differs from the normal images that it was fitted to. It does not
know which anomalies matter. Load it with `clad score` or `clad_lib.Detector.load`.

## What it holds
Numbers learnt from the training images, calibration scores, and training images as they are, which
`explain` shows ({kept:,} of them): whoever has this folder can look at them. Also the paths of the
folders that the images were read from, by which `clad update` finds them again.

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
    check(place, record["settings"]["method"], replace=replace)
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
    former, new = (place.absolute().with_name(f".{place.name}.{age}") for age in ("old", "new"))
    with atomic_folder(new if replace else place) as draft:
        for name, content in files.items():
            (draft / name).write_bytes(content)
    if replace:
        if place.exists():
            shutil.rmtree(former, ignore_errors=True)
            os.replace(place, former)
        os.replace(new, place)
        shutil.rmtree(former, ignore_errors=True)
    return place


def check(folder: Path, method: str, *, replace: bool = False) -> None:
    """Raise StoreError for a method that is not in SAVED, or where something lies at `folder`."""
    if method not in SAVED:
        raise StoreError(f"{method} cannot be saved: fit with one of {', '.join(SAVED)}")
    if not replace and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise StoreError(f"{folder} exists already: name another folder, or remove it first")


def checksums(files: Mapping[str, bytes]) -> bytes:
    """One line a file, as `sha256sum` writes it."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


def read_bundle(place: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the record of a bundle; nothing is unpacked or unpickled.

    No name in the record, and none in a .zip, leads to a file. Raises StoreError for what is no
    bundle, is damaged or changed, larger than LARGEST, or has another format.
    """
    former = place.absolute().with_name(f".{place.name}.old")  # another was to take its place
    place = former if former.exists() and not place.exists() else place
    root: Any = place
    if place.is_file():
        root = zipfile.Path(place)
        sizes = {each.filename: each.file_size for each in zipfile.ZipFile(place).infolist()}
    else:
        sizes = {name: (place / name).stat().st_size for name in FILES if (place / name).is_file()}
    if RECORD not in sizes:
        raise StoreError(f"no detector in {place}: expected what `clad fit` has written")
    if set(sizes) != set(FILES) or sum(sizes.values()) > LARGEST:
        raise StoreError(f"{place} holds {sizes}: expected {', '.join(FILES)}, and no more")
    files = {name: (root / name).read_bytes() for name in FILES}
    record = json.loads(files[RECORD])
    if record["format"] not in (2, FORMAT):  # 2 had Patches of one layer
        found = f"{place} has format {record['format']!r}, this clad_lib reads 2 and {FORMAT}"
        raise StoreError(f"{found}: update clad_lib, or fit anew")
    if files.pop(SUMS) != checksums(files):
        raise StoreError(f"{place} was changed since it was written: copy it again, or fit anew")
    return load(files[WEIGHTS]), record


def taken_apart(value: Any, tensors: dict[str, Tensor], name: str = "scorer") -> Any:
    """A fitted scorer as JSON values; its tensors are added to `tensors` under dotted names.

    It is made of tensors, networks of `NETWORKS`, KINDS, and tuples, mappings and plain values.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, nn.Module):
        tensors |= {f"{name}.{key}": each for key, each in value.state_dict().items()}
        return {"network": type(value).__name__, "shape": value.shape, "weights": name}
    parts: Any = value
    if isinstance(value, partial):
        parts = {"kind": value.func.__name__, "first": value.args, "options": value.keywords}
    elif f"{type(value).__module__}:{type(value).__name__}" in KINDS.values():
        fields = inspect.signature(type(value)).parameters
        known = {"kind": type(value).__name__} | {each: getattr(value, each) for each in fields}
        parts = {each: v for each, v in known.items() if v is not None}  # None is the default
    if isinstance(parts, Mapping):
        return {key: taken_apart(each, tensors, f"{name}.{key}") for key, each in parts.items()}
    if isinstance(parts, (tuple, list)):
        return [taken_apart(each, tensors, f"{name}.{key}") for key, each in enumerate(parts)]
    return parts


def put_together(plan: Any, tensors: Mapping[str, Tensor], device: Any, place: Any = "cpu") -> Any:
    """What `taken_apart` took apart; nothing but KINDS and networks is called, as named there.

    `place` is the device of the tensors at hand: `device` in what computes there. Raises whatever
    the parts raise that do not fit each other: a bundle may come from anywhere.
    """
    if isinstance(plan, list):
        return tuple(put_together(each, tensors, device, place) for each in plan)
    if not isinstance(plan, dict):
        return plan
    if "tensor" in plan:
        return tensors[plan["tensor"]].to(place)
    if "network" in plan:
        with torch.device("meta"):  # takes no memory, whatever sizes the record names
            model = NETWORKS[plan["network"]](**plan["shape"])
        weights = {key: tensors[f"{plan['weights']}.{key}"] for key in model.state_dict()}
        model.load_state_dict(weights, assign=True)
        return model.to(device).eval()
    place = device if plan.get("kind") in ON_DEVICE else place
    parts = {key: put_together(each, tensors, device, place) for key, each in plan.items()}
    if "kind" not in plan:
        return parts
    made: Any = pkgutil.resolve_name(KINDS[parts.pop("kind")])
    if isinstance(made, type):
        return made(**parts)
    return partial(made, *parts["first"], **parts["options"])
