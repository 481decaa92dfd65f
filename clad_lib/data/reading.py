"""Labelled images of a data set as whole uint8 arrays, decoded once and kept in a cache."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from clad_lib.config import datasets, unknown
from clad_lib.data.cache import ImageData, cache_file, cache_folder, cached
from clad_lib.data.downloads import download, read_parquet
from clad_lib.data.folders import image_files, in_words, read_folder
from clad_lib.data.pictures import DataError, decode, highest_values, shown

PARTS = ("train", "test")


def load_dataset(
    name: str,
    *,
    size: int | None = None,
    split: str = "shuffled",
    progress: bool = True,
) -> tuple[ImageData, ImageData]:
    """The training and the test images of a data set.

    `name` is a table of datasets.toml or a folder of images: one sub-folder a class, or flat for
    all normal, under `train` and `test` if both are there. CLAD_DATA names a folder of Parquet
    files {name}-{train|test}.parquet in the Hugging Face layout; without it the images are
    downloaded. `size` is the side to which the images of a folder are brought. The digits are split
    by a fixed shuffle within each class, or `by_writer`: other people wrote the test. Downloads and
    decoded images are kept in `cache_folder()`. What was left out of a folder, or read in part, is
    warned of and stands in the notes.

    Raises DataError, one line with the cure, for whatever is missing, damaged or inconsistent.
    """
    known = datasets()
    if split != "shuffled" and (name, split) != ("digits", "by_writer"):
        raise DataError(f"split is {split!r} for {name}: expected shuffled; digits know by_writer")
    if size is not None and name in known:
        raise DataError(f"size is {size} for {name}: only the images of a folder can be resized")
    if name == "digits":
        return _digits(split)
    if name not in known:
        return _folder(name, size, progress)
    train, test = (_part(name, part, progress) for part in PARTS)
    return train, test


def source_of(name: str) -> str:
    """Where `load_dataset(name)` takes its images from, in words."""
    published = "Parquet in CLAD_DATA" if os.environ.get("CLAD_DATA") else "the official download"
    known = dict.fromkeys(datasets(), published) | {"digits": "embedded in scikit-learn"}
    return known.get(name, "a folder")


def units_of(images: np.ndarray, tracks: np.ndarray) -> np.ndarray:
    """The tracks (N,), those that share an identical image joined under the least of their numbers.

    Where no image occurs twice these are the tracks themselves.
    """
    from scipy.cluster.hierarchy import DisjointSet  # costs as much as all the rest of this module

    sets = DisjointSet(np.unique(tracks).tolist())
    seen: dict[bytes, int] = {}
    for image, track in zip(images, tracks.tolist(), strict=True):
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        sets.merge(seen.setdefault(digest, track), track)
    least = {track: min(group) for group in sets.subsets() for track in group}
    return np.array([least[track] for track in tracks.tolist()], np.int64)


def _part(name: str, part: str, progress: bool) -> ImageData:
    facts, folder = datasets()[name], os.environ.get("CLAD_DATA")
    root = cache_folder() / "downloads"
    place = Path(folder, f"{name}-{part}.parquet") if folder else f"{shown(root)}, {part}"
    # All that decides on the images: the file or place, and the facts applied to it.
    source = [place, facts["channels"], facts["size"], facts.get("tracks"), *facts["classes"]]

    def make() -> ImageData:
        pictures, labels, paths, names = (
            read_parquet(place, facts["classes"])
            if isinstance(place, Path)
            else download(name, root, part)
        )
        if isinstance(pictures, list):
            pictures = _decoded(pictures, facts, f"{shown(place)}, row", progress)
        tracks = _tracks(pictures, labels, paths) if facts.get("tracks") else np.arange(len(labels))
        return ImageData(pictures, labels, tracks, names)

    return cached(cache_file(name, source), make)


def _decoded(blobs: list[bytes], facts: dict[str, Any], where: str, progress: bool) -> np.ndarray:
    channels, size, highest = facts["channels"], facts["size"], highest_values(blobs)
    images = np.empty((len(blobs), channels, size, size), np.uint8)
    bar = tqdm(blobs, "decoding", unit="image", leave=False, disable=not progress)
    for row, blob in enumerate(bar):
        place = f"{where} {row}"
        pixels, _ = decode(blob, channels=channels, highest=highest, where=place)
        if pixels.shape != images[row].shape:
            found = "{2}x{1}".format(*pixels.shape)
            raise DataError(f"{place}: image is {found}, expected {size}x{size}; resize it")
        images[row] = pixels
    return images


def _tracks(images: np.ndarray, labels: np.ndarray, paths: Sequence[str | None]) -> np.ndarray:
    """One number for each (label, TTTTT) of file names TTTTT_FFFFF.ppm, else tracks recovered."""
    names = [Path(path or "").name for path in paths]
    if all("_" in name for name in names):
        keys = [f"{label}/{n.split('_')[0]}" for label, n in zip(labels, names, strict=True)]
        return np.unique(keys, return_inverse=True)[1].astype(np.int64)
    from clad_lib.data.copies import recover_tracks

    return recover_tracks(images, labels)


def _digits(split: str) -> tuple[ImageData, ImageData]:
    from sklearn.datasets import load_digits  # half a second, for this data set alone

    raw = load_digits()
    pixels = torch.from_numpy(raw.images / 16).float()[:, None]  # (1797, 1, 8, 8)
    large = torch.nn.functional.interpolate(pixels, size=(16, 16), mode="bilinear")
    images, labels = (large * 255).round().byte().numpy(), raw.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    test = np.isin(np.arange(len(labels)), by_class[::4])  # a quarter of each class
    if split == "by_writer":  # scikit-learn's first three quarters were written by other people
        test = np.arange(len(labels)) >= 1347
    return _divided(ImageData(images, labels, np.arange(len(labels)), tuple("0123456789")), test)


def _divided(data: ImageData, test: np.ndarray) -> tuple[ImageData, ImageData]:
    """Training images, where `test` (N,) is false, and test images, where it is true."""
    if test.all() or not test.any():
        raise DataError(f"{len(test)} images leave the training or the test part empty: add some")
    train, tested = (
        replace(data, images=data.images[rows], labels=data.labels[rows], tracks=data.tracks[rows])
        for rows in (~test, test)
    )
    return train, tested


def _folder(name: str, size: int | None, progress: bool) -> tuple[ImageData, ImageData]:
    folder = Path(name.removeprefix("folder:"))
    if not folder.is_dir():
        message = unknown("data set", shown(name), datasets())
        raise DataError(f"{message}, or an existing folder of images")
    parted = all((folder / part).is_dir() for part in PARTS)
    parts = [folder / part for part in PARTS] if parted else [folder]
    found = [image_files(part) for part in parts]
    skipped, training = [each for _, left in found for each in left], found[0][0]
    inner = {
        file: file.relative_to(part).parts[:-1]
        for part, (files, _) in zip(parts, found, strict=True)
        for file in files
    }
    loose = shown(folder.resolve().name) if any(inner[file] for file in training) else "normal"
    classes = {file: shown(above[0]) if above else loose for file, above in inner.items()}
    names = sorted({classes[file] for file in training})
    names += sorted(set(classes.values()) - set(names))

    def make() -> ImageData:
        images, kept, left_out = read_folder(list(classes), size=size, progress=progress)
        row = {file: number for number, file in enumerate(classes)}
        words = in_words(skipped + left_out)
        notes = (f"{shown(folder)}, left out or cut: {words}",) if words else ()
        labels = np.array([names.index(classes[file]) for file in kept], np.int64)
        return ImageData(images, labels, np.array([row[f] for f in kept]), tuple(names), notes)

    source = [*classes, *classes.values(), size, in_words(skipped)]
    data = cached(cache_file(folder.resolve().name, source), make)
    for note in data.notes:
        warnings.warn(note, stacklevel=3)
    if parted:
        return _divided(data, data.tracks >= len(training))
    units, place = np.unique(units_of(data.images, data.tracks), return_inverse=True)
    order = np.random.default_rng(0).permutation(len(units))
    return _divided(data, np.isin(place, order[: len(order) // 5]))  # copies stay together
