"""What a study says on the terminal and in its report: tables, the verdict, the promise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clad_lib.judge import guarantees, metrics
from clad_lib.study.engine import Scores, Study
from clad_lib.study.measure import units_of
from clad_lib.study.stages import CONTROL, LATENT, ONE, row

LEVEL = 0.05  # of the paired tests, corrected by Holm's method
REPRESENTS = ("Selected", "ODIN")  # what stands for latent classes: chosen without test labels
DASH = "–"


class Verdict(NamedTuple):
    """The latent-class method against the best one-boundary method, and the nearest image."""

    method: str
    rival: str
    difference: float  # of AUROC
    low: float
    high: float
    p_value: float
    text: str


def finished(study: Study, names: Iterable[str]) -> dict[str, Scores]:
    """The methods among `names` that have been scored, with their scores."""
    return {name: study.find(name) for name in names if study.has(name)}


def compare(study: Study, one: Scores, other: Scores) -> metrics.Comparison:
    """Two methods on the same test images: a bootstrap paired on images, or on tracks.

    With a single track of one kind nothing can be told: p is 1 and the interval is NaN.
    """
    anomaly, units = study.split.answers.test_anomaly, units_of(study.split)
    if units is not None and min(len(set(units[kind])) for kind in (anomaly, ~anomaly)) < 2:
        difference = one.metrics["auroc"] - other.metrics["auroc"]
        return metrics.Comparison(difference, float("nan"), float("nan"), 1.0)
    return metrics.paired_comparison(one.test, other.test, anomaly, seed=0, units=units)


def as_good_as_best(study: Study, found: Mapping[str, Scores]) -> set[str]:
    """The methods that used no test label and cannot be told from the best of them."""
    clean = {name: each for name, each in found.items() if row(name).protocol is None}
    clean = {name: each for name, each in clean.items() if "auroc" in each.metrics}
    if len(clean) < 2:
        return set()
    best = max(clean, key=lambda name: clean[name].metrics["auroc"])
    rivals = [name for name in clean if name != best]
    p = metrics.holm([compare(study, clean[best], clean[name]).p_value for name in rivals])
    return {best} | {name for name, value in zip(rivals, p, strict=True) if value >= LEVEL}


def table_of(study: Study, found: Mapping[str, Scores]) -> pd.DataFrame:
    """One row a method: block, AUROC with its interval in percent, FPR@95TPR, F1, best."""
    best = as_good_as_best(study, found)
    rows = []
    for name, each in found.items():
        values = [
            each.metrics.get(key) for key in ("auroc", "auroc_low", "auroc_high", "fpr95", "f1")
        ]
        percent = [np.nan if value is None else 100 * value for value in values]
        rows.append((row(name).block, name, *percent, name in best))
    names = ["block", "method", "AUROC", "from", "to", "FPR@95TPR", "F1", "best"]
    return pd.DataFrame(rows, columns=names)


def verdict(study: Study, found: Mapping[str, Scores]) -> Verdict | None:
    """Whether latent classes beat one boundary here; None where one of the two was not run.

    The latent-class method is the first of REPRESENTS that was run, fixed beforehand; p is
    corrected for the number of one-boundary methods, since the best of them is taken.
    """
    scored = {name: each for name, each in found.items() if "auroc" in each.metrics}
    method = next((name for name in REPRESENTS if name in scored), None)
    rivals = [name for name in scored if row(name).block == ONE]
    if method is None or not rivals:
        return None
    rival = max(rivals, key=lambda name: scored[name].metrics["auroc"])
    pair = compare(study, scored[method], scored[rival])
    p = min(1.0, pair.p_value * len(rivals))
    ahead = "cannot be told from" if p >= LEVEL else "beat" if pair.difference > 0 else "lose to"
    text = f"Latent classes ({method}, {_percent(scored[method])}) {ahead} one boundary ({rival}, "
    text += f"{_percent(scored[rival])}, the best of {len(rivals)}): {100 * pair.difference:+.1f} "
    text += f"points ({100 * pair.low:+.1f} to {100 * pair.high:+.1f}), p {_p(p)}."
    if "NearestImage" in scored:
        control = _percent(scored["NearestImage"])
        text += f" The nearest training image, without training, has {control}."
    return Verdict(method, rival, pair.difference, pair.low, pair.high, p, text)


def scores_in_words(
    study: Study, names: Iterable[str], failed: Mapping[str, str] | None = None
) -> list[str]:
    """The lines of the terminal: the table in blocks, the verdict, the promise, what failed."""
    found = finished(study, names)
    table = table_of(study, found)
    config, split = study.config, study.split
    setting = f"profile {config.profile}, seed {config.seed}"
    lines = [f"{config.dataset} {config.scenario} ({split.scenario.title}), {setting}"]
    for block in dict.fromkeys([ONE, LATENT, CONTROL, *table.block]):
        rows = table[table.block == block]
        if len(rows):
            lines += [
                "",
                f"{block + ':':24}{'AUROC':>6}  {'95 % interval':16}{'FPR@95TPR':>9}{'F1':>7}",
            ]
            lines += [_line(each) for each in rows.itertuples(index=False)]
    lines += [
        "",
        "*: cannot be told from the best that used no test label (paired bootstrap, Holm, 5 %)",
    ]
    if (found_verdict := verdict(study, found)) is not None:
        lines.append(found_verdict.text)
    lines += [
        promise(study, name, each)
        for name, each in found.items()
        if name == "ODIN" or len(found) == 1
    ]
    return lines + [f"{name}: cannot run here: {why}" for name, why in (failed or {}).items()]


def promise(study: Study, name: str, scores: Scores) -> str:
    """What the kept threshold of a method promises, in words."""
    tracks = study.split.calibration_tracks
    line = guarantees.Threshold(**{"value": float("inf"), **scores.metrics["threshold"]})
    repeated = len(np.unique(tracks)) < len(tracks)
    return f"{name}: {guarantees.in_words(line, tracks=repeated)}"


def formatted(table: pd.DataFrame, form: str) -> str:
    """A table as `text`, `markdown` or `csv`; ValueError for another form."""
    if form == "csv":
        return table.to_csv(index=False)
    floats = table.select_dtypes("float").columns
    shown = table.copy()
    for name in floats:
        shown[name] = table[name].map(lambda value: DASH if pd.isna(value) else f"{value:.3f}")
    if form == "text":
        return shown.to_string(index=False)
    if form == "markdown":
        cells = [[str(cell).replace("|", "\\|") for cell in each] for each in shown.to_numpy()]
        lines = [list(map(str, shown.columns)), ["---"] * shown.shape[1], *cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    raise ValueError(f"unknown format {form!r}: expected text, markdown or csv")


def _line(each: Any) -> str:
    _block, method, auroc, low, high, fpr, f1, best = each
    star = "*" if best else " "
    f1_text = DASH if np.isnan(f1) else f"{f1:.1f}"
    if np.isnan(auroc):
        return f"  {method:22}{DASH:>6}"
    return f"  {method:22}{auroc:>6.1f}{star} {low:>5.1f} to {high:<5.1f}   {fpr:>9.1f}{f1_text:>7}"


def _percent(scores: Scores) -> str:
    return f"{100 * scores.metrics['auroc']:.1f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
