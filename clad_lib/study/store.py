"""Files written whole or not at all, and a stamp of what made them; nothing here needs torch."""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

RECORD = "config.json"  # written last: a folder without it was never finished
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "MulticoreTSNE", "openTSNE")


class StoreError(RuntimeError):
    """An artefact that is missing, damaged or cannot be written, with what to do."""


def cannot_write(path: Path, error: OSError) -> StoreError:
    """The error for a path that cannot be written, with its reason and the cure."""
    reason = error.strerror or error
    return StoreError(f"cannot write {path}: {reason}; free some space or name another folder")


@contextlib.contextmanager
def draft_of(final: Path, *, parents: bool = True) -> Iterator[Path]:
    """A path to write to before it is moved to `final`; what is there at the block's end goes.

    Folders above `final` that are missing are made, unless told otherwise. Raises StoreError for an
    OSError in the block.
    """
    try:
        if parents:
            final.parent.mkdir(parents=True, exist_ok=True)
        place: Any = dict(dir=final.parent, prefix=f".{final.name}-", ignore_cleanup_errors=True)
        with tempfile.TemporaryDirectory(**place) as private:
            yield Path(private, final.name)
    except OSError as error:
        raise cannot_write(final, error) from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to a draft beside `path` and move it there in one step.

    Raises StoreError when it cannot be written; nothing is left behind then.
    """
    with draft_of(path) as draft:
        draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(draft, path)


def write_json(path: Path, values: Any) -> None:
    """Write values as JSON, as `write_atomically` does."""
    write_atomically(path, json.dumps(values, indent=1))


def read_json(path: Path) -> Any:
    """The values of a JSON file; OSError or ValueError where it is missing or damaged."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `final` when the block ends well, and disappears otherwise.

    Where another process finished `final` in the meantime, that one is kept. A `final` without a
    record, left by a process that was killed, is replaced. Raises StoreError when the disk refuses.
    """
    with draft_of(final) as draft:
        draft.mkdir()
        yield draft
        if not (final / RECORD).is_file():
            shutil.rmtree(final, ignore_errors=True)
        try:
            os.replace(draft, final)
        except OSError:
            if not (final / RECORD).is_file():  # no other process was first: the reason is another
                raise


@cache
def stamp() -> dict[str, Any]:
    """Where and with what a result was made: commit of this package, versions, machine."""
    import torch

    machine = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
    }
    versions = {each.name: each.version for each in distributions() if each.name in PACKAGES}
    return {"commit": _commit(), "versions": versions, "machine": machine}


def peak_memory_mb() -> int | None:
    """Largest resident memory of this process so far, in MB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if platform.system() == "Darwin" else 1e3))


def _commit() -> str:
    """The commit of the checkout that this package is; its version where it is installed."""
    home = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(home), "describe", "--always", "--dirty", "--abbrev=10"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, PackageNotFoundError):
        if (home / ".git").exists():  # one around an installed package says nothing of it
            options: Any = dict(stderr=subprocess.DEVNULL, timeout=10)
            return subprocess.check_output([*command, "--exclude=*"], **options).decode().strip()
        return f"version {version('clad-lib')}"
    return "unknown"


def _cpu() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"model name\s*:\s*(.+)", text):
            return found[1].strip()
    return platform.processor() or platform.machine()


def short_hash(text: str) -> str:
    """Ten hexadecimal digits that stand for a text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=5).hexdigest()


def folder_name(name: str) -> str:
    """A folder name for a data set or scenario; what cannot stand in one gets a short hash."""
    clean = re.sub(r"[^A-Za-z0-9_.+-]+", "-", Path(name).name) or "data"
    return clean if clean == name else f"{clean}-{short_hash(name)}"


def project_folder(name: str) -> Path:
    """A folder of the project: in the installed package, or in the checkout beside it."""
    package = Path(__file__).resolve().parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
