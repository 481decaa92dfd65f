"""Many jobs as one graph on Dask: on this machine, or on any cluster whose scheduler is named."""

import asyncio
import json
import statistics
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, NamedTuple

from distributed import Client, as_completed, get_worker
from tqdm import tqdm

from clad_lib.study import cluster, jobs
from clad_lib.study.jobs import Job, Outcome
from clad_lib.study.stages import rows
from clad_lib.study.store import cannot_write

ON_CPU = (".kernel", ".nearest", ".copies")  # modules of rows that never ask for a GPU
PATIENCE = 300  # seconds in which a cluster that has gone away may come back


class BatchError(RuntimeError):
    """A batch that had to stop: why, what is kept, and what to do."""


class Report(NamedTuple):
    """Every job with its outcome, and how long all took in seconds."""

    ended: list[tuple[Job, Outcome]]
    seconds: float

    def count(self, *states: str) -> int:
        """How many jobs ended like this."""
        return sum(outcome.status in states for _, outcome in self.ended)

    @property
    def executed(self) -> list[Path]:
        """The executed notebooks."""
        return [
            job.places.root / job.key
            for job, outcome in self.ended
            if outcome.status == "done" and job.shows is not None
        ]

    @property
    def lacking(self) -> dict[str, str]:
        """What was not made, a row or a notebook, and why."""
        return {job.step: outcome.error for job, outcome in self.ended if outcome.status != "done"}


def run_batch(
    planned: Sequence[Job],
    *,
    name: str,
    workers: int = 0,
    scheduler: str = "",
    device: str = "auto",
    retry_failed: bool = False,
    say: Callable[[str], Any] = str,
) -> Report:
    """Execute the jobs that are not done, each after those that it needs.

    Every outcome is a line of runs/batches/<name>.jsonl, and of `say`. Jobs that failed before stay
    failed unless `retry_failed`. `scheduler` is the address of a running Dask cluster; when it goes
    away it is looked for again during PATIENCE seconds. Without it `workers` start here. Raises
    BatchError when the cluster is lost for good or no space is left.
    """
    started, owner = time.monotonic(), uuid.uuid4().hex  # the owner of the kernels of workers
    lost = 0.0  # when the cluster was seen to be gone
    found = {job.key: outcome for job in planned if (outcome := _known(job, retry_failed))}
    journal = planned[0].places.root / "batches" / f"{name}.jsonl"
    count = workers or cluster.default_workers(device)
    with tqdm(total=len(planned), initial=len(found), unit="job", disable=None) as bar:
        while pending := [job for job in planned if job.key not in found]:
            try:
                with cluster.connect(scheduler, count, owner) as client:
                    lost = 0.0
                    for job, outcome in _outcomes(client, pending, found, device, owner):
                        found[job.key] = outcome
                        say(_write(journal, job, outcome))
                        bar.set_postfix_str(job.title)
                        bar.update()
            except (CancelledError, asyncio.CancelledError, *cluster.LOST) as error:
                lost = lost or time.monotonic()
                if not scheduler or time.monotonic() - lost >= PATIENCE:
                    gone = f"{scheduler or 'the cluster'} cannot be reached: {type(error).__name__}"
                    raise _stopped(gone, "start the cluster") from error
                bar.set_postfix_str(f"waiting for {scheduler}")
                time.sleep(1)
    return Report([(job, found[job.key]) for job in planned], time.monotonic() - started)


def _known(job: Job, retry_failed: bool) -> Outcome | None:
    if jobs.is_done(job):
        return Outcome(job.key, "done")
    return None if retry_failed else jobs.failure_of(job)


def _stopped(why: str, cure: str) -> BatchError:
    return BatchError(f"{why}; finished jobs are kept: {cure}, then give the same command again")


def _outcomes(
    client: Client,
    pending: Sequence[Job],
    found: Mapping[str, Outcome],
    device: str,
    owner: str,
) -> Iterator[tuple[Job, Outcome]]:
    """Submit what is pending as one graph; its jobs with their outcomes as they end.

    Earlier configurations come first, and within one the jobs for which most others wait.
    """
    token, futures = uuid.uuid4().hex[:6], dict[str, Any]()
    places = list(dict.fromkeys(job.places for job in pending))
    waiting = Counter(need for job in pending for need in job.needs)
    for job in pending:
        futures[job.key] = client.submit(
            _task,
            job,
            [futures.get(need) or found[need] for need in job.needs],
            device,
            owner,
            key=f"{token}-{job.key}",
            pure=False,
            priority=waiting[job.key] - 1000 * places.index(job.places),
            resources=resources(job, device),
        )
    names = {futures[job.key].key: job for job in pending}
    for future in as_completed(futures.values()):
        job = names[future.key]
        if future.cancelled():
            raise CancelledError
        error = future.exception()
        failed = Outcome(job.key, "failed", 0.0, f"{type(error).__name__}: {error}")
        outcome = future.result() if error is None else failed
        if outcome.status == "full":
            raise _stopped(f"{job.title}: {outcome.error}", "free some space")
        if outcome.status == "interrupted":
            raise KeyboardInterrupt
        yield job, outcome


def _task(job: Job, before: Sequence[Outcome], device: str, owner: str) -> Outcome:
    """What a worker does: no row that stands on one that failed; a notebook shows what there is."""
    bad = [outcome for outcome in before if outcome.status != "done"]
    if bad and job.shows != () and not jobs.shown(job):
        refused = all(outcome.status == "refused" for outcome in bad)
        return Outcome(job.key, "refused" if refused else "blocked", 0.0, f"needs {bad[0].key}")
    return jobs.execute(job, device, cluster.kernel_of(get_worker(), owner, device))


def resources(job: Job, device: str) -> dict[str, float] | None:
    """One unit of the worker resource GPU for a job on CUDA; a worker with GPU=2 runs two."""
    function = getattr(rows().get(job.step), "function", "")
    module = str(getattr(function, "__module__", function)).partition(":")[0]
    return {"GPU": 1} if device.startswith("cuda") and not module.endswith(ON_CPU) else None


def _write(journal: Path, job: Job, outcome: Outcome) -> str:
    """Add an outcome to the journal; returns its line for the reader."""
    row = outcome._asdict() | {"kind": kind_of(job), "title": job.title, "time": time.time()}
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise _stopped(str(cannot_write(journal, error)), "free some space") from error
    end = f"{outcome.seconds:.1f} s" if outcome.status == "done" else outcome.error
    return f"{outcome.status:<8} {job.title}: {end}"


def kind_of(job: Job) -> tuple[str, ...]:
    """Jobs of one kind take about as long: step, data set, profile."""
    return job.step, job.places.config.dataset, job.places.config.profile


def time_left(pending: Sequence[Job], journals: Path, workers: int) -> float | None:
    """Seconds that the jobs take side by side, from finished ones of their kind; None if unknown.

    The journals of all batches in a folder tell. Jobs of an unknown kind are taken to last as long
    as the others do on average.
    """
    seen = defaultdict[tuple[str, ...], list[float]](list)
    for path in journals.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line) if line.endswith("}") else {}  # cut off when it was killed
            if row.get("seconds") and row["status"] == "done":
                seen[tuple(row["kind"])].append(row["seconds"])
    known = [statistics.median(seen[kind_of(job)]) for job in pending if kind_of(job) in seen]
    return len(pending) * statistics.mean(known) / max(workers, 1) if known else None


def overview(planned: Sequence[Job], workers: int) -> str:
    """The jobs, one a line with done, failed or to do, and an estimate of the time left."""
    states = {job: (_known(job, False) or Outcome(job.key, "to do")).status for job in planned}
    left = [job for job, state in states.items() if state != "done"]
    seconds = time_left(left, planned[0].places.root / "batches", workers)
    unknown = "nothing of this kind has finished yet: no estimate" if left else "nothing to do"
    about = unknown if seconds is None else f"about {seconds / 60:.1f} minutes"
    count = f"{len(planned)} jobs, {len(planned) - len(left)} done, {len(left)} left"
    lines = [f"{state:<8} {job.title}" for job, state in states.items()]
    return "\n".join([*lines, f"{count}; {workers} workers: {about}"])


def in_words(title: str, report: Report) -> list[str]:
    """How a batch ended, and each job that failed with its error and its folder."""
    counts = ", ".join(f"{report.count(s)} {s}" for s in ("done", "failed", "blocked", "refused"))
    lines = [f"{title}: {counts} in {report.seconds:.0f} s"]
    for job, outcome in report.ended:
        if outcome.status in ("failed", "refused") and job.failure.is_dir():
            lines.append(f"{outcome.status}: {job.title}: {outcome.error}\n  {job.failure}")
    again = "look at the notebooks in those folders, then give the command with --retry-failed"
    return [*lines, again] if report.count("failed", "blocked") else lines
