"""The engine of batches: order, journal, failures, lost clusters. Real kernels and kills are slow."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from clad_lib.config import make_config
from clad_lib.study import batch, cluster, jobs
from clad_lib.study.jobs import Outcome
from clad_lib.study.stages import Places, needed, rows
from clad_lib.study.store import RECORD

METHODS = ("ODIN", "MSP", "OCSVM", "OCNN")


def planned_for(root, *, seed=0, methods=METHODS):
    places = Places(Path(root), make_config("digits", "CUR", profile="smoke", seed=seed), "data")
    stems = sorted({rows()[name].shown_in for name in needed(methods) if name != "copies"})
    return list(jobs.graph(places, methods, stems))


def finish_artefact(job):
    """What a job leaves: a finished row, or an executed notebook."""
    path = job.places.root / job.key
    path = path / RECORD if job.shows is None else path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")


def work(job, device, kernel):
    """A fake job: it writes down that it ran, and fails where a file says so."""
    root = job.places.root
    with (root / "ran.txt").open("a", encoding="utf-8") as file:
        file.write(f"{job.step}\n")
    if (root / f"{job.step}.full").exists():
        return Outcome(job.key, "full", 0.0, "OSError: No space left on device")
    if (root / f"{job.step}.raises").exists():
        raise LookupError("told to")
    if (root / f"{job.step}.refuses").exists():
        return jobs._failed(job, root / "none", "NotApplicable: 3 images", 0.1)
    if (root / f"{job.step}.fails").exists():
        return jobs._failed(job, root / "none", "ValueError: told to fail", 0.1)
    finish_artefact(job)
    return Outcome(job.key, "done", 0.25)


def ran(root):
    return (root / "ran.txt").read_text(encoding="utf-8").split()


@pytest.fixture(autouse=True)
def faked(request, monkeypatch):
    """Local workers are threads of this process: they do fake jobs, but for the slow tests."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(jobs, "execute", work)


def run(planned, *, name="s", workers=2, **options):
    return batch.run_batch(planned, name=name, workers=workers, device="cpu", **options)


def journal(root, name="*"):
    lines = [path.read_text(encoding="utf-8") for path in (root / "batches").glob(f"{name}.jsonl")]
    return [json.loads(line) for text in lines for line in text.splitlines()]


def test_every_job_runs_once_after_those_that_it_needs(tmp_path):
    planned = planned_for(tmp_path)
    report = run(planned)
    order = ran(tmp_path)
    assert report.count("done") == len(planned) == len(order) == len(set(order))
    steps = {job.key: job.step for job in planned}
    for job in planned:
        assert all(order.index(steps[need]) < order.index(job.step) for need in job.needs)
    assert [row["status"] for row in journal(tmp_path)] == ["done"] * len(planned)
    assert [path.name for path in report.executed] == [
        Path(job.key).name for job in planned if job.shows is not None
    ]
    assert report.lacking == {}


def test_what_is_done_is_found_again_and_only_the_rest_runs(tmp_path):
    planned = planned_for(tmp_path)
    for job in planned[:4]:
        finish_artefact(job)
    said = []
    report = run(planned, say=said.append)
    assert sorted(ran(tmp_path)) == sorted(job.step for job in planned[4:])
    assert len(said) == len(planned) - 4
    assert all(line.startswith("done ") and "\r" not in line for line in said)
    assert run(planned).count("done") == report.count("done") == len(planned)
    assert len(ran(tmp_path)) == len(planned) - 4


def test_what_stands_on_a_failure_is_blocked_and_the_rest_goes_on(tmp_path):
    (tmp_path / "classifier.fails").touch()
    planned = planned_for(tmp_path)
    report = run(planned)
    ended = {job.step: outcome.status for job, outcome in report.ended}
    assert ended["classifier"] == "failed"
    blocked = ("ODIN", "outputs", "MSP", "odin_grid", "04_classifier", "05_odin_scoring")
    assert {ended[name] for name in blocked} == {"blocked"}
    assert {ended[name] for name in set(ended) - {*blocked, "classifier"}} == {"done"}
    assert report.lacking["ODIN"].startswith("needs digits/CUR/classifier-")
    told = batch.in_words("T", report)
    assert f"{report.count('done')} done, 1 failed, " in told[0]
    assert "ValueError: told to fail" in told[1]
    assert "--retry-failed" in told[-1]


def test_a_failure_stays_until_it_is_retried(tmp_path):
    (tmp_path / "OCSVM.fails").touch()
    planned = planned_for(tmp_path)
    assert run(planned).count("failed") == 1
    (tmp_path / "OCSVM.fails").unlink()
    again = run(planned)
    assert again.lacking == {"OCSVM": "ValueError: told to fail"}
    assert ran(tmp_path).count("OCSVM") == 1
    report = run(planned, retry_failed=True)
    assert report.count("done") == len(planned)
    assert ran(tmp_path).count("OCSVM") == 2


def test_a_method_that_does_not_apply_is_no_failure(tmp_path):
    """One row that cannot run ends nothing: its outcome, kept, says why."""
    (tmp_path / "simulations.refuses").touch()
    (tmp_path / "SVDD.refuses").touch()
    planned = planned_for(tmp_path, methods=("Selected", "MSP", "SVDD"))
    report = run(planned)
    ended = {job.step: outcome for job, outcome in report.ended}
    assert ended["simulations"].status == ended["Selected"].status == "refused"
    assert ended["simulations"].error == "NotApplicable: 3 images"
    assert ended["MSP"].status == ended["05_odin_scoring"].status == "done"
    assert ended["06_baselines"].status == "refused"  # it has nothing to show
    assert report.count("failed", "blocked") == 0
    assert run(planned).lacking == report.lacking
    assert ran(tmp_path).count("simulations") == 1
    assert not any("--retry-failed" in line for line in batch.in_words("T", report))


def test_a_worker_that_raises_is_a_failed_job(tmp_path):
    (tmp_path / "OCSVM.raises").touch()
    report = run(planned_for(tmp_path))
    assert report.lacking["OCSVM"] == "LookupError: told to"
    assert set(report.lacking) == {"OCSVM", "06_baselines"}


def test_a_full_disk_stops_the_batch_with_nothing_marked_as_failed(tmp_path):
    (tmp_path / "clusters.full").touch()
    planned = planned_for(tmp_path)
    with pytest.raises(
        batch.BatchError, match=r"clusters: OSError: No space left.*free some space"
    ):
        run(planned)
    assert not (tmp_path / "failures").exists()
    (tmp_path / "clusters.full").unlink()
    assert run(planned).count("done") == len(planned)
    assert ran(tmp_path).count("autoencoder") == 1


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "batches").write_text("in the way", encoding="utf-8")
    with pytest.raises(
        batch.BatchError, match=r"batches.*free some space.*same command"
    ) as stopped:
        run(planned_for(tmp_path))
    assert len(str(stopped.value).splitlines()) == 1


def test_two_batches_at_once_compute_each_job_once(tmp_path):
    """The second waits for the lock of a job that the first is doing, and finds it done."""
    planned = planned_for(tmp_path)
    job = planned[0]
    lock = tmp_path / ".locks" / f"{jobs.short_hash(job.key)}.lock"
    lock.parent.mkdir()
    with jobs.FileLock(lock):
        second = subprocess.Popen(
            [sys.executable, "-c", WAITING, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        time.sleep(3)
        assert second.poll() is None
        finish_artefact(job)
    said, _ = second.communicate(timeout=300)
    assert said.strip() == f"Outcome(key='{job.key}', status='done', seconds=0.0, error='')"


WAITING = """
import sys
sys.path.insert(0, "tests/study")
from test_batch import planned_for
from clad_lib.study.jobs import execute
print(execute(planned_for(sys.argv[1])[0], "cpu", None))
"""


def test_earlier_configurations_come_first_and_what_most_wait_for(tmp_path):
    first, second = planned_for(tmp_path, seed=0), planned_for(tmp_path, seed=1)
    run([*second, *first], workers=1)
    order = [row["key"] for row in journal(tmp_path)]
    places = {job.key: order.index(job.key) for job in (*first, *second)}
    ahead = [places[a.key] < places[b.key] for a, b in zip(second, first, strict=True)]
    assert sum(ahead) >= 0.75 * len(ahead)  # a worker does another job while it waits for the next
    steps = [Path(key).parts[2].rpartition("-")[0] for key in order if key.endswith("seed1")]
    assert steps.index("clusters") < steps.index("OCNN")  # one follower more than none


def test_the_dry_run_estimates_from_finished_jobs(tmp_path):
    planned = planned_for(tmp_path)
    told = batch.overview(planned, 2)
    assert "no estimate" in told
    assert not (tmp_path / "batches").exists()
    run(planned)
    folder, other = tmp_path / "batches", planned_for(tmp_path, seed=1)
    total = 0.25 * len(planned)
    assert batch.time_left(other, folder, 1) == pytest.approx(total)
    assert batch.time_left(other, folder, 2) == pytest.approx(total / 2)
    assert f"{len(planned)} jobs, {len(planned)} done, 0 left" in batch.overview(planned, 2)
    assert f"2 workers: about {total / 120:.1f} minutes" in batch.overview(other, 2)
    more = [other[0]._replace(step="unknown"), *other]
    expected = total / len(planned) * len(more)
    assert batch.time_left(more, folder, 1) == pytest.approx(expected)


def test_a_journal_that_a_kill_cut_off_is_read_up_to_there(tmp_path):
    planned = planned_for(tmp_path)
    run(planned)
    path = tmp_path / "batches" / "s.jsonl"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-20], encoding="utf-8")
    last = json.loads(whole.splitlines()[-1])["key"]
    cut = next(job for job in planned if job.key == last)
    assert batch.time_left([cut], path.parent, 1) is None
    whole_ones = [job for job in planned if job is not cut]
    assert batch.time_left(whole_ones, path.parent, 1) == pytest.approx(0.25 * len(whole_ones))


def test_gpu_jobs_ask_for_the_resource(tmp_path):
    wants = {job.step: batch.resources(job, "cuda") for job in planned_for(tmp_path)}
    assert {name for name, wanted in wants.items() if wanted is None} == {"copies", "OCSVM"}
    assert wants["autoencoder"] == wants["OCNN"] == wants["06_baselines"] == {"GPU": 1}
    assert all(batch.resources(job, "cpu") is None for job in planned_for(tmp_path))


def test_patience_counts_from_the_loss_of_the_scheduler(tmp_path, monkeypatch):
    """A batch that has run longer than its patience when the scheduler goes still waits."""
    planned = planned_for(tmp_path)
    clock, driven = [0.0], []

    def drive(client, pending, found, device, owner):
        driven.append(clock[0])
        clock[0] += 1000  # much longer than the patience
        if len(driven) < 3:
            raise OSError("the scheduler is gone")
        for job in pending:
            yield job, Outcome(job.key, "done")

    monkeypatch.setattr(batch, "_outcomes", drive)
    monkeypatch.setattr(batch.cluster, "connect", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(batch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(batch.time, "sleep", lambda seconds: None)
    report = run(planned, scheduler="tcp://127.0.0.1:1")
    assert report.count("done") == len(planned)
    assert len(driven) == 3


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT", 1)
    monkeypatch.setattr(batch, "PATIENCE", 0)
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(batch.BatchError, match="start the cluster, then give the same command"):
        run(planned_for(tmp_path), scheduler=address)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# From here on: the real command, real kernels and notebooks, and kills at any moment.

STUDY = """profile = "smoke"
seeds = [0]
methods = ["ODIN", "OCSVM", "SVDD", "OCNN"]
[scenarios]
digits = ["CUR"]
[overrides]
clusters = {clusters}
"""
ROWS = ("ODIN", "OCSVM", "SVDD", "OCNN")  # methods, each of which leaves scores
NOTEBOOKS = 5  # 02 to 06
JOBS = 10 + NOTEBOOKS  # copies, autoencoder, latent_map, clusters, classifier, odin_grid, methods


def command(root, *arguments, clusters=4):
    study = Path(root).parent / f"study{clusters}.toml"
    study.write_text(STUDY.format(clusters=clusters), encoding="utf-8")
    line = [sys.executable, "-m", "clad_lib", "batch", str(study), "--runs", str(root)]
    return [*line, "--device", "cpu", *arguments]


def start(line, **options):
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def finish(process, status=0):
    said, _ = process.communicate(timeout=400)
    assert process.returncode == status, said[-3000:]
    assert "Traceback" not in said
    return said


def measured(root):
    """method -> (scores, metrics but for memory), of every finished method in a runs folder."""
    found = {}
    for path in Path(root).glob("*/*/*/seed*/metrics.json"):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        metrics.pop("peak_memory_mb")
        name = path.parts[-3]
        assert name not in found
        found[name] = pd.read_parquet(path.with_name("scores.parquet")), metrics
    return found


def assert_same(root, reference):
    one, other = measured(root), measured(reference)
    assert set(one) == set(other)
    for name, (scores, metrics) in one.items():
        pd.testing.assert_frame_equal(scores, other[name][0])
        assert metrics == other[name][1]
    assert len(list(Path(root).glob("*/*/*/seed*/*.ipynb"))) == NOTEBOOKS


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    root = tmp_path_factory.mktemp("reference") / "runs"
    finish(start(command(root, "--workers", "2")))
    return root


@pytest.mark.slow
def test_everything_is_made_and_found_again(reference):
    made = {name.partition("-")[0] for name in measured(reference)}
    assert made == {*ROWS, "NearestImage"}  # by which notebook 05 compares two splits
    files = [path for path in reference.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files if "batches" not in path.parts}
    said = finish(start(command(reference)))
    assert f"{JOBS} done, 0 failed, 0 blocked" in said
    kept = {path: time for path, time in before.items() if path.name != "report.html"}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    said = finish(start(command(reference, "--dry-run")))
    assert f"{JOBS} jobs, {JOBS} done, 0 left" in said


@pytest.mark.slow
def test_a_row_that_raises_is_kept_and_the_rest_goes_on(tmp_path):
    line = command(tmp_path / "runs", "--workers", "2", clusters=5000)  # more than images
    said = finish(start(line), status=1)
    assert "6 done, 3 failed, 6 blocked" in said  # notebooks 02 and 06 ask for as many clusters
    kept = list((tmp_path / "runs" / "failures").rglob("clusters.ipynb"))
    assert len(kept) == 1
    assert "ValueError" in kept[0].read_text(encoding="utf-8")
    rows = journal(tmp_path / "runs")
    finish(start(line), status=1)  # not tried again unless asked
    again = [row["status"] for row in journal(tmp_path / "runs")[len(rows) :]]
    assert set(again) == {"blocked"}
    finish(start([*line, "--retry-failed"]), status=1)
    more = journal(tmp_path / "runs")[len(rows) + len(again) :]
    assert [row["status"] for row in more].count("failed") == 3


def kernels_of(process):
    below = psutil.Process(process.pid).children(recursive=True)
    return [each for each in below if "ipykernel_launcher" in " ".join(each.cmdline())]


def disturb(root, seed, kills):
    """Run a batch to its end while killing parts of it at random moments; the kinds of kills."""
    random, delivered, process = np.random.default_rng(seed), [], None
    while len(delivered) < kills:
        if process is None or process.poll() is not None:
            if process is not None and process.returncode == 0:
                break
            process = start(command(root, "--workers", "2"), start_new_session=True)
        kind = ("driver", "kernel")[(seed + len(delivered)) % 2]
        time.sleep(random.uniform(3, 25))
        try:
            found = kernels_of(process) if kind == "kernel" else [psutil.Process(process.pid)]
            if found and process.poll() is None:
                os.kill(found[int(random.integers(len(found)))].pid, signal.SIGKILL)
                delivered.append(kind)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
        if kind == "driver":
            process.communicate(timeout=60)
    if process.poll() is None:
        process.communicate(timeout=400)
    finish(start(command(root, "--workers", "2", "--retry-failed")))
    return delivered


@pytest.mark.slow
def test_kills_lose_nothing_and_double_nothing(reference, tmp_path):
    assert disturb(tmp_path / "runs", seed=0, kills=2) == ["driver", "kernel"]
    assert_same(tmp_path / "runs", reference)


@pytest.mark.slow
def test_twenty_kills_at_random_moments(reference, tmp_path):
    delivered, seed = [], 0
    while len(delivered) < 20:
        seed += 1
        root = tmp_path / str(seed) / "runs"
        root.parent.mkdir()
        delivered += disturb(root, seed, kills=20 - len(delivered))
        assert_same(root, reference)
    assert set(delivered) == {"driver", "kernel"}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupt_leaves_no_half_and_the_same_command_goes_on(reference, tmp_path):
    root = tmp_path / "runs"
    process = start(command(root, "--workers", "2"))
    deadline = time.monotonic() + 120
    while not list(root.glob("*/*/*/.seed*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not list(root.glob("*/*/*/.seed*"))
    assert not (root / "failures").exists()
    finish(start(command(root, "--workers", "2")))
    assert_same(root, reference)


@pytest.mark.slow
def test_two_commands_at_once_share_the_work(reference, tmp_path):
    pair = [start(command(tmp_path / "runs", "--workers", "1")) for _ in range(2)]
    for process in pair:
        assert f"{JOBS} done" in finish(process)
    assert_same(tmp_path / "runs", reference)
    computed = [row["key"] for row in journal(tmp_path / "runs") if row["seconds"] > 0]
    assert len(set(computed)) == len(computed) == JOBS


@pytest.mark.slow
def test_a_full_disk_stops_the_command_and_it_goes_on_later(reference, tmp_path):
    root = tmp_path / "small"
    root.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(root)]
    if subprocess.run(small, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        said = finish(start(command(root, "--workers", "1")), status=1)
        assert "free some space" in said
        assert not list(root.glob("*/*/*/.seed*"))
        assert not list((root / "failures").glob("*"))
        subprocess.run(["mount", "-o", "remount,size=1g", str(root)], check=True)
        finish(start(command(root, "--workers", "2")))
        assert_same(root, reference)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def running_cluster(port):
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    common, here = [sys.executable, "-m", "dask"], ["--no-dashboard"]
    scheduler = [*common, "scheduler", "--host", "127.0.0.1", "--port", str(port), *here]
    address = f"tcp://127.0.0.1:{port}"
    workers = [*common, "worker", address, "--nthreads", "1", "--nworkers", "2", *here]
    return [subprocess.Popen(line, **quiet) for line in (scheduler, workers)]


def stop(processes):
    for process in processes:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
        process.wait()


@pytest.mark.slow
def test_a_scheduler_that_goes_away_and_comes_back(reference, tmp_path):
    port = free_port()
    running = running_cluster(port)
    try:
        process = start(command(tmp_path / "runs", "--scheduler", f"tcp://127.0.0.1:{port}"))
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/*/*/seed*/config.json")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        stop(running)
        time.sleep(2)
        running = running_cluster(port)
        finish(process)
    finally:
        stop(running)
    assert_same(tmp_path / "runs", reference)
