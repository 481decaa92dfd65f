"""The local cluster: workers, the threads and GPUs of their kernels, and who closes what."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, get_ident
from types import SimpleNamespace

import psutil
import pytest
from distributed import as_completed, get_worker

from clad_lib.study import cluster


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "notebook_folder", lambda: tmp_path)
    return tmp_path


def worker(name, address="inproc://here"):
    return SimpleNamespace(name=name, address=address)


@pytest.mark.parametrize(
    ("cores", "gigabytes", "gpus", "expected"),
    [(2, 64, [], 2), (16, 8, [], 2), (1, 1, [], 1), (None, 64, [], 1), (16, 64, ["0", "1"], 2)],
)
def test_a_worker_a_core_or_a_gpu_as_far_as_the_memory_goes(
    cores, gigabytes, gpus, expected, monkeypatch
):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=gigabytes * 1e9))
    monkeypatch.setattr(cluster, "gpus", lambda device: gpus)
    assert cluster.default_workers("auto") == expected


@pytest.mark.parametrize(
    ("device", "count", "visible", "expected"),
    [
        ("cpu", 2, None, []),
        ("mps", 2, None, []),
        ("auto", 0, None, []),
        ("auto", 2, None, ["0", "1"]),
        ("cuda", 2, "3,5", ["3", "5"]),
    ],
)
def test_gpus_are_those_that_this_process_may_use(device, count, visible, expected, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cluster.gpus(device) == expected


def test_each_local_kernel_sees_one_gpu_alone(folder, monkeypatch):
    monkeypatch.setattr(cluster, "gpus", lambda device: ["3", "5"])
    here, all_there = worker(0), Barrier(3)

    def of_a_thread(_):
        all_there.wait(10)
        return cluster.kernel_of(here, "me", "cuda").environment["CUDA_VISIBLE_DEVICES"]

    with ThreadPoolExecutor(3) as threads:
        assert sorted(threads.map(of_a_thread, range(3))) == ["3", "3", "5"]
    others = worker("tcp-1", "tcp://10.0.0.1:1234")  # whoever started it has chosen its GPUs
    assert cluster.kernel_of(others, "me", "cuda").environment == {}


def test_a_worker_keeps_its_kernel_and_closes_that_of_its_owner_alone(folder):
    one = worker(0)
    mine, yours = cluster.kernel_of(one, "me", "cpu"), cluster.kernel_of(one, "you", "cpu")
    assert mine is cluster.kernel_of(one, "me", "cpu")
    assert mine is not yours
    cluster.close_kernels("me", one)
    assert (mine.closed, yours.closed) == (True, False)
    assert cluster.kernel_of(one, "me", "cpu") is not mine
    cluster.close_kernels("me", worker(1))  # it never had one


def where_am_i(number):
    time.sleep(0.05)  # so that no thread does all
    return number, get_ident(), id(cluster.kernel_of(get_worker(), "me", "cpu"))


def test_local_workers_listen_on_loopback_alone_and_offer_a_gpu(folder):
    process = psutil.Process()
    before = {each.laddr for each in process.net_connections() if each.status == "LISTEN"}
    with cluster.connect("", 2, "me") as client:
        found = client.gather(
            [client.submit(where_am_i, n, resources={"GPU": 1}) for n in range(8)]
        )
        after = {each.laddr for each in process.net_connections() if each.status == "LISTEN"}
        assert list(client.nthreads().values()) == [2]
        assert client.dashboard_link.startswith("http://")
    assert {address.ip for address in after - before} <= {"127.0.0.1"}
    assert sorted(number for number, _, _ in found) == list(range(8))
    kernels = {(thread, kernel) for _, thread, kernel in found}
    assert len(kernels) == len({t for t, _ in kernels}) == len({k for _, k in kernels}) == 2


def at(number, seconds, *_needed):
    time.sleep(seconds)
    return number


OTHERS = Event()  # workers of a local cluster are threads of this process
STARTED: list[int] = []


def urgent(number, *_needed):
    """The most urgent job waits for the least urgent one, which the other worker does last."""
    STARTED.append(number)
    if number == 19:
        assert OTHERS.wait(60)
    if number == 0:
        OTHERS.set()
    return number


def test_the_most_urgent_job_is_next_whichever_worker_is_free(folder):
    OTHERS.clear()
    STARTED.clear()
    with cluster.connect("", 2, "me") as client:
        first, other = (client.submit(at, n, 0.3, pure=False) for n in range(2))
        waiting = [
            client.submit(urgent, n, first, other, priority=n, pure=False) for n in range(20)
        ]  # while one worker is busy with the most urgent job, the other does the rest in order
        done = [future.result() for future in as_completed(waiting)]
    assert 19 in STARTED[:2]  # the two workers take a job each, at the same time
    done.remove(19)  # it ends with the last of the others
    assert done == [*range(18, -1, -1)]


class Stopped:
    """A kernel that only says whether it was closed."""

    made: list = []  # noqa: RUF012

    def __init__(self, *given):
        self.closed = False
        self.made.append(self)

    def close(self):
        self.closed = True


def fail_within():
    with cluster.connect("", 1, "me") as client:
        client.submit(cluster_kernel, "me").result()
        raise KeyboardInterrupt


def cluster_kernel(owner):
    return cluster.kernel_of(get_worker(), owner, "cpu").closed


def test_kernels_are_closed_when_the_block_ends_even_in_an_error(folder, monkeypatch):
    monkeypatch.setattr(cluster, "Kernel", Stopped)
    with pytest.raises(KeyboardInterrupt):
        fail_within()
    assert [each.closed for each in Stopped.made] == [True]
