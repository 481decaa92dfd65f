"""What the benchmarks share: sides that are called in turn, and a Markdown table of ratios."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

RATIOS = ("times as fast, wall", "times as fast, CPU")  # what `ratios` gives


class Cost(NamedTuple):
    """The least seconds a unit of work among the calls of a side, and what the last call gave."""

    wall: float
    cpu: float  # of all threads
    result: Any


def asked_for_small(description: str | None) -> bool:
    """Whether the command line asks for a try of a few seconds."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a try of a few seconds, no evidence")
    return parser.parse_args().small


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


def print_table(what: str, heads: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
    """One Markdown table: clad_lib beside each rival; above 1 is better than the rival."""
    print(f"{what}; {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch.\n")
    print("|", " | ".join(heads), "|")
    print("|", " | ".join("---" for _ in heads), "|")
    for row in rows:
        cells = (cell if isinstance(cell, str) else f"{cell:.3g}" for cell in row)
        print("|", " | ".join(cells), "|")
