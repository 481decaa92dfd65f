"""Seconds to read 5,000 synthetic runs, for the ready table, and for SQL over both views: `python benchmarks/results.py`."""

import json
import tempfile
import time
from pathlib import Path

import pandas as pd

from clad_lib import results, tables
from clad_lib.config import as_dict, make_config
from clad_lib.runs import STAGES, stage_settings

METHODS = ("ODIN", "MSP", "ViM", "OCSVM", "DeepSVDD")
RUNS, IMAGES = 5000, 500
SCORES = pd.DataFrame({"split": "test", "index": range(IMAGES), "hidden_class": 0, "anomaly": False, "score": 0.5})


def write(root: Path, number: int) -> None:
    """One finished method of a synthetic run; nothing in it was measured."""
    method, seed, scenario = METHODS[number % 5], number // 15, ("CUR", "STR", "MIX")[number // 5 % 3]
    config = make_config("mnist", scenario, seed=seed)
    folder = root / "mnist" / scenario / f"{method}-0000000000" / f"seed{seed}"
    folder.mkdir(parents=True)
    record = {"stage": method, "config": as_dict(config), "protocol": "clean", "seconds": 1.0, "commit": "none",
              "settings": stage_settings(STAGES[method], config), "machine": {"cpu": "x", "cores": 1, "gpu": None}}  # fmt: skip
    value = 0.5 + (number * 7919 % 1000) / 2500
    metrics = {
        "auroc": value,
        "auroc_low": value - 0.01,
        "auroc_high": value + 0.01,
        "fpr95": 0.5,
        "images": {"train": 1, "test": 1},
    }
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "metrics.json").write_text(json.dumps(metrics))


with tempfile.TemporaryDirectory() as name:
    for number in range(RUNS):
        write(Path(name), number)
    started = time.perf_counter()
    frame = results.collect(name)
    read = time.perf_counter()
    table = tables.ready(frame)
    ranked = tables.average_ranks(table)
    ready = time.perf_counter()
    answer = results.query(frame, "SELECT scenario, method, avg(auroc) FROM results GROUP BY ALL")
    asked = time.perf_counter()
    for folder in frame.folder[frame.method == "ODIN"]:
        SCORES.to_parquet(Path(folder) / "scores.parquet", index=False)
    written = time.perf_counter()
    scored = results.query(frame, "SELECT count(*) AS images, avg(score) FROM scores")
    done = time.perf_counter()
assert (len(frame), len(table), len(ranked), len(answer)) == (RUNS, 15, 5, 15)
assert scored.images[0] == RUNS // 5 * IMAGES
print(f"{RUNS} runs: read {read - started:.2f} s, ready table and ranks {ready - read:.2f} s, SQL {asked - ready:.3f} s")
print(f"SQL over the scores of {RUNS // 5} runs, {IMAGES} images each: {done - written:.2f} s")
