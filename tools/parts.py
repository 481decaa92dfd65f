"""The joined experts taken apart, on data sets of one's choice: rows of results/parts.csv.

    CLAD_DATA=... python tools/parts.py mnist:MIX gtsrb:SPEC cifar10:LIV

On photographs it is FusedPhotographs, elsewhere Fused. Each is fitted anew, but for networks that
lie in --runs. Notebook 07 shows the rows; a row of uncommitted code is refused.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from publish import RESULTS, merge

from clad_lib import make_config, open_study
from clad_lib.study.experiments import expert_parts
from clad_lib.study.store import stamp

KEY = ["dataset", "scenario", "profile", "seed", "method", "of", "part"]


def main(
    scenarios: Annotated[list[str], typer.Argument(help="data set:scenario, such as digits:STR")],
    seed: int = 0,
    profile: str = "fast",
    runs: Annotated[Path | None, typer.Option(help="where trained networks may lie")] = None,
    into: Path = RESULTS,
) -> None:
    """Measure each scenario and put its rows into parts.csv, as soon as it is measured."""
    commit = stamp()["commit"]
    if into == RESULTS and commit.endswith("-dirty"):
        sys.exit(f"the code is {commit}: a row must name its code; commit first")
    for text in scenarios:
        dataset, _, scenario = text.partition(":")
        config = make_config(dataset, scenario, profile=profile, seed=seed)
        with tempfile.TemporaryDirectory() as new:
            study = open_study(config, runs=runs or new)
            method = "FusedPhotographs" if study.split.scenario.mirror else "Fused"
            found = expert_parts(study, method=method)
        table = found.rename_axis(index=["of", "part"]).reset_index()
        place = dict(dataset=dataset, scenario=scenario, profile=profile, seed=seed, method=method)
        told = dict(test=len(study.split.test), **study.conditions, data=study.places.data)
        told |= dict(source=study.split.source, commit=commit, machine=stamp()["machine"]["cpu"])
        frame = table.assign(**place, **told)[[*KEY, *table.columns[2:], *told]]
        merge(into / "parts.csv", frame, KEY)


if __name__ == "__main__":
    typer.run(main)
