"""Jobs: the rows of the table, and the notebooks that show them, as a graph for one engine."""

import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from clad_lib.config import Config
from clad_lib.study.stages import Places, before, needed, row, rows
from clad_lib.study.store import RECORD, read_json, short_hash, write_json

SPLIT = ("dataset", "scenario", "seed", "split", "size", "calibration", "max_train", "max_test")
ROW = Path(__file__).with_name("row.ipynb")  # makes one row
FULL = ("No space left on device", "Disk quota exceeded")
INTERRUPTED = (": KeyboardInterrupt", ": InterruptedError")
REFUSED = "NotApplicable: "  # how a method says that it does not apply to these images


class Job(NamedTuple):
    """A row to make, or a notebook that shows rows, and the keys of the jobs before it."""

    key: str  # under the runs folder: the row's folder, or the executed notebook
    step: str  # the name of the row, or the notebook's stem
    places: Places
    needs: tuple[str, ...] = ()
    shows: tuple[str, ...] | None = None  # of a notebook: the rows
    again: bool = False  # of a notebook: whether it is executed although it was already

    @property
    def title(self) -> str:
        """Scenario, seed and step for a reader: `mnist CUR seed 0: DeepSVDD`."""
        config = self.places.config
        return f"{config.dataset} {config.scenario} seed {config.seed}: {self.step}"

    @property
    def failure(self) -> Path:
        """The folder of the error and of the notebook with its traceback, once it has failed."""
        return self.places.root / "failures" / self.key.replace("/", "~")


class Outcome(NamedTuple):
    """How a job ended: done, failed, refused, blocked, interrupted or full.

    A method refuses images to which it does not apply; a job is blocked when one before it failed.
    """

    key: str
    status: str
    seconds: float = 0.0
    error: str = ""


def plan(configs: Iterable[Config], methods: Sequence[str], runs: Path) -> list[Job]:
    """The jobs that make the methods for all configurations, each once, after those it needs.

    Every row is a job, and every notebook that shows one. Reads the data sets, since an artefact
    is found by the content of its split.
    """
    from clad_lib.data.scenarios import load_split, split_key  # here: they import torch

    found: dict[str, Job] = {}
    keys: dict[tuple, str] = {}
    stems = sorted({row(name).shown_in for name in needed(methods) if name != "copies"})
    for config in configs:
        identity = tuple(getattr(config, name) for name in SPLIT)
        if identity not in keys:
            keys[identity] = split_key(load_split(config))
        places = Places(runs, config, keys[identity])
        for job in graph(places, methods, stems):
            found.setdefault(job.key, job)
    return list(found.values())


def plan_study(places: Places, notebooks: Sequence[Path], folder: Path) -> list[Job]:
    """The jobs that make all that the notebooks show, and execute them, anew, into `folder`."""
    stems = [path.stem for path in notebooks]
    wanted = [name for name, each in rows().items() if each.shown_in in stems and each.in_all]
    return graph(places, wanted, stems, folder)


def graph(
    places: Places, methods: Sequence[str], stems: Sequence[str], folder: Path | None = None
) -> list[Job]:
    """A job for each row, then one for each notebook, after the rows of it and of earlier ones.

    Stages on which no method but an oracle stands, such as the map of the latents, are made for the
    notebooks.
    """
    used = needed(n for n, each in rows().items() if each.block and each.protocol != "oracle")
    extra = [
        name
        for name, each in rows().items()
        if each.shown_in in stems and not each.block and name not in used
    ]
    made = needed([*methods, *extra])
    keys = {name: places.path(name).relative_to(places.root).as_posix() for name in made}
    jobs = [Job(keys[n], n, places, tuple(keys[need] for need in before(n))) for n in made]
    for stem in stems:
        shows = tuple(name for name in made if row(name).shown_in == stem)
        earlier = tuple(keys[name] for name in made if row(name).shown_in <= stem)
        digest = short_hash("\n".join(keys[name] for name in shows))
        place = folder or Path(places.root, keys[shows[0]])
        path = place / (f"{stem}.ipynb" if folder else f"{stem}-{digest}.ipynb")
        key = path.relative_to(places.root).as_posix()
        jobs.append(Job(key, stem, places, earlier, shows, again=folder is not None))
    return jobs


def is_done(job: Job) -> bool:
    """Whether the row is there; for a notebook, whether it was executed after all that it shows."""
    if job.shows is None:
        return job.places.has(job.step)
    made = [job.places.path(name) / RECORD for name in job.shows if job.places.has(name)]
    executed = job.places.root / job.key
    if job.again or not made or not executed.is_file():
        return False
    return max(path.stat().st_mtime for path in made) <= executed.stat().st_mtime


def shown(job: Job) -> list[str]:
    """What a notebook can show of what it is about: its methods or, without any, its stages."""
    names = job.shows or ()
    methods = [name for name in names if row(name).block]
    return [name for name in methods or names if job.places.has(name)]


def execute(job: Job, device: str, kernel: Any) -> Outcome:
    """Do the job in the kernel, unless another process has just done it; it never raises.

    One process at a time holds the job's lock; the lock of a killed process is free.
    """
    draft = job.places.root / ".locks" / f"{short_hash(job.key)}.ipynb"
    started = time.monotonic()
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(draft.with_suffix(".lock")):
            started = time.monotonic()
            if is_done(job):
                return Outcome(job.key, "done")
            _execute(job, device, kernel, draft)
            return Outcome(job.key, "done", time.monotonic() - started)
    except Exception as error:  # whatever it is: other jobs go on
        return _failed(job, draft, str(error), time.monotonic() - started)


def _execute(job: Job, device: str, kernel: Any, draft: Path) -> None:
    from clad_lib.study import notebooks  # here: its papermill takes seconds to import

    source, only, fresh = ROW, [job.step], job.shows is not None
    if fresh:
        source = notebooks.notebook_folder() / f"{job.step}.ipynb"
        only = [name for name in shown(job) if row(name).block]
    known = notebooks.parameters_of(job.places.config, job.places.root, device)
    known |= {"only": only} if only else {}
    notebooks.execute(source, draft, known, kernel, fresh=fresh)
    kept = job.places.root / job.key
    if fresh:
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft, kept)
    draft.unlink(missing_ok=True)
    shutil.rmtree(job.failure, ignore_errors=True)


def _failed(job: Job, draft: Path, error: str, seconds: float) -> Outcome:
    """Keep the notebook with its traceback, unless the user or a full disk stopped it."""
    first = re.sub(rf"^{ROW.name}, cell \d+: ", "", error.partition("\n")[0])
    for status, texts in (("full", FULL), ("interrupted", INTERRUPTED)):
        if any(text in error for text in texts):
            return Outcome(job.key, status, seconds, first)
    status = "refused" if first.startswith(REFUSED) else "failed"
    record = {"key": job.key, "title": job.title, "status": status, "error": first}
    write_json(job.failure / "error.json", record)
    if draft.is_file():
        os.replace(draft, job.failure / f"{job.step}.ipynb")
    return Outcome(job.key, status, seconds, first)


def failure_of(job: Job) -> Outcome | None:
    """How the job failed before; None where it did not, or where its record cannot be read."""
    try:
        record = read_json(job.failure / "error.json")
        return Outcome(job.key, record["status"], 0.0, record["error"])
    except (OSError, ValueError, KeyError):
        return None


@lru_cache(maxsize=1)
def opened(config: Config, runs: str, device: str) -> Any:
    """The study, opened once for all rows that a kernel makes of it one after the other."""
    from clad_lib.study.engine import open_study

    return open_study(config, runs=runs, device=device, progress=False)
