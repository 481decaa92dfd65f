"""Readers that decode one split of a data set: Parquet, torchvision, Tiny-ImageNet's zip, and folders of images."""

from __future__ import annotations

import hashlib
import io
import json
import os
import urllib.request
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from clad_lib.class_names import GTSRB_CLASSES, TINY_CLASSES

SHAPES = {"mnist": (1, 28), "gtsrb": (3, 32), "cifar10": (3, 32), "tiny_imagenet": (3, 64)}
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


class DataError(ValueError):
    """Data that are missing, damaged or inconsistent: what was got, what was expected, what to do."""


class Decoded(NamedTuple):
    """images (N, C, H, W) uint8, labels (N,), tracks (N,), one name a label."""

    images: np.ndarray
    labels: np.ndarray
    tracks: np.ndarray
    class_names: tuple[str, ...]


def read_parquet(path: Path, name: str) -> Decoded:
    """One split in the Hugging Face image layout: columns image = struct<bytes, path> and label = int64."""
    try:
        table = pq.read_table(path, columns=["image", "label"])
    except Exception as error:
        raise DataError(f"{path} cannot be read as Parquet with columns image and label ({error}): fetch it again") from error
    metadata = {key.decode(): value for key, value in (table.schema.metadata or {}).items()}
    labels = table["label"].to_numpy().astype(np.int64)
    if not len(labels):
        raise DataError(f"{path} has no rows: expected images; fetch it again")
    names = json.loads(metadata["class_names"]) if "class_names" in metadata else range(labels.max() + 1)
    if labels.min() < 0 or labels.max() >= len(names):
        raise DataError(f"{path} has labels {labels.min()} to {labels.max()} for {len(names)} class names: fetch it again")
    column = table["image"].combine_chunks()
    blobs, paths = column.field("bytes").to_pylist(), column.field("path").to_pylist()
    channels, size = SHAPES[name]
    images = np.empty((len(blobs), channels, size, size), np.uint8)
    for row, blob in enumerate(tqdm(blobs, desc=f"decoding {path.name}", unit="image", leave=False)):
        images[row] = decode(blob, f"{path}, row {row}", channels=channels, size=size, resize=False)
    tracks = gtsrb_tracks(labels, paths) if name == "gtsrb" and "train" in path.name else np.arange(len(labels))
    return Decoded(images, labels, tracks, tuple(str(item) for item in names))


def decode(blob: bytes | None, where: str, *, channels: int, size: int, resize: bool) -> np.ndarray:
    """Encoded bytes -> (C, S, S) uint8; DataError names `where` for damaged bytes or another size."""
    try:
        with Image.open(io.BytesIO(blob or b"")) as image:
            picture = image.convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{where}: not a readable image ({error}); replace or remove it") from error
    if picture.size != (size, size):
        if not resize:
            raise DataError(f"{where}: image is {picture.size[0]}x{picture.size[1]}, expected {size}x{size}; resize it")
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def gtsrb_tracks(labels: np.ndarray, paths: Sequence[str]) -> np.ndarray:
    """A number for each (label, TTTTT) of GTSRB's file names TTTTT_FFFFF.ppm: one physical sign's frames."""
    keys = [f"{label}/{Path(path).name.split('_')[0]}" for label, path in zip(labels, paths, strict=True)]
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def download(name: str, root: Path, train: bool) -> Decoded:
    """One split of MNIST, GTSRB or CIFAR-10 by torchvision, or of Tiny-ImageNet from its official zip."""
    try:
        if name == "tiny_imagenet":
            return read_tiny_zip(fetch_tiny(root), train)
        return _torchvision(name, root, train)
    except DataError:
        raise
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} could not be downloaded to {root} ({error}): connect to the network, or set CLAD_DATA to a folder "
            f"with {name}-train.parquet and {name}-test.parquet"
        ) from error


def _torchvision(name: str, root: Path, train: bool) -> Decoded:
    from torchvision import datasets

    if name == "gtsrb":
        return _gtsrb(datasets.GTSRB(str(root), split="train" if train else "test", download=True), train)
    kind = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    stored = kind(str(root), train=train, download=True)
    pixels = np.asarray(stored.data)
    images = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    labels = np.asarray(stored.targets, dtype=np.int64)
    names = tuple(label.split(" - ")[0] for label in stored.classes)
    return Decoded(np.ascontiguousarray(images, np.uint8), labels, np.arange(len(labels)), names)


def _gtsrb(stored, train: bool) -> Decoded:
    files, labels = zip(*stored._samples, strict=True)
    images = np.stack([decode(Path(file).read_bytes(), file, channels=3, size=32, resize=True) for file in files])
    numbers = np.asarray(labels, dtype=np.int64)
    tracks = gtsrb_tracks(numbers, files) if train else np.arange(len(numbers))
    return Decoded(images, numbers, tracks, GTSRB_CLASSES)


def fetch_tiny(root: Path, *, url: str = TINY_URL, md5: str = TINY_MD5) -> Path:
    """Download Tiny-ImageNet's zip unless it is there, and verify its checksum; a wrong one is not kept."""
    target = root / "tiny-imagenet-200.zip"
    if target.is_file():
        return target
    root.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=60) as source, part.open("wb") as file:
            digest = hashlib.md5(usedforsecurity=False)
            with tqdm(total=int(source.headers.get("Content-Length") or 0), unit="B", unit_scale=True, desc=target.name) as bar:
                while block := source.read(1 << 20):
                    digest.update(block)
                    file.write(block)
                    bar.update(len(block))
        if digest.hexdigest() != md5:
            raise DataError(f"{url} has checksum {digest.hexdigest()}, expected {md5}: try again, or set CLAD_DATA")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def read_tiny_zip(path: Path, train: bool) -> Decoded:
    """The study's 40 classes from Tiny-ImageNet's zip, read in place: nothing is extracted, odd members are refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            if bad := [n for n in archive.namelist() if n.startswith(("/", "\\")) or ".." in Path(n).parts]:
                raise DataError(f"{path} has a member outside its folder, {bad[0]!r}: fetch it from {TINY_URL}")
            members = list(_tiny_train(archive) if train else _tiny_validation(archive))
            if not members:
                raise DataError(f"{path} holds none of the 40 classes: fetch it from {TINY_URL}")
            labels = np.asarray([label for _, label in members], dtype=np.int64)
            bar = tqdm(members, desc=f"decoding {path.name}", unit="image", leave=False)
            images = np.stack([decode(archive.read(name), f"{path}, {name}", channels=3, size=64, resize=False)
                               for name, _ in bar])  # fmt: skip
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it and run again") from error
    return Decoded(images, labels, np.arange(len(labels)), tuple(TINY_CLASSES.values()))


def _tiny_train(archive: zipfile.ZipFile) -> Iterable[tuple[str, int]]:
    order = {wnid: label for label, wnid in enumerate(TINY_CLASSES)}
    for name in sorted(archive.namelist()):
        parts = name.split("/")
        if len(parts) == 5 and parts[1] == "train" and parts[2] in order and name.endswith(".JPEG"):
            yield name, order[parts[2]]


def _tiny_validation(archive: zipfile.ZipFile) -> Iterable[tuple[str, int]]:
    order = {wnid: label for label, wnid in enumerate(TINY_CLASSES)}
    for line in archive.read("tiny-imagenet-200/val/val_annotations.txt").decode().splitlines():
        file, wnid = line.split("\t")[:2]
        if wnid in order:
            yield f"tiny-imagenet-200/val/images/{file}", order[wnid]


def class_folders(folder: Path) -> tuple[str, ...]:
    """The class names of an image folder: its sub-folders, or `normal` when the images lie flat."""
    names = tuple(sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")))
    return names or ("normal",)


def image_files(folder: Path) -> list[Path]:
    """Every image in the folder and its class folders, sorted; DataError for an empty class or no image at all."""
    names = class_folders(folder)
    places = [folder] if names == ("normal",) and not (folder / "normal").is_dir() else [folder / name for name in names]
    files: list[Path] = []
    for place in places:
        found = sorted(item for item in place.rglob("*") if item.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{place} holds no images ({', '.join(sorted(SUFFIXES))}): add some or remove the folder")
        files += found
    return files


def read_folder(folder: Path, files: Sequence[Path], names: Sequence[str], size: int | None) -> Decoded:
    """Images of a folder, all of one size or resized to `size`; grey only if every image is."""
    opened = [_peek(file) for file in files]
    sizes = {dimensions for dimensions, _ in opened}
    first = opened[0][0]
    if size is None and (len(sizes) > 1 or first[0] != first[1]):
        other = next((file for file, (dimensions, _) in zip(files, opened, strict=True) if dimensions != first), files[0])
        raise DataError(
            f"{files[0]} is {first[0]}x{first[1]} and {other} is {_peek(other)[0][0]}x{_peek(other)[0][1]}: expected "
            "square images of one size; give a size to resize all, such as --size 32"
        )
    channels = 1 if all(grey for _, grey in opened) else 3
    bar = tqdm(files, desc=f"decoding {folder.name}", unit="image", leave=False)
    images = np.stack([decode(file.read_bytes(), str(file), channels=channels, size=size or first[0], resize=size is not None)
                       for file in bar])  # fmt: skip
    flat = tuple(names) == ("normal",)
    labels = [0 if flat else names.index(file.relative_to(folder).parts[0]) for file in files]
    return Decoded(images, np.asarray(labels, dtype=np.int64), np.arange(len(files)), tuple(names))


def _peek(file: Path) -> tuple[tuple[int, int], bool]:
    try:
        with Image.open(file) as image:
            return image.size, image.mode in ("1", "L", "I;16")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{file}: not a readable image ({error}); replace or remove it") from error
