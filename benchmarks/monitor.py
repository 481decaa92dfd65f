"""What the training monitor costs: the same training with and without it, alternating in one Jupyter kernel, in medians.

The kernel is a real one, so that messages are packed and sent as they are under JupyterLab; they are counted as they arrive.
"""

from __future__ import annotations

import dataclasses
import json
import queue
import statistics
import sys
import tempfile
import time

from jupyter_client.manager import KernelManager

from clad_lib import pipeline
from clad_lib.config import make_config
from clad_lib.widgets.monitor import TrainingMonitor

ROUNDS, STEPS = 15, 300  # STEPS optimiser steps are what the fast profile trains on the digits


def alternate(rounds: int, steps: int) -> None:
    """In the kernel: train the digits' autoencoder without and with a monitor, and print both lists of seconds as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        study = pipeline.open_study(make_config(min_steps=steps), runs_root=folder, device="cpu", progress=False)
        monitor = TrainingMonitor(log=True)
        watched = dataclasses.replace(study, watch=monitor)
        pipeline.train_autoencoder(watched)
        seconds: dict[str, list[float]] = {"without": [], "with": []}
        for number in range(rounds):
            pair = [("without", study), ("with", watched)]
            for name, chosen in pair if number % 2 else pair[::-1]:
                started = time.process_time(), time.perf_counter()
                _, losses, _ = pipeline.train_autoencoder(chosen)
                seconds[name].append(time.perf_counter() - started[1])
                seconds.setdefault(f"{name}, CPU", []).append(time.process_time() - started[0])
        sys.stdout.write(json.dumps({"epochs": len(losses), "seconds": seconds}) + "\n")


def in_kernel(code: str) -> tuple[str, list[int]]:
    """What the code prints in a new kernel, and the size in bytes of each widget message it sends."""
    with tempfile.TemporaryDirectory() as folder:
        manager = KernelManager(transport="ipc", ip=f"{folder}/kernel")
        manager.start_kernel()
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            return _listen(client, client.execute(code))
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def _listen(client, sent: str) -> tuple[str, list[int]]:
    text, sizes = "", []
    while True:
        try:
            message = client.get_iopub_msg(timeout=60)
        except queue.Empty:
            continue
        content, kind = message["content"], message["msg_type"]
        if message["parent_header"].get("msg_id") != sent:
            continue
        if kind == "comm_msg":
            sizes.append(len(json.dumps(content)) + sum(map(len, message["buffers"])))
        elif kind == "error":
            raise RuntimeError("\n".join(content["traceback"]))
        elif kind == "stream":
            text += content["text"]
        elif kind == "status" and content["execution_state"] == "idle":
            return text, sizes


def main() -> None:
    """Print the medians, their ratio, the median of the ratios of neighbours, and the messages of one training."""
    text, sizes = in_kernel(f"import runpy; runpy.run_path({__file__!r})['alternate']({ROUNDS}, {STEPS})")
    found = json.loads(text.splitlines()[-1])
    for kind in ("", ", CPU"):
        plain, watched = found["seconds"][f"without{kind}"], found["seconds"][f"with{kind}"]
        pairs = statistics.median(b / a for a, b in zip(plain, watched, strict=True))
        medians = statistics.median(plain), statistics.median(watched)
        print(
            f"{'seconds' + kind:12} without {medians[0]:.3f}, with {medians[1]:.3f}: ratio of medians "
            f"{medians[1] / medians[0]:.4f}, median of ratios {pairs:.4f} ({ROUNDS} pairs, {found['epochs']} epochs)"
        )
    messages, kilobytes = (total / (ROUNDS + 1) for total in (len(sizes), sum(sizes) / 1e3))
    print(f"{messages:.0f} widget messages a training, {kilobytes:.0f} kB, the largest {max(sizes)} bytes")


if __name__ == "__main__":
    main()
