"""The Dask cluster of a batch: started here with its share of cores and GPUs for each worker, or found by its address."""

from __future__ import annotations

import os
from typing import Any

import dask
import psutil
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster

MEMORY = 3e9  # bytes that one job may need, to choose a number of workers


def default_workers(device: str = "auto") -> int:
    """One worker a GPU; without one, as many as cores, but no more than the memory holds."""
    gpus = _gpus(device)
    return gpus or max(1, min(os.cpu_count() or 1, int(psutil.virtual_memory().total / MEMORY)))


def connect(scheduler: str, workers: int, device: str) -> Client:
    """A client of the scheduler at that address, or of a cluster of `workers` processes that starts here and ends with it."""
    if scheduler:
        return Client(scheduler, timeout=10)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    capped: dict[str, Any] = {"distributed.nanny.pre-spawn-environ": dict.fromkeys(names, threads_each(workers))}
    dask.config.set(capped)
    local: dict[str, Any] = dict(host="127.0.0.1", dashboard_address="127.0.0.1:0")
    if gpus := _gpus(device):
        found: Any = SpecCluster(scheduler={"cls": Scheduler, "options": local}, workers=gpu_workers(workers, gpus))
    else:
        found = LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=0, **local)
    return _Owning(found)


def _gpus(device: str) -> int:
    if device == "cpu":
        return 0
    import torch  # here: workers need none

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def threads_each(workers: int) -> int:
    """Threads of a worker's kernels: its share of the cores, or OMP_NUM_THREADS where that is set and less.

    Another number of threads adds in another order: for the same bits on another machine set OMP_NUM_THREADS.
    """
    share, asked = max(1, (os.cpu_count() or 1) // workers), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdigit() and int(asked) else share


def gpu_workers(workers: int, gpus: int) -> dict[str, dict[str, Any]]:
    """Dask's worker specifications: `workers` processes spread over the GPUs, each of which sees one GPU alone."""
    options = [dict(nthreads=1, resources={"GPU": 1}, memory_limit=0, host="127.0.0.1",
                    env={"CUDA_VISIBLE_DEVICES": str(number % gpus)}) for number in range(workers)]  # fmt: skip
    return {f"gpu-{number}": {"cls": Nanny, "options": each} for number, each in enumerate(options)}


class _Owning(Client):
    """A client that closes its own cluster when it is closed."""

    def __init__(self, cluster: Any):
        super().__init__(cluster)
        self._owned = cluster

    def __exit__(self, *reason: Any) -> Any:
        try:
            return super().__exit__(*reason)
        finally:
            self._owned.close()
