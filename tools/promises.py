"""The promise on the false-alarm rate, put to the test on independent images; Markdown on stdout.

One fit of a method, calibration redrawn from held-out normal images, false alarms counted on the
normal images of the test split. A promise is broken when more than alpha of them alarm; with n
calibration images and the threshold at their k-th smallest score, the number of alarms among m
independent normal images is beta-binomial, which gives the exact probability that it is broken.

With the test images the same in all draws, the luck of one test split stays in the figure. Where
the test split is ours, held-out and test images are exchangeable by design, and "redrawn" also
draws the m test images anew, from all that no calibration took: there the bound must hold.

    CLAD_DATA=... python tools/promises.py mnist:CUR cifar10:THG gtsrb:SPDL
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from scipy import stats

from clad_lib import make_config, open_study
from clad_lib.judge import guarantees

DELTA, LEVEL = 0.1, 0.05
HEADS = ("scenario", "method", "unit", "alpha", "n", "m", "mean rate", "broken", "redrawn", "exact")
HEADS += ("at most", "no promise", "exchangeability fires")


def main(
    scenarios: Annotated[list[str], typer.Argument(help="data set:scenario, such as digits:STR")],
    method: str = "NearestImage",
    draws: int = 500,
    calibration: Annotated[float, typer.Option(help="share of the normals held out")] = 0.5,
    alphas: str = "0.01,0.05,0.1",
    runs: str = "runs",
    settings: Annotated[str, typer.Option(help="such as split=by_writer")] = "",
) -> None:
    """Print one row a scenario and alpha."""
    print(f"| {' | '.join(HEADS)} |\n|" + "---|" * len(HEADS))
    more = dict(pair.split("=") for pair in settings.split(",") if pair)
    for text in scenarios:
        dataset, _, scenario = text.partition(":")
        config = make_config(dataset, scenario, calibration=calibration, **more)
        study = open_study(config, runs=runs, progress=False)
        for alpha in map(float, alphas.split(",")):
            print(row(study, text, method, alpha, draws), flush=True)


def row(study, text: str, method: str, alpha: float, draws: int) -> str:
    """The row of a scenario at one alpha."""
    split, scores = study.split, study[method]
    normal = ~split.answers.test_anomaly
    pool = guarantees.one_per_track(scores.calibration, split.calibration_tracks, seed=0)
    test = guarantees.one_per_track(scores.test[normal], split.test_tracks[normal], seed=0)
    unit = "track" if len(pool) < len(scores.calibration) else "image"
    n, m, random = len(pool) // 2, len(test), np.random.default_rng(0)
    rates, redrawn, fired, rank = [], [], 0, 0
    for _ in range(draws):
        drawn = random.permutation(pool)[:n]
        found = guarantees.threshold_for(drawn, alpha=alpha, delta=DELTA)
        fired += guarantees.exchangeability(drawn, test).p_value < LEVEL
        if found.guarantee != guarantees.NONE:
            rank = int((np.sort(drawn) < found.value).sum()) + 1
            rates.append(share_above(test, found.value))
            mixed = random.permutation(np.concatenate([pool, test]))
            other = guarantees.threshold_for(mixed[:n], alpha=alpha, delta=DELTA)
            redrawn.append(share_above(mixed[n : n + m], other.value))
    cells = [text, method, unit, f"{alpha:g}", str(n), str(m)]
    if rates:
        exact = stats.betabinom.sf(int(np.floor(alpha * m + 1e-9)), m, n + 1 - rank, rank)
        most = exact + 3 * np.sqrt(exact * (1 - exact) / len(rates))
        shares = [*(np.mean(np.asarray(each) > alpha) for each in (rates, redrawn)), exact, most]
        cells += [f"{np.mean(rates):.3f}", *(f"{share:.1%}" for share in shares)]
    else:
        cells += ["–"] * 5
    cells += [f"{draws - len(rates)} of {draws}", f"{fired / draws:.1%}"]
    return f"| {' | '.join(cells)} |"


def share_above(scores: np.ndarray, threshold: float) -> float:
    """The share of scores (n,) above a threshold."""
    return float((scores > threshold).mean())


if __name__ == "__main__":
    typer.run(main)
