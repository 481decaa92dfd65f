"""The Dask cluster of a batch: started here, one kernel a core or a GPU, or found by address."""

import itertools
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from distributed import Client
from distributed.utils import silence_logging_cmgr

from clad_lib.study.notebooks import Kernel, notebook_folder

MEMORY = 3e9  # bytes that one job may need
TIMEOUT = 10  # seconds in which a scheduler must answer
LOST = (TimeoutError, OSError)  # how a scheduler that has gone away shows


def default_workers(device: str = "auto") -> int:
    """One worker a GPU; without one, as many as cores, but no more than the memory holds."""
    import psutil

    most = min(os.cpu_count() or 1, psutil.virtual_memory().total // MEMORY)
    return len(gpus(device)) or int(most) or 1


def gpus(device: str) -> list[str]:
    """The CUDA devices that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    if device in ("cpu", "mps"):
        return []
    import torch  # here: workers that look for finished jobs need none

    every = [str(number) for number in range(torch.cuda.device_count())]
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(every)).split(",") if every else []


@contextmanager
def connect(scheduler: str, workers: int, owner: str) -> Iterator[Client]:
    """A client of the scheduler at that address, or of `workers` that start here and end with it.

    A worker waits for its kernel, which is a process of its own: local workers are threads of one
    worker of Dask, which takes the most urgent job next, whichever of them is free. At the end the
    owner's kernels are closed; what they were making is interrupted and leaves no draft.
    """
    options: Any = (
        dict(address=scheduler, timeout=TIMEOUT)
        if scheduler
        else dict(
            processes=False,
            n_workers=1,
            threads_per_worker=workers,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=0,
            resources={"GPU": workers},
        )
    )
    with silence_logging_cmgr(logging.CRITICAL), Client(**options) as client:
        try:
            yield client
        finally:
            with suppress(*LOST):
                client.run(close_kernels, owner)


def kernel_of(worker: Any, owner: str, device: str) -> Kernel:
    """The kernel of this thread of a Dask worker, for all jobs of one owner, one after the other.

    A local kernel sees one GPU alone.
    """
    kernels, numbers = vars(worker).setdefault("clad_kernels", ({}, itertools.count()))
    place = (owner, threading.get_ident())
    if place not in kernels:
        seen = gpus(device) if worker.address.startswith("inproc") else []
        one = {"CUDA_VISIBLE_DEVICES": seen[next(numbers) % len(seen)]} if seen else {}
        kernels[place] = Kernel(notebook_folder(), one)
    return kernels[place]


def close_kernels(owner: str, dask_worker: Any) -> None:
    """End the kernels that a Dask worker holds for this owner."""
    kernels, _ = vars(dask_worker).get("clad_kernels", ({}, None))
    for place in [place for place in kernels if place[0] == owner]:
        kernels.pop(place).close()
