"""Labelled images of a data set as whole uint8 arrays, decoded once into a memory-mapped cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import torch
from sklearn.datasets import load_digits

from clad_lib import sources
from clad_lib.config import DATASETS
from clad_lib.sources import DataError, Decoded

DIGITS_TRAIN = 1347  # the first three quarters of scikit-learn's 1,797 digits, in their order
DIGITS_SIZE = 16
DOWNLOADS = {"mnist": 12, "gtsrb": 277, "cifar10": 171, "tiny_imagenet": 248}  # MB


@dataclass(frozen=True)
class ImageData:
    """images (N, C, H, W) uint8; labels (N,) int64; tracks (N,) int64, equal for images that must stay together."""

    images: np.ndarray
    labels: np.ndarray
    tracks: np.ndarray
    class_names: tuple[str, ...]


def load_dataset(
    name: str, *, root: Path | None = None, cache: Path | None = None, size: int | None = None
) -> tuple[ImageData, ImageData]:
    """The train and the test split of a data set.

    `name` is digits, mnist, gtsrb, cifar10, tiny_imagenet, or a folder of images: one sub-folder a class, or flat for
    all normal, under `train` and `test` if both are there. `CLAD_DATA` names a folder of Parquet files
    {name}-{train|test}.parquet in the Hugging Face image layout, and wins over a download to `root`. `size` resizes
    the images of a folder. Decoded images are kept in `cache` (default: `CLAD_CACHE`, or the user's cache folder).

    Raises DataError, one line with the cure, for whatever is missing, damaged or inconsistent.
    """
    if name == "digits":
        return _digits()
    root, cache = _places(root, cache)
    if name not in DATASETS:
        folder = Path(name.removeprefix("folder:"))
        if not folder.is_dir():
            raise DataError(f"unknown data set {name!r}: expected one of {', '.join(DATASETS)}, or an existing folder of images")
        return _folder(folder, cache, size)
    if parquet := os.environ.get("CLAD_DATA"):
        paths = [Path(parquet) / f"{name}-{part}.parquet" for part in ("train", "test")]
        for path in paths:
            if not path.is_file():
                raise DataError(f"CLAD_DATA is {parquet}, but {path} is not there: add it, or unset CLAD_DATA to download")
        return _pair(lambda i: _cached(name, [paths[i]], cache, lambda: sources.read_parquet(paths[i], name)))
    return _pair(lambda i: _cached(name, [root, ("train", "test")[i]], cache, lambda: sources.download(name, root, i == 0)))


def to_download(name: str, *, root: Path | None = None, cache: Path | None = None) -> str:
    """What `load_dataset(name)` would fetch from the network, in words; empty where it fetches nothing.

    Nothing is fetched for digits and folders, where `CLAD_DATA` is set, and for what is in `cache` or `root` already.
    """
    if name not in DOWNLOADS or os.environ.get("CLAD_DATA"):
        return ""
    root, cache = _places(root, cache)
    for part in ("train", "test"):
        decoded = _cache_file(name, [root, part], cache).with_suffix(".npz")
        if not decoded.is_file() and not _fetched(name, root, part):
            return f"{name} is not on this machine: {DOWNLOADS[name]} MB would be downloaded to {root}"
    return ""


def fingerprint(data: ImageData) -> str:
    """A short hash of images, labels and class names."""
    digest = hashlib.blake2b(repr((data.images.shape, data.class_names)).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(data.images).data)
    digest.update(np.ascontiguousarray(data.labels).data)
    return digest.hexdigest()


def _places(root: Path | None, cache: Path | None) -> tuple[Path, Path]:
    cache = Path(cache or os.environ.get("CLAD_CACHE") or platformdirs.user_cache_dir("clad"))
    return Path(root or cache / "downloads"), cache


def _fetched(name: str, root: Path, part: str) -> bool:
    """Whether an earlier download to `root` is whole, by torchvision's own check."""
    if name == "tiny_imagenet" or not root.is_dir():
        return (root / "tiny-imagenet-200.zip").is_file()
    from torchvision import datasets

    try:
        if name == "gtsrb":
            datasets.GTSRB(str(root), split=part, download=False)
        else:
            {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name](str(root), train=part == "train", download=False)
    except (RuntimeError, OSError):
        return False
    return True


def _pair(make: Callable[[int], ImageData]) -> tuple[ImageData, ImageData]:
    return make(0), make(1)


def _digits() -> tuple[ImageData, ImageData]:
    raw = load_digits()
    pixels = torch.from_numpy(raw.images / 16).float()[:, None]  # (1797, 1, 8, 8)
    large = torch.nn.functional.interpolate(pixels, size=(DIGITS_SIZE, DIGITS_SIZE), mode="bilinear")
    images, labels = (large * 255).round().byte().numpy(), raw.target.astype(np.int64)
    names = tuple(str(digit) for digit in range(10))
    parts = (slice(None, DIGITS_TRAIN), slice(DIGITS_TRAIN, None))
    return _pair(lambda i: ImageData(images[parts[i]], labels[parts[i]], np.arange(len(labels[parts[i]])), names))


def _folder(folder: Path, cache: Path, size: int | None) -> tuple[ImageData, ImageData]:
    parts = [folder / part for part in ("train", "test")]
    if all(part.is_dir() for part in parts):
        names = sources.class_folders(parts[0])
        extra = tuple(name for name in sources.class_folders(parts[1]) if name not in names)
        return _pair(lambda i: _folder_part(parts[i], cache, size, names + extra))
    whole = _folder_part(folder, cache, size, sources.class_folders(folder))
    order = np.random.default_rng(0).permutation(len(whole.labels))  # a fixed 80/20 split
    rows = (np.sort(order[len(order) // 5 :]), np.sort(order[: len(order) // 5]))
    return _pair(lambda i: ImageData(whole.images[rows[i]], whole.labels[rows[i]], whole.tracks[rows[i]],
                                     whole.class_names))  # fmt: skip


def _folder_part(folder: Path, cache: Path, size: int | None, names: tuple[str, ...]) -> ImageData:
    files = sources.image_files(folder)
    return _cached(folder.name, [*files, size, *names], cache, lambda: sources.read_folder(folder, files, names, size))


def _cached(name: str, source: list, cache: Path, decode: Callable[[], Decoded]) -> ImageData:
    """The decoded images from the cache, or decoded now."""
    images = _cache_file(name, source, cache)
    rest = images.with_suffix(".npz")
    if not rest.is_file():
        decoded = decode()
        _write_whole(images, lambda file: np.save(file, decoded.images))
        _write_whole(rest, lambda file: np.savez(file, labels=decoded.labels, tracks=decoded.tracks,
                                                 class_names=np.asarray(decoded.class_names)))  # fmt: skip
    try:
        with np.load(rest, allow_pickle=False) as stored:
            names = tuple(stored["class_names"].tolist())
            return ImageData(np.load(images, mmap_mode="r"), stored["labels"], stored["tracks"], names)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"the cache {rest} cannot be read ({error}): remove it and run again") from error


def _cache_file(name: str, source: list, cache: Path) -> Path:
    """Where decoded images lie; the key covers name, size and time of each source file."""
    digest = hashlib.blake2b(digest_size=8)
    for item in source:
        status = item.stat() if isinstance(item, Path) and item.is_file() else None
        digest.update(repr((str(item), status and (status.st_size, status.st_mtime_ns))).encode())
    return cache / f"{name}-{digest.hexdigest()}.npy"


def _write_whole(path: Path, write: Callable) -> None:
    """Write to a temporary file beside `path`, then move it there in one step."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            write(file)
        os.replace(file.name, path)
    except OSError as error:
        with contextlib.suppress(OSError, UnboundLocalError):
            os.unlink(file.name)
        reason = error.strerror or error
        raise DataError(f"cannot write the cache {path}: {reason}; set CLAD_CACHE to a folder with space") from error
