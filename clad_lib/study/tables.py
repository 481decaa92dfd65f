"""Tables over many runs: means over seeds with intervals, paired tests, ranks, figure 3."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from clad_lib.config import datasets
from clad_lib.judge import metrics
from clad_lib.study.results import paper_results, plain_config
from clad_lib.study.stages import rows

GROUP = ["dataset", "scenario", "profile", "settings"]  # methods are compared within one of these


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a scenario, profile, settings, method and protocol: the mean over seeds.

    Columns besides: seeds; auroc and spread, mean and sample deviation over seeds; low and high,
    95 % bounds of the mean over seeds and over test images or tracks: the half width is
    sqrt((1.96 s_image)^2 + (t s_seed / sqrt(S))^2) with s_image from the bootstrap of each run and
    t of S - 1 degrees, without the second term for one seed; paper, the published value; ahead,
    whether low lies above it; rank among the methods that used no test label; seconds.
    """
    keys = [*GROUP, "method", "protocol"]
    known = frame[frame.auroc.notna()].assign(settings=frame.settings.fillna(""))
    known = known.assign(image=(known.auroc_high - known.auroc_low) / (2 * 1.96))
    table = known.groupby(keys, sort=False).agg(
        seeds=("seed", "nunique"),
        auroc=("auroc", "mean"),
        spread=("auroc", "std"),
        image=("image", lambda each: np.sqrt((each**2).mean())),
        fpr95=("fpr95", "mean"),
        seconds=("seconds", "mean"),
    )
    table = table.reset_index()
    student = stats.t.ppf(0.975, np.maximum(table.seeds - 1, 1)) / np.sqrt(table.seeds)
    half = np.hypot(1.96 * table.image, (student * table.spread).fillna(0))
    table = table.assign(low=(table.auroc - half).clip(0), high=(table.auroc + half).clip(upper=1))
    table["paper"] = _paper_of(table)
    table["ahead"] = table.low > table.paper
    clean = table[table.protocol == "clean"].auroc.round(9)
    ranks = clean.groupby([table[key] for key in GROUP]).rank(ascending=False, method="min")
    table["rank"] = ranks.reindex(table.index).astype("Int64")
    order = {name: place for place, name in enumerate(scenario_order())}
    place = [
        order.get(pair, len(order)) for pair in zip(table.dataset, table.scenario, strict=True)
    ]
    table = table.assign(place=place).drop(columns="image")
    return (
        table.sort_values(["place", *GROUP, "auroc"], ascending=[True] * 5 + [False])
        .drop(columns="place")
        .reset_index(drop=True)
    )


def _paper_of(table: pd.DataFrame) -> np.ndarray:
    names = {name: each.paper or name for name, each in rows().items()}
    named = table[["dataset", "scenario"]].assign(
        method=table.method.map(lambda m: names.get(m, m))
    )
    return named.merge(paper_results(), how="left").paper.to_numpy()


def scenario_order() -> list[tuple[str, str]]:
    """All named scenarios and single classes in the order of the tables."""
    facts = datasets()
    named = [(name, scenario) for name in facts for scenario in facts[name].get("scenarios", {})]
    counts = [(name, str(label)) for name in facts for label in range(len(facts[name]["classes"]))]
    return named + counts


def comparisons(frame: pd.DataFrame, *, resamples: int = 4000) -> pd.DataFrame:
    """The best clean method of each scenario against each other one, by a paired test.

    A bootstrap paired on seeds and on test images, or tracks where there are any, over the seeds
    that both have; of fewer than three the first alone, since two say nothing of their spread.
    p is corrected by Holm's method for the number of rivals. Columns: GROUP, best, method, seeds,
    difference, low, high, p. Runs whose score files are gone are left out.
    """
    clean = frame[(frame.protocol == "clean") & frame.auroc.notna() & frame.folder.notna()]
    found = []
    for group, runs in clean.groupby(GROUP, sort=False):
        means = runs.groupby("method").auroc.mean().sort_values(ascending=False)
        best, *rivals = means.index
        pairs = [_compare(runs, str(best), str(rival), resamples) for rival in rivals]
        kept = [(rival, *pair) for rival, pair in zip(rivals, pairs, strict=True) if pair]
        corrected = metrics.holm([pair[-1] for pair in kept]).tolist() if kept else list[float]()
        for (rival, seeds, difference, low, high, _), p in zip(kept, corrected, strict=True):
            found.append((*group, best, rival, seeds, difference, low, high, float(p)))
    names = [*GROUP, "best", "method", "seeds", "difference", "low", "high", "p"]
    return pd.DataFrame(found, columns=names)


def _compare(runs: pd.DataFrame, best: str, rival: str, resamples: int) -> tuple | None:
    parts = [runs[runs.method == name].set_index("seed").sort_index() for name in (best, rival)]
    shared = parts[0].index.intersection(parts[1].index)
    shared = shared if len(shared) > 2 else shared[:1]
    tables = [[_test_scores(folder) for folder in part.folder.loc[shared]] for part in parts]
    flat = [table for each in tables for table in each if table is not None]
    if not flat or len(flat) < 2 * len(shared) or len({len(table) for table in flat}) > 1:
        return None
    stacked = np.stack([table["score"].to_numpy() for table in flat])
    one, other = stacked[: len(shared)], stacked[len(shared) :]
    anomaly, track = flat[0]["anomaly"].to_numpy(), flat[0]["track"].to_numpy()
    units = track if len(np.unique(track)) < len(track) else None
    if units is not None and min(len(set(track[kind])) for kind in (anomaly, ~anomaly)) < 2:
        return None
    pair = metrics.paired_comparison(one, other, anomaly, resamples=resamples, seed=0, units=units)
    return len(shared), pair.difference, pair.low, pair.high, pair.p_value


def _test_scores(folder: str) -> pd.DataFrame | None:
    path = Path(folder) / "scores.parquet"
    if not path.is_file():
        return None
    table = pd.read_parquet(path, columns=["split", "index", "track", "anomaly", "score"])
    return table[table.split == "test"].sort_values("index")


def average_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """method, rank and scenarios: mean rank over the scenarios in which all these methods stand."""
    plain = table[table["rank"].notna() & (table.settings == "")]
    wide = plain.pivot_table(index=GROUP[:3], columns="method", values="auroc", aggfunc="first")
    ranks = wide.dropna().rank(axis=1, ascending=False).mean().sort_values()
    found = {"method": ranks.index.to_numpy(), "rank": ranks.to_numpy()}
    return pd.DataFrame(found | {"scenarios": len(wide.dropna())})


def sweep(frame: pd.DataFrame, dataset: str, setting: str, *, method: str = "ODIN") -> pd.DataFrame:
    """Figure 3's table: `summary` of a method at each value of one setting, varied alone.

    Runs count in which nothing but that setting differs from the profile `fast`, and the plain
    profile at its own value; scenarios with a single value are left out. Column `value` is added.
    """
    table = summary(frame[(frame.dataset == dataset) & (frame.method == method)])
    table = table[table.profile == "fast"]
    other = table.settings.str.extract(rf"^{re.escape(setting)}=([^, ]+)$")[0]
    plain = [getattr(plain_config(dataset, name, "fast"), setting) for name in table.scenario]
    value = pd.to_numeric(other, errors="coerce").where(table.settings != "", plain)
    table = table.assign(value=value).dropna(subset="value")
    many = table.groupby("scenario").value.transform("nunique") > 1
    return table[many].sort_values(["scenario", "value"], ignore_index=True)


def cannot_be_told(table: pd.DataFrame, pairs: pd.DataFrame, level: float = 0.05) -> set[tuple]:
    """(data set, scenario, method) of the best clean method and all that cannot be told from it.

    `table` is `summary`'s for one profile, `pairs` is `comparisons`'. A rival without a comparison
    is not counted as equal.
    """
    clean = table[table.protocol == "clean"]
    best = clean.loc[clean.groupby(["dataset", "scenario"]).auroc.idxmax()]
    found = set(zip(best.dataset, best.scenario, best.method, strict=True))
    if len(pairs):
        close = pairs[(pairs.p >= level) & (pairs.settings.fillna("") == "")]
        close = close.merge(best, left_on=[*GROUP[:2], "best"], right_on=[*GROUP[:2], "method"])
        found |= set(zip(close.dataset, close.scenario, close.method_x, strict=True))
    return found
