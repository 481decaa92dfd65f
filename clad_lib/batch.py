"""A study as a graph of notebook jobs on Dask: on this machine, or on any cluster whose scheduler is named."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, NamedTuple

from distributed import Client, as_completed
from tqdm import tqdm

from clad_lib import cluster, jobs
from clad_lib.jobs import Job, Outcome

_LOST = (CancelledError, asyncio.CancelledError, TimeoutError, OSError)


class BatchError(RuntimeError):
    """A batch that had to stop: why, what is kept, and what to do."""


class Report(NamedTuple):
    """The outcomes of a batch by key, and how long it took in seconds."""

    outcomes: dict[str, Outcome]
    seconds: float

    def count(self, status: str) -> int:
        """How many jobs ended like this."""
        return sum(outcome.status == status for outcome in self.outcomes.values())


def run_batch(
    planned: Sequence[Job], *, name: str, workers: int = 0, scheduler: str = "", device: str = "auto", retry_failed: bool = False,
    progress: bool = True, patience: float = 300, work: Callable[[Job, str], Outcome] = jobs.execute,
) -> Report:  # fmt: skip
    """Execute the jobs that are not done, each after those that it needs; every outcome goes into runs/batches/<name>.jsonl.

    Jobs that failed before stay failed unless `retry_failed`. `scheduler` is the address of a running Dask cluster; when
    it goes away it is looked for again during `patience` seconds. Without it a cluster of `workers` processes starts
    here, each with its share of the cores. BatchError when the cluster is lost for good or no space is left.
    """
    started = time.monotonic()
    outcomes = {job.key: _known(job, retry_failed) for job in planned}
    found = {key: outcome for key, outcome in outcomes.items() if outcome is not None}
    journal = planned[0].run.root / "batches" / f"{name}.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True)
    jobs.sweep_drafts(planned[0].run.root)
    with tqdm(total=len(planned), initial=len(found), unit="job", desc=name, disable=not progress) as bar:
        state = _State(planned, found, journal, bar, device, workers or cluster.default_workers(device), work)
        lost = None  # when the cluster was seen to be gone
        while state.pending():
            try:
                with cluster.connect(scheduler, state.workers, device) as client:
                    lost = None
                    _drive(client, state)
            except _LOST as error:
                lost = lost or time.monotonic()
                if not scheduler or time.monotonic() - lost >= patience:
                    where = scheduler or "the local cluster"
                    raise BatchError(f"{where} cannot be reached ({type(error).__name__}); finished jobs are kept: start the cluster, "  # noqa: E501
                                     "then give the same command again") from error  # fmt: skip
                bar.set_postfix_str(f"waiting for {scheduler}")
                time.sleep(1)
    return Report(found, time.monotonic() - started)


def _known(job: Job, retry_failed: bool) -> Outcome | None:
    if jobs.is_done(job):
        return Outcome(job.key, "done")
    error = None if retry_failed else jobs.failure_of(job)
    return None if error is None else Outcome(job.key, "failed", 0.0, error)


class _State(NamedTuple):
    planned: Sequence[Job]
    found: dict[str, Outcome]
    journal: Path
    bar: tqdm
    device: str
    workers: int
    work: Callable[[Job, str], Outcome]

    def pending(self) -> list[Job]:
        return [job for job in self.planned if job.key not in self.found]


def _drive(client: Client, state: _State) -> None:
    """Submit what is pending as one graph and take the outcomes as they come."""
    token, futures = uuid.uuid4().hex[:6], dict[str, Any]()
    pending = {job.key: job for job in state.pending()}
    estimate = seconds_by_kind(state.journal.parent)
    for key, job in pending.items():
        before = [futures.get(need) or state.found[need] for need in job.needs]
        futures[key] = client.submit(
            _task, job, before, state.device, state.work, key=f"{token}-{key}", pure=False, resources=resources(job, state.device)
        )
    names = {future.key: key for key, future in futures.items()}
    for future in as_completed(futures.values()):
        job = pending[names[future.key]]
        if future.cancelled():
            raise CancelledError
        error = future.exception()
        outcome = future.result() if error is None else Outcome(job.key, "failed", 0.0, f"{type(error).__name__}: {error}")
        if outcome.status == "full":
            raise BatchError(
                f"{job.title}: {outcome.error}; finished jobs are kept: free some space, then give the same command again"
            )
        if outcome.status == "interrupted":
            raise KeyboardInterrupt
        state.found[job.key] = outcome
        _write(state.journal, job, outcome)
        _show(state, client, estimate, job)


def _task(job: Job, before: Sequence[Outcome], device: str, work: Callable[[Job, str], Outcome]) -> Outcome:
    """What a worker does: nothing after a job that failed, else the job; it never raises, so that the rest goes on."""
    bad = [outcome.key for outcome in before if outcome.status != "done"]
    return Outcome(job.key, "blocked", 0.0, f"needs {bad[0]}") if bad else work(job, device)


def resources(job: Job, device: str) -> dict[str, float] | None:
    """One unit of the worker resource GPU for a job that computes on CUDA; a worker with GPU=2 runs two of them."""
    wants = device.startswith("cuda") and job.makes[0] not in jobs.ON_CPU
    return {"GPU": 1} if wants else None


def _show(state: _State, client: Client, estimate: dict[tuple, float], last: Job) -> None:
    failed = sum(outcome.status == "failed" for outcome in state.found.values())
    running = min(len(state.pending()), sum(client.nthreads().values()))
    left = time_left(state.pending(), estimate | seconds_by_kind(state.journal.parent), running)
    about = f", about {left / 60:.0f} min left" if left else ""
    state.bar.set_postfix_str(f"{running} running, {failed} failed{about}; last {last.title}")
    state.bar.update()


def _write(journal: Path, job: Job, outcome: Outcome) -> None:
    config = job.run.config
    row = {"key": job.key, "title": job.title, "kind": _kind(job), "dataset": config.dataset, "profile": config.profile,
           "status": outcome.status, "seconds": round(outcome.seconds, 2), "error": outcome.error[:500], "time": time.time()}  # fmt: skip  # noqa: E501
    try:
        with journal.open("a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise BatchError(f"cannot write the journal {journal}: {error.strerror}; finished jobs are kept: free some space, then "
                         "give the same command again") from error  # fmt: skip


def _kind(job: Job) -> str:
    return job.makes[0] if job.notebook.startswith("06") else job.notebook


def seconds_by_kind(folder: Path) -> dict[tuple, float]:
    """Median seconds of finished jobs by (kind, data set, profile), from the journals of all batches in the folder."""
    seen: dict[tuple, list[float]] = {}
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the last line of a killed batch
            if row["status"] == "done" and row["seconds"] > 0:
                seen.setdefault((row["kind"], row["dataset"], row["profile"]), []).append(row["seconds"])
    return {kind: statistics.median(values) for kind, values in seen.items()}


def time_left(pending: Sequence[Job], seconds: Mapping[tuple, float], workers: int) -> float | None:
    """Seconds that the jobs will take side by side, from finished ones of their kind; None when no kind is known."""
    kinds = Counter((_kind(job), job.run.config.dataset, job.run.config.profile) for job in pending)
    known = {kind: count for kind, count in kinds.items() if kind in seconds}
    if not known:
        return None
    whole = sum(seconds[kind] * count for kind, count in known.items())
    return whole * sum(kinds.values()) / sum(known.values()) / max(workers, 1)


def _state_of(job: Job) -> str:
    if jobs.is_done(job):
        return "done"
    trained = all(job.run.has(name) for name in job.makes)
    return "failed" if jobs.failure_of(job) else "to do, trained already" if trained else "to do"


def overview(planned: Sequence[Job], workers: int) -> str:
    """The jobs, one a line with done, failed or to do, and an estimate of the time left."""
    states = {job.key: _state_of(job) for job in planned}
    left = [job for job in planned if states[job.key] != "done"]
    seconds = time_left(left, seconds_by_kind(planned[0].run.root / "batches"), workers)
    unknown = "nothing of this kind has finished yet: no estimate" if left else "nothing to do"
    about = unknown if seconds is None else f"about {seconds / 60:.1f} minutes"
    last = f"{len(planned)} jobs, {len(planned) - len(left)} done, {len(left)} left; {workers} workers: {about}"
    return "\n".join([*(f"{states[job.key]:<22} {job.title}" for job in planned), last])
