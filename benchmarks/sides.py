"""What the benchmarks share: sides that are called in turn, and one kind of table of ratios."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clad_lib.clad.posthoc import msp

TEMPERATURE, EPSILON = 1000.0, 0.0014  # of ODIN
COLUMNS = ("case", "rival", "times as fast, wall", "times as fast, CPU")  # of every table
COLUMNS += ("times less memory", "agreement")


class Cost(NamedTuple):
    """The least seconds a unit of work among the calls of a side, and what the last call gave."""

    wall: float
    cpu: float  # of all threads
    result: Any


class Row(NamedTuple):
    """One line of the table: clad_lib beside a rival; above 1 is better than the rival."""

    case: str
    rival: str
    wall: float
    cpu: float | None = None
    memory: float | None = None
    agreement: float | None = None  # of the two results, in the measure that `show` names


def asked(description: str | None) -> argparse.Namespace:
    """The options of every benchmark: `small` and `json`."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a try of a few seconds, no evidence")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def in_turn(
    sides: Mapping[str, Callable[[], Any]],
    *,
    repeats: int = 1,
    units: Mapping[str, int] | None = None,
) -> dict[str, Cost]:
    """What each side costs; each is called `repeats` times, in turn, so that load meets all alike.

    `units` of work, 1 where a side is not named, divide its seconds.
    """
    costs: dict[str, Cost] = {}
    for _ in range(repeats):
        for name, call in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            result, work = call(), (units or {}).get(name, 1)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            before = costs.get(name, Cost(float("inf"), float("inf"), None))
            costs[name] = Cost(min(before.wall, wall / work), min(before.cpu, cpu / work), result)
    return costs


def ratios(ours: Cost, theirs: Cost) -> tuple[float, float]:
    """How many times as fast our side is as theirs, by the wall clock and in CPU seconds."""
    return theirs.wall / ours.wall, theirs.cpu / ours.cpu


def show(
    options: argparse.Namespace, what: str, rows: Sequence[Row], *, agreement: str = ""
) -> None:
    """Print the rows of a benchmark, as a Markdown table or as JSON for benchmarks/run.py."""
    if options.json:
        found = dict(what=what, agreement=agreement, threads=torch.get_num_threads())
        print(json.dumps(found | {"rows": [row._asdict() for row in rows]}))
        return
    told = f"; agreement: {agreement}" if agreement else ""
    print(f"{what}; {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch{told}.\n")
    print(markdown(COLUMNS, rows))


def markdown(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers with three digits."""
    cells = [
        [f"{cell:.3g}" if isinstance(cell, float) else str(cell or "") for cell in row]
        for row in rows
    ]
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def one_by_one(classifier: Any, images: Tensor) -> Tensor:
    """ODIN by the published loop: one image a call, float32, gradients to every weight."""
    scores, device = [], next(classifier.parameters()).device
    for image in images.to(device).float().div(255):
        leaf = image[None].requires_grad_(True)
        logits = classifier(leaf) / TEMPERATURE
        torch.nn.functional.cross_entropy(logits, logits.argmax(1)).backward()
        with torch.no_grad():
            logits = classifier(leaf - EPSILON * leaf.grad.sign())
        scores.append(msp(logits, temperature=TEMPERATURE).cpu())
        classifier.zero_grad()
    return torch.cat(scores)
