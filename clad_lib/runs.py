"""Run: where the artefacts of one configuration live, written whole or not at all, found again by their content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clad_lib.config import Config, Protocol, as_dict

if TYPE_CHECKING:  # what follows imports neither before it is needed: workers of a batch only look for files
    import pandas as pd
    import torch
    from torch import nn


class RunError(RuntimeError):
    """An artefact that is missing, mixed up or cannot be written, with what to do."""


class Stage(NamedTuple):
    """One step of a run: the Config fields it depends on, the stage before it, and the notebook that makes it.

    `version` changes when the stage's code changes its results, so that older artefacts are not taken for new ones.
    """

    name: str
    fields: tuple[str, ...]
    before: str | None
    notebook: str
    version: int = 1
    protocol: Protocol | None = None  # of its result, where it is not the configuration's


COMMON = ("dataset", "scenario", "calibration", "max_train", "max_test", "min_steps", "hidden_statistics")
_METRICS = ("flip_auroc", "best_f1")
_ODIN = ("temperature", "epsilon", "odin_factor")
_FOLDS = ("folds", "withheld", "fold_epochs")
_DEEP = ("deep_pretraining", "deep_training", "deep_min_steps", "deep_objective")
_DEC = ("clusters", "kmeans_inits", "dec_epochs", "dec_lr", "dec_batch", "dec_tolerance", "batch_target")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("autoencoder", ("encoder", "latent", "ae_epochs", "ae_lr", "ae_batch", "noisy_latents"), None,
              "02_latent_space"),
        Stage("embedding", (), "autoencoder", "02_latent_space", version=2),
        Stage("clusters", _DEC, "autoencoder", "03_self_labelling"),
        Stage("classifier", ("stem", "clf_epochs", "clf_lr", "clf_batch", "clf_schedule"), "clusters",
              "04_classifier"),
        Stage("outputs", (), "classifier", "05_odin_scoring"),
        Stage("one_pass", (), "outputs", "05_odin_scoring"),
        Stage("odin_grid", (), "classifier", "05_odin_scoring"),
        Stage("simulations", _FOLDS, "clusters", "05_odin_scoring"),
        Stage("ODIN", (*_ODIN, *_METRICS), "classifier", "05_odin_scoring"),
        *(Stage(name, _METRICS, "one_pass", "05_odin_scoring")
          for name in ("MSP", "MaxLogit", "Energy", "KNN", "Mahalanobis", "RelativeMahalanobis", "ViM")),
        Stage("RankAverage", _METRICS, "one_pass", "05_odin_scoring", version=2),
        Stage("Selected", (*_FOLDS, *_METRICS), "one_pass", "05_odin_scoring"),
        Stage("Oracle", _METRICS, "one_pass", "05_odin_scoring", protocol="oracle"),
        Stage("OCSVM", ("nu", *_METRICS), None, "06_baselines"),
        Stage("OCNN", ("nu", "ocnn_epochs", *_METRICS), "autoencoder", "06_baselines"),
        Stage("OCCNN", ("occnn_steps", *_METRICS), "autoencoder", "06_baselines"),
        Stage("SVDD", ("nu", "hard_svdd", *_METRICS), None, "06_baselines"),
        Stage("DeepSVDD", ("nu", *_DEEP, *_METRICS), None, "06_baselines"),
    )
}  # fmt: skip


def stage_settings(stage: Stage, config: Config) -> dict[str, Any]:
    """Everything in the config that the stage and the stages before it depend on, as plain values."""
    settings = {name: getattr(config, name) for name in (*COMMON, *stage.fields)}
    if stage.before:
        settings |= stage_settings(STAGES[stage.before], config)
    return settings | {f"{stage.name} version": stage.version}


@dataclass(frozen=True)
class Run:
    """The artefacts of one configuration on one split under `root`, one folder a stage.

    A stage's folder is runs/<dataset>/<scenario>/<stage>-<hash>/seed<k>/. The hash covers the settings the stage
    depends on and `data`, the split's content: another temperature finds the same classifier.
    """

    root: Path
    config: Config
    data: str

    def folder(self, name: str) -> Path:
        """Where the stage lives, whether or not it is there yet."""
        settings = stage_settings(STAGES[name], self.config) | {"data": self.data}
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=5).hexdigest()
        place = Path(self.root) / _safe(self.config.dataset) / _safe(self.config.scenario)
        return place / f"{name}-{digest}" / f"seed{self.config.seed}"

    def has(self, name: str) -> bool:
        """Whether the stage was finished with these settings."""
        return (self.folder(name) / "config.json").is_file()

    def find(self, name: str) -> Path:
        """The folder of a finished stage; RunError names the notebook that makes it, or the settings that differ."""
        folder = self.folder(name)
        if not self.has(name):
            raise RunError(f"no {name} for these settings in {folder}: run notebook {STAGES[name].notebook} first")
        stored = json.loads((folder / "config.json").read_text())["settings"]
        wanted = stage_settings(STAGES[name], self.config) | {"data": self.data}
        differ = [f"{key} {stored.get(key)!r} is not {wanted[key]!r}" for key in wanted if stored.get(key) != wanted[key]]
        if differ:
            raise RunError(f"{folder} holds another configuration: {'; '.join(differ)}; remove that folder")
        return folder

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A folder to fill; it becomes the stage's when the block ends well, and disappears when it does not."""
        final, started = self.folder(name), time.perf_counter()
        with _whole_folder(final) as draft:
            yield draft
            settings = stage_settings(STAGES[name], self.config) | {"data": self.data}
            seconds = round(time.perf_counter() - started, 2)
            protocol = None if self.config.defects else STAGES[name].protocol
            record = {"stage": name, "config": as_dict(self.config), "protocol": protocol or self.config.protocol,
                      "settings": settings, "seconds": seconds} | stamp()  # fmt: skip
            (draft / "config.json").write_text(json.dumps(record, indent=1))


@contextlib.contextmanager
def _whole_folder(final: Path) -> Iterator[Path]:
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    except OSError as error:
        raise RunError(f"cannot write to {final.parent}: {error.strerror}; choose another folder with --runs") from error
    try:
        yield draft
        draft.chmod(0o755)
        with contextlib.suppress(OSError):  # another process finished the same stage first: its result is kept
            os.replace(draft, final)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"cannot write {final}: {reason}; free some space or choose another folder with --runs") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _safe(name: str) -> str:
    """A folder name for a data set or scenario; a path keeps its last part and gets a short hash."""
    clean = re.sub(r"[^A-Za-z0-9_.+-]+", "-", Path(name).name) or "data"
    return clean if clean == name else f"{clean}-{hashlib.blake2b(name.encode(), digest_size=3).hexdigest()}"


def save_model(folder: Path, model: nn.Module, **shape: Any) -> None:
    """Weights as safetensors, and the keyword arguments that rebuild the module as JSON."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    unique = {name: tensor.clone() for name, tensor in state.items()}
    _ = save_file(unique, folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(shape))


def load_weights(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `save_model` wrote: weights and shape. RunError when a file is damaged."""
    from safetensors.torch import load_file

    try:
        return load_file(folder / "model.safetensors"), json.loads((folder / "model.json").read_text())
    except Exception as error:
        raise RunError(f"the model in {folder} cannot be read ({error}): remove that folder and run again") from error


def save_arrays(folder: Path, **arrays: np.ndarray) -> None:
    """Named arrays as arrays.npz."""
    np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]


def load_arrays(folder: Path) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote; nothing is ever unpickled. RunError when the file is damaged."""
    try:
        with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:
        raise RunError(f"arrays in {folder} cannot be read ({error}): remove that folder and run again") from error


def save_scores(folder: Path, table: pd.DataFrame, metrics: Mapping[str, Any]) -> None:
    """scores.parquet (split, index, hidden_class, anomaly, score) and metrics.json."""
    table.to_parquet(folder / "scores.parquet", index=False)
    (folder / "metrics.json").write_text(json.dumps(dict(metrics), indent=1))


@cache
def stamp() -> dict[str, Any]:
    """Where and with what a result was measured: commit, versions, machine, peak memory in MB."""
    packages = ("torch", "torchvision", "numpy", "scikit-learn", "MulticoreTSNE", "openTSNE")
    return {"commit": _commit(), "versions": {name: _version(name) for name in packages}, "machine": _machine()}


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if platform.system() == "Darwin" else 1e3))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _machine() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "gpu": device, "system": platform.system(),
            "python": platform.python_version()}  # fmt: skip


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
