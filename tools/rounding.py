"""How far a change of rounding moves a result, beside how far another seed does; CSV on stdout.

Another number of threads adds in another order, and so changes the last digits of every weight:

    for seed in 0 1 2 3 4; do
        clad run --dataset digits --scenario CUR --seed $seed --threads 1 --runs one
        clad run --dataset digits --scenario CUR --seed $seed --threads 2 --runs two
    done
    python tools/rounding.py one two > results/rounding.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import typer

from clad_lib.study import results

KEY = ["dataset", "scenario", "method"]


def compare(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """A row for each scenario and method of which both tables have the same seeds.

    Columns besides KEY: seeds; auroc, the mean of `one`; over_seeds, its sample standard deviation;
    over_rounding, sqrt(mean d^2 / 2) of the differences d between the tables, the standard
    deviation of one run under another rounding; threads and commit of both.
    """
    both = one.merge(other, on=[*KEY, "seed", "profile", "settings"], suffixes=("", "_other"))
    both = both.assign(half=(both.auroc - both.auroc_other) ** 2 / 2)
    found = both.groupby(KEY, sort=False).agg(
        seeds=("seed", "nunique"),
        auroc=("auroc", "mean"),
        over_seeds=("auroc", "std"),
        over_rounding=("half", lambda each: np.sqrt(each.mean())),
        threads=("threads", "first"),
        threads_other=("threads_other", "first"),
        commit=("commit", "first"),
        commit_other=("commit_other", "first"),
    )
    return found.round(4).reset_index()


def main(one: Path, other: Path) -> None:
    """Print the table for two folders of runs."""
    table = compare(results.collect_some(one), results.collect_some(other))
    table.to_csv(sys.stdout, index=False, lineterminator="\n")


if __name__ == "__main__":
    typer.run(main)
