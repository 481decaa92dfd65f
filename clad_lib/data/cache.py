"""Labelled images, and the folder in which they are kept once they are decoded."""

import hashlib
import os
import re
import secrets
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clad_lib.data.pictures import DataError, shown

RULES = 3  # of decoding: to be raised when the same file would give other images
BY_CONTENT = 1 << 20  # bytes; what is larger is known by path, size and time of change
PATTERN = "*-" + "[0-9a-f]" * 16 + ".np*"  # whole and half-written files of this and older versions


@dataclass(frozen=True)
class ImageData:
    """images (N, C, H, W) uint8; labels, tracks (N,) int64; notes on files left out or cut.

    Images of one track show one object and must stay together.
    """

    images: np.ndarray
    labels: np.ndarray
    tracks: np.ndarray
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def cache_folder() -> Path:
    """Where decoded images and downloads lie: CLAD_CACHE, else the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "clad")
    return Path(os.environ.get("CLAD_CACHE") or home)


def cached_files() -> list[Path]:
    """The files of decoded images; downloads lie beside, in `downloads`."""
    return sorted(cache_folder().glob(PATTERN))


def cached(path: Path, make: Callable[[], ImageData]) -> ImageData:
    """What lies at `path`, made and stored there before if need be.

    Raises DataError where the file cannot be written or is damaged.
    """
    if not path.is_file():
        _store(path, make())
    try:
        with np.load(path, allow_pickle=False) as stored:
            texts = {name: tuple(stored[name].tolist()) for name in ("class_names", "notes")}
            return ImageData(**dict(stored) | texts)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"the cache {shown(path)} cannot be read ({error}): remove it and run again"
        ) from error


def _store(path: Path, data: ImageData) -> None:
    """Write beside `path`, then move there in one step; with the rights that the umask gives."""
    part = path.with_suffix(f".npz{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **vars(data))
        part.replace(path)
    except OSError as error:
        raise DataError(
            f"cannot write the cache {shown(path)}: {error.strerror or error}; set CLAD_CACHE to a "
            "folder with space"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def cache_file(name: str, source: list) -> Path:
    """Where the images decoded from `source` lie: its files, and all else that decides on them."""
    identities = [
        _identity(item) if isinstance(item, Path) and item.is_file() else item for item in source
    ]
    digest = hashlib.blake2b(repr((RULES, identities)).encode(), digest_size=8).hexdigest()
    return cache_folder() / f"{re.sub('[^A-Za-z0-9_.-]', '_', name)[:40]}-{digest}.npz"


def _identity(file: Path) -> object:
    """The content of a file, or of a large one its path, size and time of change."""
    status = file.stat()
    if status.st_size > BY_CONTENT:
        return shown(file), status.st_size, status.st_mtime_ns
    return hashlib.blake2b(file.read_bytes(), digest_size=16).digest()
