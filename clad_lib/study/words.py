"""What a study says on the terminal and in its report: tables, the verdict, the promise."""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import pandas as pd

from clad_lib.judge import guarantees, metrics
from clad_lib.study import measure
from clad_lib.study.engine import Scores, Study
from clad_lib.study.stages import BLOCKS, ONE, row

LEVEL = 0.05  # of the paired tests, corrected by Holm's method
REPRESENTS = ("Selected", "ODIN")  # what stands for latent classes: chosen without test labels
SHOWN = {
    "AUROC": "auroc",
    "from": "auroc_low",
    "to": "auroc_high",
    "FPR@95TPR": "fpr95",
    "F1": "f1",
}
DASH = "–"


def finished(study: Study, names: Iterable[str]) -> dict[str, Scores]:
    """The methods among `names` that have been scored, with their scores."""
    return {name: study.find(name) for name in names if study.has(name)}


def as_good_as_best(study: Study, found: Mapping[str, Scores]) -> set[str]:
    """The methods that used no test label and cannot be told from the best of them."""
    clean = [name for name in _ranked(found) if row(name).protocol is None]
    p = [_compare(study, found[clean[0]], found[name]).p_value for name in clean[1:]]
    corrected = metrics.holm(p) if p else ()
    equal = {name for name, each in zip(clean[1:], corrected, strict=True) if each >= LEVEL}
    return {clean[0], *equal} if p else set()


def _ranked(found: Mapping[str, Scores]) -> list[str]:
    """The methods with an AUROC, best first."""
    known = {
        name: -each.metrics["auroc"] for name, each in found.items() if "auroc" in each.metrics
    }
    return sorted(known, key=known.__getitem__)


def _compare(study: Study, one: Scores, other: Scores) -> metrics.Comparison:
    return measure.compare(
        one.test, other.test, study.split.answers.test_anomaly, study.split.test_tracks
    )


def table_of(study: Study, found: Mapping[str, Scores]) -> pd.DataFrame:
    """One row a method: block, AUROC with its interval in percent, FPR@95TPR, F1, best."""
    values = [[each.metrics.get(key) for key in SHOWN.values()] for each in found.values()]
    table = pd.DataFrame(values, columns=[*SHOWN], dtype=float) * 100
    places = pd.DataFrame({"block": [row(name).block for name in found], "method": [*found]})
    return places.join(table).assign(best=places.method.isin(as_good_as_best(study, found)))


def verdict(study: Study, found: Mapping[str, Scores]) -> str:
    """Whether latent classes beat one boundary here; empty where one of the two was not run.

    The latent-class method is the first of REPRESENTS that was run, fixed beforehand; p is
    corrected for the number of one-boundary methods, since the best of them is taken.
    """
    ranked = _ranked(found)
    latent = [name for name in REPRESENTS if name in ranked]
    rivals = [name for name in ranked if row(name).block == ONE]
    if not latent or not rivals:
        return ""
    method, rival = latent[0], rivals[0]
    pair = _compare(study, found[method], found[rival])
    p = min(1.0, pair.p_value * len(rivals))
    ahead = "cannot be told from" if p >= LEVEL else "beat" if pair.difference > 0 else "lose to"
    auroc = {name: f"{100 * found[name].metrics['auroc']:.1f}" for name in ranked}
    points, low, high = (f"{100 * each:+.1f}" for each in pair[:3])
    text = (
        f"Latent classes ({method}, {auroc[method]}) {ahead} one boundary ({rival}, "
        f"{auroc[rival]}, the best of {len(rivals)}): {points} points ({low} to {high}), "
        f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}."
    )
    if "NearestImage" in auroc:
        text += f" The nearest training image, without training, has {auroc['NearestImage']}."
    return text


def scores_in_words(
    study: Study, names: Iterable[str], failed: Mapping[str, str] | None = None
) -> list[str]:
    """The lines of the terminal: the table in blocks, the verdict, the promise, what failed."""
    found, config = finished(study, names), study.config
    told, table = verdict(study, found), table_of(study, found)
    star = "*: cannot be told from the best that used no test label (paired bootstrap, Holm, 5 %)"
    setting = f"{study.split.scenario.title}), profile {config.profile}, seed {config.seed}"
    return [
        f"{config.dataset} {config.scenario} ({setting}",
        *_table_lines(table),
        "",
        *([star] if table.best.any() else []),
        *([told] if told else []),
        *(promise(study, name, found[name]) for name in found if name == "ODIN" or len(found) == 1),
        *(f"{name}: cannot run here: {why}" for name, why in (failed or {}).items()),
    ]


def _table_lines(table: pd.DataFrame) -> list[str]:
    """The table of `table_of`, a part for each block."""
    lines: list[str] = []
    table = table.assign(**{"": np.where(table.best, "*", " ")}).drop(columns="best")
    for block in BLOCKS:  # `rows` takes no others
        part = table[table.block == block].set_index("method").rename_axis(None)
        shown = part[["AUROC", "", *table.columns[3:-1]]].rename_axis(block, axis="columns")
        text = shown.to_string(float_format="{:.1f}".format, na_rep=DASH)
        lines += ["", *text.splitlines()] if len(part) else []
    return lines


def promise(study: Study, name: str, scores: Scores) -> str:
    """What the kept threshold of a method promises, in words."""
    tracks = measure.units_of(study.split.calibration_tracks) is not None
    line = guarantees.Threshold(**{"value": float("inf"), **scores.metrics["threshold"]})
    return f"{name}: {guarantees.in_words(line, tracks=tracks)}"


def formatted(table: pd.DataFrame, form: Literal["text", "markdown", "csv"]) -> str:
    """A table as text, as the rows of a Markdown table, or as CSV."""
    if form == "csv":
        return table.to_csv(index=False)
    shown = table.astype(object).where(table.notna(), DASH)
    shown = shown.map(lambda cell: f"{cell:.3f}" if isinstance(cell, float) else str(cell))
    if form == "text":
        return shown.to_string(index=False)
    cells = [["---"] * shown.shape[1], *shown.map(lambda cell: cell.replace("|", "\\|")).to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in [shown.columns, *cells])
