"""Milliseconds that the explorers take to answer, without a browser: `python benchmarks/explorers.py`.

Random scores and images of 28x28 pixels; each change is made as a browser makes it, by setting a control, and timed until all
controls, figures and pictures hold their new values.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from clad_lib.operating import Gathered, Setting, Sheet
from clad_lib.widgets import LatentExplorer, ThresholdExplorer
from clad_lib.widgets.mapped import Colouring, Mapped

START = Setting("ODIN", 1000.0, 0.0014)
SIZES = (10_000, 100_000)
TIMES = 30


def scores(count: int) -> Gathered:
    """As many test images as asked for, a third of them anomalies, 2,000 calibration images, three settings."""
    random = np.random.default_rng(0)
    anomaly = np.arange(count) % 3 == 0
    sheets = {
        setting: Sheet(random.normal(size=2000), random.normal(size=count) + anomaly, np.arange(count))
        for setting in (START, Setting("ODIN", 1.0, 0.0014), Setting("MSP"))
    }
    images = random.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8)
    return Gathered(sheets, anomaly, images, random.integers(0, 10, count), START)


def latents(count: int) -> Mapped:
    """A map of as many images, in ten clusters."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, count)
    colourings = {
        "cluster": Colouring(labels, tuple(f"cluster {k}" for k in range(10))),
        "confidence": Colouring(random.random(count)),
    }
    images = random.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8)
    return Mapped(random.normal(size=(count, 2)), images, colourings, "", labels, colourings["confidence"].values)


def timed(change: Callable[[int], None]) -> str:
    """Median and largest milliseconds of TIMES changes."""
    spent = []
    for number in range(TIMES):
        started = time.perf_counter()
        change(number)
        spent.append(1000 * (time.perf_counter() - started))
    return f"median {np.median(spent):6.1f} ms, largest {max(spent):6.1f} ms"


def measure(size: int) -> None:
    """Print one line a change for explorers of that many images."""
    explorer, atlas = ThresholdExplorer(scores(size)), LatentExplorer(latents(size))
    low, step = explorer.slider.min, explorer.slider.step
    changes: dict[str, Callable[[int], None]] = {
        "threshold by slider": lambda n: setattr(explorer.slider, "value", low + (100 + n) * step),
        "threshold by rate": lambda n: setattr(explorer.alpha, "value", 0.05 + n / 200),
        "another temperature": lambda n: setattr(explorer.temperature, "value", (1.0, 1000.0)[n % 2]),
        "another score": lambda n: setattr(explorer.score, "value", ("MSP", "ODIN")[n % 2]),
        "another colour": lambda n: setattr(atlas.colour, "value", ("confidence", "cluster")[n % 2]),
        "a selection of 2,000": lambda n: atlas.select(list(range(n, 2000 + n))),
        "a cluster's card": lambda n: atlas.open_card(n % 10),
    }
    for name, change in changes.items():
        print(f"{size:>7} images, {name:<22} {timed(change)}", flush=True)


if __name__ == "__main__":
    for size in SIZES:
        measure(size)
