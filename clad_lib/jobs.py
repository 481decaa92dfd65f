"""Jobs: one notebook of one scenario and seed, executed under a lock, found done by content, kept apart when it fails."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from nbclient.exceptions import DeadKernelError

from clad_lib import headless
from clad_lib.config import CHOSEN, CLAD, Config
from clad_lib.runs import Run
from clad_lib.whole import write_whole

FROM_CLASSIFIER = (*CLAD, *CHOSEN)  # what notebook 05 makes; CHOSEN only where they are asked for, since they train again
STAGES_OF = {
    "02_latent_space": ("autoencoder", "embedding"), "03_self_labelling": ("clusters",), "04_classifier": ("classifier",),
    "05_odin_scoring": CLAD,
}  # fmt: skip
ON_CPU = ("OCSVM", "SVDD")  # solved by scikit-learn and SciPy: they never ask for a GPU
OLD = 2 * 24 * 3600  # seconds: a draft that old belongs to a process that was killed
FULL = ("No space left on device", "Disk quota exceeded")


class Job(NamedTuple):
    """A notebook to execute: what it makes, in which run, and the keys of the jobs whose results it reads."""

    key: str
    notebook: str
    run: Run
    makes: tuple[str, ...]
    needs: tuple[str, ...]

    @property
    def title(self) -> str:
        """Scenario, seed and step for a reader: `mnist CUR seed 0: DeepSVDD`."""
        config, step = self.run.config, self.makes[0] if self.notebook[:2] != "05" else "scores"
        return f"{config.dataset} {config.scenario} seed {config.seed}: {step}"

    @property
    def executed(self) -> Path:
        """Where its executed notebook is kept: in the folder of the first stage that it makes."""
        return self.run.folder(self.makes[0]) / f"{self.notebook}-{self.key[-10:]}.ipynb"

    @property
    def failure(self) -> Path:
        """The folder of the notebook and the error, once it has failed."""
        return self.run.root / "failures" / self.key.replace("/", "~")


class Outcome(NamedTuple):
    """How a job ended: done, failed, blocked (a job before it failed), interrupted or full (no space is left)."""

    key: str
    status: str
    seconds: float = 0.0
    error: str = ""


def plan(configs: Iterable[Config], methods: Sequence[str], root: Path) -> list[Job]:
    """The jobs that make the methods for all configurations, each once, every job after those that it needs.

    Reads the data sets (which decodes them on this machine), since a run is found by the content of its split.
    """
    from clad_lib.scenarios import load_split, split_key  # here: workers execute jobs and need no torch for it

    found: dict[str, Job] = {}
    keys: dict[tuple, str] = {}
    for config in configs:
        identity = (config.dataset, config.scenario, config.seed, config.calibration, config.max_train, config.max_test)
        if identity not in keys:
            keys[identity] = split_key(load_split(config))
        for job in _jobs_of(Run(root, config, keys[identity]), methods):
            found.setdefault(job.key, job)
    return list(found.values())


def _jobs_of(run: Run, methods: Sequence[str]) -> list[Job]:
    chain: list[Job] = []
    chosen = CHOSEN if set(CHOSEN) & set(methods) else ()
    for notebook in _chain(methods):
        makes = STAGES_OF[notebook] + (chosen if notebook[:2] == "05" else ())
        chain.append(_job(run, notebook, makes, [job.key for job in chain[-1:]]))
    after = {"OCNN": [job.key for job in chain[:1]], "OCCNN": [job.key for job in chain[:1]]}
    alone = [name for name in methods if name not in FROM_CLASSIFIER]
    return chain + [_job(run, "06_baselines", (name,), after.get(name, [])) for name in alone]


def _chain(methods: Sequence[str]) -> list[str]:
    if set(methods) & set(FROM_CLASSIFIER):
        return list(STAGES_OF)
    return list(STAGES_OF)[:1] if {"OCNN", "OCCNN"} & set(methods) else []


def _job(run: Run, notebook: str, makes: tuple[str, ...], needs: list[str]) -> Job:
    places = [str(run.folder(name).relative_to(run.root)) for name in makes]
    digest = hashlib.blake2b("\n".join([notebook, *places]).encode(), digest_size=5).hexdigest()
    return Job(f"{places[0]}/{digest}", notebook, run, makes, tuple(needs))


def is_done(job: Job) -> bool:
    """Whether everything that it makes is there, for these settings and this code version, with its executed notebook."""
    return job.executed.is_file() and all(job.run.has(name) for name in job.makes)


def execute(job: Job, device: str) -> Outcome:
    """Execute the job unless another process has just done it; never raises for what the notebook does.

    One process at a time holds the job's lock; a lock of a killed process is free. A kernel that dies is tried once more.
    """
    locks = job.run.root / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{job.key[-10:]}.lock"):
            return Outcome(job.key, "done") if is_done(job) else _execute(job, device)
    except OSError as error:
        return Outcome(job.key, "full" if _is_full(str(error)) else "failed", 0.0, f"{type(error).__name__}: {error}")


def _execute(job: Job, device: str) -> Outcome:
    started, scratch = time.monotonic(), job.run.root / ".executing"
    scratch.mkdir(exist_ok=True)
    parameters = headless.notebook_parameters(job.run.config, job.run.root, device)
    if job.notebook[:2] in ("05", "06"):
        parameters["only"] = list(job.makes)
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as folder:
        target = Path(folder) / job.executed.name
        source = headless.notebook_folder() / f"{job.notebook}.ipynb"
        for attempt in (1, 2):
            try:
                headless.execute(source, parameters, target)
                os.replace(target, job.executed)
                shutil.rmtree(job.failure, ignore_errors=True)
                return Outcome(job.key, "done", time.monotonic() - started)
            except headless.NotebookError as error:
                if attempt == 1 and isinstance(error.__cause__, DeadKernelError):
                    continue
                return _failed(job, target, str(error), time.monotonic() - started)
            except (ValueError, RuntimeError) as error:  # papermill's or the kernel channel's own
                return _failed(job, target, f"{job.notebook}: {type(error).__name__}: {error}", time.monotonic() - started)
    raise AssertionError("unreachable")


def _failed(job: Job, target: Path, error: str, seconds: float) -> Outcome:
    """Keep the notebook with its traceback, unless the user or a full disk stopped it: then it is simply not done."""
    first = error.splitlines()[0]
    if ": KeyboardInterrupt" in first or _is_full(error):
        return Outcome(job.key, "full" if _is_full(error) else "interrupted", seconds, first)
    job.failure.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        os.replace(target, job.failure / target.name)
    write_whole(job.failure / "error.json", json.dumps({"key": job.key, "title": job.title, "error": first}))
    return Outcome(job.key, "failed", seconds, first)


def failure_of(job: Job) -> str | None:
    """The error with which a job failed before; None where it did not, or where its record cannot be read."""
    try:
        return str(json.loads((job.failure / "error.json").read_text())["error"])
    except (OSError, ValueError, KeyError):
        return None


def _is_full(error: str) -> bool:
    return any(text in error for text in FULL)


@cache
def sweep_drafts(root: Path) -> int:
    """Remove what killed processes left half-made more than two days ago; the number of folders removed."""
    drafts = [*root.glob("*/*/*/.seed*"), *(root / ".executing").glob("*")]
    old = [path for path in drafts if path.exists() and time.time() - path.stat().st_mtime > OLD]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return len(old)
