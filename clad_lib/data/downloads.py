"""Published data sets as they come: Parquet of the Hugging Face layout, torchvision, a zip."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from clad_lib.config import datasets
from clad_lib.data.pictures import DataError, decode, shown

IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label", "coarse_label")  # columns
TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
TINY_ZIP = "tiny-imagenet-200.zip"
# Pictures as bytes or as pixels (N, C, H, W) uint8, labels (N,), names of the files, class names.
Encoded = tuple[list[bytes] | np.ndarray, np.ndarray, Sequence[str], tuple[str, ...]]


def read_parquet(path: Path, classes: Sequence[str]) -> Encoded:
    """One split in the Hugging Face layout: an image column of struct<bytes, path>, a label column.

    Class names are those of the file, else `classes`, whose number and order the labels must have.
    Raises DataError for a damaged file and for other classes.
    """
    try:
        with path.open("rb") as file:  # pyarrow opens no path whose bytes are no text
            table = pq.read_table(file)
        image, label = (
            next((name for name in names if name in table.column_names), names[0])
            for names in (IMAGES, LABELS)
        )
        flat = table.flatten()  # a struct becomes the columns image.bytes and image.path
        pictures, paths = (flat[f"{image}.{part}"].to_pylist() for part in ("bytes", "path"))
        labels = np.asarray(table[label].fill_null(-1).cast("int64"))
        metadata = table.schema.metadata or {}
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features")
        names = json.loads(metadata.get(b"class_names", b"null"))
        names = names or ((features or {}).get(label) or {}).get("names") or list(classes)
    except Exception as error:  # damaged files end in errors of every kind
        raise DataError(
            f"{shown(path)} cannot be read as Parquet with columns {IMAGES[0]} and {LABELS[0]} "
            f"({' '.join(str(error).split())}): put it there, or unset CLAD_DATA to download"
        ) from error
    if len(names) != len(classes) or (set(names) == set(classes) and names != list(classes)):
        raise DataError(
            f"{shown(path)} has {len(names)} classes, {names[0]!r} to {names[-1]!r}, but scenarios "
            f"mean {len(classes)}, {classes[0]!r} to {classes[-1]!r}: keep those, in that order"
        )
    if not len(labels) or labels.min() < 0 or labels.max() >= len(names):
        found = f"labels {labels.min()} to {labels.max()}" if len(labels) else "no rows"
        raise DataError(f"{shown(path)} has {found} for {len(names)} class names: fetch it again")
    return [blob or b"" for blob in pictures], labels, paths, tuple(map(str, names))


def download(name: str, root: Path, part: str) -> Encoded:
    """One split of MNIST, GTSRB or CIFAR-10 by torchvision, or of Tiny-ImageNet's official zip."""
    from torchvision.datasets.utils import download_url

    try:
        if name == "tiny_imagenet":
            download_url(
                TINY_URL, str(root), TINY_ZIP, TINY_MD5
            )  # a whole one is not fetched again
            return read_tiny_zip(root / TINY_ZIP, part)
        stored = _official(name, root, part)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} could not be downloaded to {shown(root)} ({error}): connect to the network, "
            f"or set CLAD_DATA to a folder with {name}-train.parquet and {name}-test.parquet"
        ) from error
    classes = tuple(datasets()[name]["classes"])
    if name == "gtsrb":
        paths, targets = zip(*stored._samples, strict=True)
        signs = [decode(path, channels=3, size=32, stretch=True)[0] for path in paths]
        return np.stack(signs), np.array(targets, np.int64), paths, classes
    pixels = np.asarray(stored.data)
    images = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), np.array(stored.targets, np.int64), (), classes


def _official(name: str, root: Path, part: str) -> Any:
    from torchvision import datasets as official

    kinds = {"mnist": official.MNIST, "gtsrb": official.GTSRB, "cifar10": official.CIFAR10}
    if name not in kinds:
        raise RuntimeError("no place is known")
    which = {"split": part} if name == "gtsrb" else {"train": part == "train"}
    return kinds[name](str(root), download=True, **which)


def read_tiny_zip(path: Path, part: str) -> Encoded:
    """The study's 40 classes from Tiny-ImageNet's zip; nothing is extracted from it."""
    facts, top = datasets()["tiny_imagenet"], "tiny-imagenet-200"
    with zipfile.ZipFile(path) as archive:
        if part == "train":
            images = [n for n in sorted(archive.namelist()) if n.startswith(f"{top}/train/")]
            pairs = [(n, n.split("/")[2]) for n in images if n.endswith(".JPEG")]
        else:
            table = archive.read(f"{top}/val/val_annotations.txt").decode()
            rows = (line.split("\t") for line in table.splitlines())
            pairs = [(f"{top}/val/images/{name}", wordnet) for name, wordnet, *_ in rows]
        kept = [(n, facts["wordnet"].index(w)) for n, w in pairs if w in facts["wordnet"]]
        blobs = [archive.read(n) for n, _ in kept]
    paths, labels = zip(*kept, strict=True)
    return blobs, np.array(labels, np.int64), paths, tuple(facts["classes"])
