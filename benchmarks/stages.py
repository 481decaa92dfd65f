"""`clad study` on the digits by stage and method, and how soon `clad --help` answers.

`python benchmarks/stages.py [--small]`. The rival of a step is all steps together: 5 means that it
takes a fifth of their seconds. The study runs them side by side, one a core; notebooks, pictures
and the report come on top.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from sides import Row, asked, in_turn, ratios, show

from clad_lib.study.store import RECORD

LEAST = 0.01  # of all seconds: what takes less is not named


def main() -> None:
    """Run the study once in an empty folder, then ask for help three times."""
    options = asked(__doc__)
    profile = "smoke" if options.small else "fast"
    with tempfile.TemporaryDirectory() as runs:
        started = time.perf_counter()
        _run("-m", "clad_lib", "study", "--profile", profile, "--runs", runs)
        whole = time.perf_counter() - started
        records = [json.loads(path.read_text("utf-8")) for path in Path(runs).rglob(RECORD)]
    steps = Counter[str]()
    for each in records:
        steps[each["stage"]] += each.get("seconds") or 0
    total = sum(steps.values())
    told = f"all steps, one after the other ({total:.0f} s)"
    large = [(name, took) for name, took in steps.most_common() if took >= LEAST * total]
    rows = [Row(name, told, total / took) for name, took in large]
    rest = total - sum(took for _, took in large)
    if rest:
        rows.append(Row(f"the other {len(steps) - len(large)} steps", told, total / rest))
    rows.append(Row(f"the whole study ({whole:.0f} s)", told, total / whole))
    sides = {
        "help": partial(_run, "-m", "clad_lib", "--help"),
        "torch": partial(_run, "-c", "import torch"),
    }
    costs = in_turn(sides, repeats=3)
    told = f"importing torch ({costs['torch'].wall:.1f} s)"
    rows.append(Row("clad --help", told, ratios(costs["help"], costs["torch"])[0]))
    show(options, "The study by stage, and the command line", rows)


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
