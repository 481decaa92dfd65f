"""Milliseconds that the explorers take to answer, without a browser.

`python benchmarks/explorers.py`. Random scores and images of 28x28 pixels. Each change is made as a
browser makes it, by setting a control or sending a message, and timed until all controls, figures
and pictures hold their new values.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from clad_lib.look.map_explorer import MapExplorer
from clad_lib.look.operating_point import Setting, Sheet
from clad_lib.look.threshold_explorer import ThresholdExplorer

SIZES, TIMES = (10_000, 100_000), 30


def scores(count: int) -> tuple[dict[Setting, Sheet], np.ndarray]:
    """As many test images as asked for, a third of them anomalies, 2,000 calibration images."""
    random = np.random.default_rng(0)
    anomaly, clusters = np.arange(count) % 3 == 0, random.integers(0, 10, count)
    settings = (Setting("ODIN", 1000.0, 0.0014), Setting("ODIN", 1.0, 0.0014), Setting("MSP"))
    sheets = {
        setting: Sheet(
            random.normal(size=2000),
            random.normal(size=count) + anomaly,
            np.arange(count),
            anomaly,
            clusters,
        )
        for setting in settings
    }
    return sheets, random.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8)


def latents(count: int) -> dict[str, Any]:
    """A map of as many images, in ten clusters."""
    random = np.random.default_rng(0)
    labels, names = random.integers(0, 10, count), [f"cluster {k}" for k in range(10)]
    facts = pd.DataFrame({"cluster": pd.Categorical.from_codes(labels, names)})
    facts["confidence"] = random.random(count)
    images = random.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8)
    points = random.normal(size=(count, 2)).astype(np.float32)
    return {"points": points, "images": images, "facts": facts}


def timed(change: Callable[[int], object]) -> str:
    """Median and largest milliseconds of TIMES changes."""
    spent = []
    for number in range(TIMES):
        started = time.perf_counter()
        change(number)
        spent.append(1000 * (time.perf_counter() - started))
    return f"median {np.median(spent):6.1f} ms, largest {max(spent):6.1f} ms"


def measure(size: int) -> None:
    """Print one line a change for explorers of that many images."""
    explorer, atlas = ThresholdExplorer(*scores(size)), MapExplorer(**latents(size))

    def tell(what: str, rows: list[int]) -> None:
        atlas.figure._handle_custom_msg({"what": what, "rows": rows}, [])

    changes: dict[str, Callable[[int], object]] = {
        "line by slider": lambda n: setattr(explorer.slider, "value", 10.0 + n),
        "line by rate": lambda n: setattr(explorer.rate, "value", f"{5 + n}"),
        "another temperature": lambda n: setattr(
            explorer.temperature, "value", (1.0, 1000.0)[n % 2]
        ),
        "another score": lambda n: setattr(explorer.score, "value", ("MSP", "ODIN")[n % 2]),
        "another colour": lambda n: setattr(
            atlas.colour, "value", ("confidence", "cluster")[n % 2]
        ),
        "an image under the pointer": lambda n: tell("show", [n]),
        "a selection of 2,000": lambda n: tell("select", list(range(n, 2000 + n))),
        "a cluster opened": lambda n: tell("open", [n]),
    }
    for name, change in changes.items():
        print(f"{size:>7} images, {name:<26} {timed(change)}", flush=True)


if __name__ == "__main__":
    for size in SIZES:
        measure(size)
