"""Jobs a minute of one and two local workers, and the share of the time outside notebooks: `python benchmarks/batch.py`."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = """profile = "smoke"
seeds = [0, 1]
methods = ["ODIN", "OCSVM", "SVDD", "OCNN", "OCCNN", "DeepSVDD"]
[scenarios]
digits = ["CUR"]
[overrides]
clusters = 4
"""


def seconds_of(workers: int) -> tuple[float, float]:
    """(wall seconds, seconds inside notebooks) of the same study in a fresh runs folder, from process start to end."""
    with tempfile.TemporaryDirectory() as name:
        study, runs = Path(name) / "bench.toml", Path(name) / "runs"
        study.write_text(STUDY)
        line = [sys.executable, "-m", "clad_lib", "batch", str(study), "--device", "cpu", "--workers", str(workers)]
        started = time.perf_counter()
        subprocess.run([*line, "--runs", str(runs)], check=True, capture_output=True)
        wall = time.perf_counter() - started
        rows = [json.loads(line) for line in (runs / "batches" / "bench.jsonl").read_text().splitlines()]
        return wall, sum(row["seconds"] for row in rows)


cores = os.cpu_count() or 1
one, inside = seconds_of(1)  # one worker has all cores
two, _ = seconds_of(2)
print(f"{cores} cores: one worker with all of them {one:.0f} s, two workers {two:.0f} s: {one / two:.2f} times the jobs a minute")
print(f"one worker: {one - inside:.1f} s of {one:.0f} s outside notebooks, {100 * (one - inside) / one:.1f} %")
