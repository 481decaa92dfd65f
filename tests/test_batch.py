"""Batches with real worker processes and kernels: shared stages, failures kept apart, and kills at any moment."""

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

from clad_lib import batch, cluster, jobs
from clad_lib.methods import CLAD
from clad_lib.studies import read_study

STUDY = """profile = "smoke"
seeds = [0]
methods = ["ODIN", "OCSVM", "SVDD", "OCNN"]
[scenarios]
digits = ["CUR"]
[overrides]
clusters = {clusters}
"""
pytestmark = pytest.mark.slow  # real workers and kernels: minutes
JOBS = 7  # four notebooks of CLAD, three baselines


def command(root, *arguments, clusters=4):
    study = Path(root).parent / f"study{clusters}.toml"
    study.write_text(STUDY.format(clusters=clusters))
    return [sys.executable, "-m", "clad_lib", "batch", str(study), "--runs", str(root), "--device", "cpu", *arguments]


def start(line, **options):
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def finish(process, status=0):
    said, _ = process.communicate(timeout=400)
    assert process.returncode == status, said[-3000:]
    assert "Traceback" not in said
    return said


def measured(root):
    """method -> (scores, metrics but for memory), of every finished method in a runs folder; one folder a method."""
    found = {}
    for path in Path(root).glob("*/*/*/seed*/metrics.json"):
        metrics = json.loads(path.read_text())
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
    assert len(list(Path(root).glob("*/*/*/seed*/*.ipynb"))) == JOBS


def journal(root):
    return [json.loads(line) for path in (root / "batches").glob("*.jsonl") for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    root = tmp_path_factory.mktemp("reference") / "runs"
    finish(start(command(root, "--workers", "2")))
    return root


def test_shared_stages_are_planned_once(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(STUDY.format(clusters=4) + "[vary]\nclusters = [2, 3, 4]\n")
    study = read_study(path)
    planned = jobs.plan(study.configs, study.methods, tmp_path)
    count = {name: sum(job.notebook == name for job in planned) for name in jobs.STAGES_OF}
    assert count == {"02_latent_space": 1, "03_self_labelling": 3, "04_classifier": 3, "05_odin_scoring": 3}
    assert sum(job.notebook == "06_baselines" for job in planned) == 3
    keys = [job.key for job in planned]
    assert len(set(keys)) == len(keys)
    assert all(keys.index(need) < keys.index(job.key) for job in planned for need in job.needs)


def test_only_a_study_that_wants_a_chosen_score_trains_the_simulations(tmp_path):
    path = tmp_path / "s.toml"
    made = []
    for wanted in ('"ODIN"', '"ODIN", "Selected"'):
        path.write_text(STUDY.format(clusters=4).replace('"ODIN"', wanted))
        study = read_study(path)
        made.append({job.notebook: job.makes for job in jobs.plan(study.configs, study.methods, tmp_path)}["05_odin_scoring"])
    assert made == [CLAD, jobs.FROM_CLASSIFIER]


def test_methods_without_the_classifier_train_none(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(STUDY.format(clusters=4).replace('"ODIN", ', ""))
    study = read_study(path)
    planned = {job.makes[0]: job.needs for job in jobs.plan(study.configs, study.methods, tmp_path)}
    assert set(planned) == {"autoencoder", "OCSVM", "SVDD", "OCNN"}
    assert [len(planned[name]) for name in ("OCSVM", "SVDD", "OCNN")] == [0, 0, 1]


def test_everything_is_made_and_found_again(reference):
    assert {name.partition("-")[0] for name in measured(reference)} == {*CLAD, "OCSVM", "SVDD", "OCNN"}
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.is_file() and "batches" not in path.parts}
    said = finish(start(command(reference)))
    assert f"{JOBS} done, 0 failed, 0 blocked" in said
    assert {path: path.stat().st_mtime_ns for path in before} == before
    said = finish(start(command(reference, "--dry-run")))
    assert f"{JOBS} jobs, {JOBS} done, 0 left" in said


def test_the_dry_run_estimates_from_finished_jobs(reference, tmp_path):
    said = finish(start(command(tmp_path / "runs", "--dry-run")))
    assert "no estimate" in said
    assert not (tmp_path / "runs").exists()
    seconds = batch.seconds_by_kind(reference / "batches")
    study = read_study(reference.parent / "study4.toml")
    planned = jobs.plan(study.configs, study.methods, tmp_path)
    total = sum(row["seconds"] for row in journal(reference))
    assert batch.time_left(planned, seconds, 1) == pytest.approx(total)
    assert batch.time_left(planned, seconds, 2) == pytest.approx(total / 2)


def test_a_notebook_that_raises_is_kept_and_the_rest_goes_on(tmp_path):
    line = command(tmp_path / "runs", "--workers", "2", clusters=5000)  # more clusters than images
    said = finish(start(line), status=1)
    assert "4 done, 1 failed, 2 blocked" in said
    kept = list((tmp_path / "runs" / "failures").rglob("03_self_labelling-*.ipynb"))
    assert len(kept) == 1
    assert "ValueError" in kept[0].read_text()
    rows = journal(tmp_path / "runs")
    said = finish(start(line), status=1)  # not tried again unless asked
    assert [row["status"] for row in journal(tmp_path / "runs")[len(rows) :]] == ["blocked", "blocked"]
    finish(start([*line, "--retry-failed"]), status=1)
    assert [row["status"] for row in journal(tmp_path / "runs")[len(rows) + 2 :]].count("failed") == 1


def victims(process, kind):
    """The driver itself, its worker processes, or the kernels below them."""
    below = psutil.Process(process.pid).children(recursive=True)
    lines = {child: " ".join(child.cmdline()) for child in below if child.is_running()}
    if kind == "driver":
        return [psutil.Process(process.pid)]
    mark = "ipykernel_launcher" if kind == "kernel" else "spawn_main"
    return [child for child, line in lines.items() if mark in line and "resource_tracker" not in line]


def disturb(root, seed, kills):
    """Run a batch to its end while killing parts of it at random moments; how many kills of each kind were delivered."""
    random, delivered, process = np.random.default_rng(seed), [], None
    while len(delivered) < kills:
        if process is None or process.poll() is not None:
            if process is not None and process.returncode == 0:
                break
            process = start(command(root, "--workers", "2"), start_new_session=True)
        kind = ("driver", "worker", "kernel")[(seed + len(delivered)) % 3]
        time.sleep(random.uniform(3, 25))
        try:
            found = victims(process, kind)
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


def test_kills_lose_nothing_and_double_nothing(reference, tmp_path):
    assert disturb(tmp_path / "runs", seed=0, kills=3) == ["driver", "worker", "kernel"]
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
    assert set(delivered) == {"driver", "worker", "kernel"}


def test_two_batches_at_once_compute_each_job_once(reference, tmp_path):
    pair = [start(command(tmp_path / "runs", "--workers", "1")) for _ in range(2)]
    for process in pair:
        assert f"{JOBS} done" in finish(process)
    assert_same(tmp_path / "runs", reference)
    computed = [row["key"] for row in journal(tmp_path / "runs") if row["seconds"] > 0]
    assert len(set(computed)) == len(computed) == JOBS


def test_a_full_disk_stops_the_batch_and_the_same_command_goes_on(reference, tmp_path):
    root = tmp_path / "small"
    root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(root)], capture_output=True).returncode:
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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def running_cluster(port):
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    address = f"tcp://127.0.0.1:{port}"
    common = [sys.executable, "-m", "dask"]
    first = subprocess.Popen([*common, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], **quiet)
    second = subprocess.Popen([*common, "worker", address, "--nthreads", "1", "--nworkers", "2", "--no-dashboard"], **quiet)
    return first, second


def stop(processes):
    for process in processes:
        for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            each.kill()
        process.wait()


def test_a_scheduler_that_goes_away_and_comes_back(reference, tmp_path):
    port = free_port()
    running = running_cluster(port)
    try:
        process = start(command(tmp_path / "runs", "--scheduler", f"tcp://127.0.0.1:{port}"))
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/*/*/seed*/config.json")) and time.monotonic() < deadline:
            time.sleep(0.2)
        stop(running)
        time.sleep(2)
        running = running_cluster(port)
        finish(process)
    finally:
        stop(running)
    assert_same(tmp_path / "runs", reference)


def test_threads_are_shared_and_never_more_than_asked_for(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [cluster.threads_each(workers) for workers in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [cluster.threads_each(workers) for workers in (1, 2, 4)] == [3, 3, 2]


def test_gpu_jobs_ask_for_the_resource_and_workers_offer_it(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(STUDY.format(clusters=4))
    study = read_study(path)
    planned = jobs.plan(study.configs, study.methods, tmp_path)
    wants = {job.makes[0]: batch.resources(job, "cuda") for job in planned}
    assert wants["OCSVM"] is None and wants["SVDD"] is None  # noqa: PT018
    assert wants["autoencoder"] == wants["OCNN"] == {"GPU": 1}
    assert all(batch.resources(job, "cpu") is None for job in planned)
    seen = [spec["options"]["env"]["CUDA_VISIBLE_DEVICES"] for spec in cluster.gpu_workers(5, 2).values()]
    assert seen == ["0", "1", "0", "1", "0"]


def test_patience_counts_from_the_loss_of_the_scheduler(tmp_path, monkeypatch):
    """A batch that has run longer than its patience when the scheduler goes still waits as long as it promised."""
    path = tmp_path / "s.toml"
    path.write_text(STUDY.format(clusters=4))
    study = read_study(path)
    planned = jobs.plan(study.configs, study.methods, tmp_path / "runs")
    clock, driven = [0.0], []

    def drive(client, state):
        driven.append(clock[0])
        clock[0] += 1000  # much longer than the patience
        if len(driven) < 3:
            raise OSError("the scheduler is gone")
        state.found.update({job.key: jobs.Outcome(job.key, "done") for job in planned})

    monkeypatch.setattr(batch, "_drive", drive)
    monkeypatch.setattr(batch.cluster, "connect", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(batch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(batch.time, "sleep", lambda seconds: None)
    report = batch.run_batch(planned, name="s", scheduler="tcp://127.0.0.1:1", patience=300, progress=False)
    assert report.count("done") == len(planned)
    assert len(driven) == 3


def test_a_record_of_a_failure_that_was_cut_off_blocks_nothing(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(STUDY.format(clusters=4))
    study = read_study(path)
    job = jobs.plan(study.configs, study.methods, tmp_path / "runs")[0]
    job.failure.mkdir(parents=True)
    (job.failure / "error.json").write_text('{"error": "whole"}')
    assert jobs.failure_of(job) == "whole"
    (job.failure / "error.json").write_text("")
    assert jobs.failure_of(job) is None
    assert batch.overview([job], 1).startswith("to do")


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(STUDY.format(clusters=4))
    study = read_study(path)
    planned = jobs.plan(study.configs, study.methods, tmp_path / "runs")
    with pytest.raises(batch.BatchError, match="start the cluster, then give the same command again"):
        batch.run_batch(planned, name="s", scheduler=f"tcp://127.0.0.1:{free_port()}", patience=0, progress=False)
