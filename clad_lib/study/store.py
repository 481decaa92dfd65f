"""Artefacts on disk: written whole or not at all, with a stamp, never pickled."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import typing
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RECORD = "config.json"  # written last: a folder without it was never finished
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "MulticoreTSNE", "openTSNE")


class StoreError(RuntimeError):
    """An artefact that is missing, damaged or cannot be written, with what to do."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to a draft beside `path` and move it there in one step.

    Raises StoreError when it cannot be written; nothing is left behind then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode("utf-8") if isinstance(content, str) else content)
        _allow_reading(Path(draft))
        os.replace(draft, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            Path(draft).unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> StoreError:
    """The error for a path that cannot be written, with its reason and the cure."""
    reason = error.strerror or error
    return StoreError(f"cannot write {path}: {reason}; free some space or name another folder")


def _allow_reading(path: Path) -> None:
    """Give a draft, which is private, the rights that the umask leaves to ordinary files."""
    os.umask(umask := os.umask(0))
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


@contextlib.contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `final` when the block ends well, and disappears otherwise.

    Where another process finished `final` in the meantime, that one is kept. A `final` without a
    record, left by a process that was killed, is replaced. Raises StoreError when the disk refuses.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    except OSError as error:
        raise cannot_write(final, error) from error
    try:
        yield draft
        _allow_reading(draft)
        if final.exists() and not (final / RECORD).is_file():
            shutil.rmtree(final)
        if not (final / RECORD).is_file():
            _move(draft, final)
    except OSError as error:
        raise cannot_write(final, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _move(draft: Path, final: Path) -> None:
    try:
        os.replace(draft, final)
    except OSError:
        if not (final / RECORD).is_file():  # no other process was first: the reason is another
            raise


def save_artefact(folder: Path, artefact: Any) -> None:
    """Write a NamedTuple: arrays as npz, tables as Parquet, networks as safetensors, the rest JSON.

    Fields may be arrays, tensors, DataFrames, networks of `clad.networks.NETWORKS`, plain JSON
    values, None, or NamedTuples of these.
    """
    import numpy as np

    arrays, plain = {}, {}
    for name, value in _fields(artefact):
        if hasattr(value, "to_parquet"):
            value.to_parquet(folder / f"{name}.parquet", index=False)
        elif hasattr(value, "state_dict"):
            _save_network(folder / name, value)
        elif hasattr(value, "detach") or isinstance(value, np.ndarray):
            arrays[name] = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        else:
            plain[name] = value
    np.savez(folder / "arrays.npz", **arrays)
    write_atomically(folder / "plain.json", json.dumps(plain))


def load_artefact(folder: Path, kind: Any, *, device: Any = None) -> Any:
    """What `save_artefact` wrote, as the NamedTuple `kind`, its networks on `device` in eval mode.

    Raises StoreError when a file is damaged.
    """
    import numpy as np

    try:
        with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
            found: dict[str, Any] = {name: stored[name] for name in stored.files}
        found |= json.loads((folder / "plain.json").read_text(encoding="utf-8"))
        return _build(kind, "", found, folder, device)
    except Exception as error:  # damaged files raise whatever their reader raises
        reason = f"{type(error).__name__}: {error}"
        raise StoreError(f"{folder} cannot be read ({reason}): remove it and run again") from error


def _fields(artefact: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in artefact._asdict().items():
        if hasattr(value, "_fields"):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _build(kind: Any, prefix: str, found: dict[str, Any], folder: Path, device: Any) -> Any:
    values = {}
    for field, hint in typing.get_type_hints(kind).items():
        name = prefix + field
        if hasattr(hint, "_fields"):
            values[field] = _build(hint, f"{name}.", found, folder, device)
        elif (folder / f"{name}.parquet").is_file():
            import pandas as pd

            values[field] = pd.read_parquet(folder / f"{name}.parquet")
        elif (folder / name).is_dir():
            values[field] = _load_network(folder / name, device)
        else:
            values[field] = _typed(found[name], hint)
    return kind(**values)


def _typed(value: Any, hint: Any) -> Any:
    if getattr(hint, "__name__", "") == "Tensor":
        import torch

        return torch.from_numpy(value)
    return tuple(value) if isinstance(value, list) and typing.get_origin(hint) is tuple else value


def _save_network(folder: Path, network: Any) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    state = {name: each.detach().cpu().clone() for name, each in network.state_dict().items()}
    _ = save_file(
        {name: each.contiguous() for name, each in state.items()}, folder / "weights.safetensors"
    )
    shape = {"network": type(network).__name__, "shape": network.shape}
    (folder / "network.json").write_text(json.dumps(shape), encoding="utf-8")


def _load_network(folder: Path, device: Any) -> Any:
    from safetensors.torch import load_file

    from clad_lib.clad.networks import NETWORKS

    described = json.loads((folder / "network.json").read_text(encoding="utf-8"))
    network = NETWORKS[described["network"]](**described["shape"])
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return network.to(device).eval()


@cache
def stamp() -> dict[str, Any]:
    """Where and with what a result was made: commit of this package, versions, machine."""
    versions = {name: _version(name) for name in PACKAGES}
    return {"commit": _commit(), "versions": versions, "machine": _machine()}


def peak_memory_mb() -> int | None:
    """Largest resident memory of this process so far, in MB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if platform.system() == "Darwin" else 1e3))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit of the checkout that this package is; its version where it is installed."""
    home = Path(__file__).resolve().parents[2]
    if not (home / ".git").exists():  # a repository around an installed package says nothing of it
        return f"version {_version('clad-lib') or 'unknown'}"
    describe = ["describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        command = ["git", "-C", str(home), *describe]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _machine() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found = {"cpu": _cpu(), "cores": os.cpu_count(), "gpu": gpu}
    return found | {"system": platform.system(), "python": platform.python_version()}


def _cpu() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"model name\s*:\s*(.+)", text):
            return found[1].strip()
    return platform.processor() or platform.machine()


def folder_name(name: str) -> str:
    """A folder name for a data set or scenario; what cannot stand in one gets a short hash."""
    from hashlib import blake2b

    clean = re.sub(r"[^A-Za-z0-9_.+-]+", "-", Path(name).name) or "data"
    digest = blake2b(os.fsencode(name), digest_size=3).hexdigest()
    return clean if clean == name else f"{clean}-{digest}"
