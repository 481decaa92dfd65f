"""Tables over many runs: means over seeds with intervals, paired tests, ranks, figure 3."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from clad_lib.config import datasets, make_config
from clad_lib.judge import metrics
from clad_lib.study.measure import compare
from clad_lib.study.results import paper_results
from clad_lib.study.stages import rows

PLACE = ["dataset", "scenario"]
GROUP = [*PLACE, "profile", "settings"]  # methods are compared within one of these


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a scenario, profile, settings, method and protocol: the mean over seeds.

    Columns besides: seeds; auroc and spread, mean and sample deviation over seeds; low and high,
    95 % bounds of the mean over seeds and over test images or tracks: the half width is
    sqrt((1.96 s_image)^2 + (t s_seed / sqrt(S))^2) with s_image from the bootstrap of each run and
    t of S - 1 degrees, without the second term for one seed; paper, the published value; ahead,
    whether low lies above it; rank among the methods that used no test label; seconds.
    """
    known = frame[frame.auroc.notna()].fillna({"settings": ""})
    known = known.assign(image=((known.auroc_high - known.auroc_low) / (2 * 1.96)) ** 2)
    groups = known.groupby([*GROUP, "method", "protocol"], sort=False)
    measured = groups[["auroc", "image", "fpr95", "seconds"]].mean()
    table = measured.assign(seeds=groups.seed.nunique(), spread=groups.auroc.std()).reset_index()
    student = stats.t.ppf(0.975, np.maximum(table.seeds - 1, 1)) / np.sqrt(table.seeds)
    half = np.hypot(1.96 * np.sqrt(table.image), (student * table.spread).fillna(0))
    published = {name: each.paper for name, each in rows().items() if each.paper}
    named = table[PLACE].assign(method=table.method.replace(published))
    clean = table.auroc.round(9).where(table.protocol == "clean")
    ranks = clean.groupby([table[key] for key in GROUP]).rank(ascending=False, method="min")
    table = table.assign(
        low=(table.auroc - half).clip(0),
        high=(table.auroc + half).clip(upper=1),
        paper=named.merge(paper_results(), how="left").paper.to_numpy(),
        ahead=lambda found: found.low > found.paper,
        rank=ranks.astype("Int64"),
        place=table.set_index(PLACE).index.map(_order()),  # others have none and come last
    )
    columns = ["seeds", "auroc", "spread", "fpr95", "seconds", "low", "high", "paper", "ahead"]
    table = table.sort_values(["place", *GROUP, "auroc"], ascending=[True] * 5 + [False])
    return table[[*GROUP, "method", "protocol", *columns, "rank"]].reset_index(drop=True)


def _order() -> dict[tuple[str, str], int]:
    """The place of every named scenario and single class in the tables."""
    facts = datasets()
    found = [(name, scenario) for name in facts for scenario in facts[name].get("scenarios", {})]
    found += [(name, str(label)) for name in facts for label in range(len(facts[name]["classes"]))]
    return {pair: number for number, pair in enumerate(found)}


def comparisons(frame: pd.DataFrame) -> pd.DataFrame:
    """The best clean method of each scenario against each other one, by a paired test.

    A bootstrap paired on seeds and on test images, or tracks where there are any, over the seeds
    that both have; of fewer than three the first alone, since two say nothing of their spread.
    p is corrected by Holm's method for the number of rivals. Columns: GROUP, best, method, seeds,
    difference, low, high, p. Runs whose score files are gone are left out.
    """
    pairs = list[tuple]()
    names = [*GROUP, "best", "method", "seeds", "difference", "low", "high", "p"]
    known = frame.assign(there=[Path(str(f), "scores.parquet").is_file() for f in frame.folder])
    clean = known[(known.protocol == "clean") & known.auroc.notna()]
    for group, runs in clean.groupby(GROUP, sort=False):
        best, *rivals = runs.groupby("method").auroc.mean().sort_values(ascending=False).index
        kept = runs[runs.there].pivot(index="seed", columns="method", values="folder")
        read = kept.map(test_scores, na_action="ignore")  # once, not for each pair
        pairs.extend((*group, best, rival, *_pair(read, [best, rival])) for rival in rivals)
    found = pd.DataFrame([pair for pair in pairs if len(pair) == len(names)], columns=names)
    return found.assign(p=found.groupby(GROUP, sort=False).p.transform(metrics.holm))


def test_scores(folder: str) -> pd.DataFrame:
    """anomaly, track and score of the test images of a run, in their order."""
    table = pd.read_parquet(f"{folder}/scores.parquet", filters=[("split", "==", "test")])
    return table.sort_values("index")[["anomaly", "track", "score"]]


def _pair(read: pd.DataFrame, methods: list[str]) -> tuple:
    """Seeds, difference, low, high and p of two methods; empty where they do not share images.

    `read` are the scores of the test images by seed (rows) and method (columns).
    """
    shared = read.reindex(columns=methods).dropna().sort_index()
    shared = shared if len(shared) > 2 else shared[:1]
    if shared.empty or len({*shared.map(len).to_numpy().flat}) > 1:
        return ()
    one, other = (np.stack([each.score for each in shared[name]]) for name in methods)
    truth = (shared.iloc[0, 0][name].to_numpy() for name in ("anomaly", "track"))
    return (len(shared), *compare(one, other, *truth, resamples=4000))


def average_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """method, rank and scenarios: mean rank over the scenarios in which all these methods stand."""
    plain = table[table["rank"].notna() & (table.settings == "")]
    wide = plain.pivot_table(
        index=GROUP[:3], columns="method", values="auroc", aggfunc="first"
    ).dropna()
    ranks = wide.rank(axis=1, ascending=False).mean().dropna().sort_values()
    return ranks.rename("rank").reset_index().assign(scenarios=len(wide))


def sweep(frame: pd.DataFrame, dataset: str, setting: str) -> pd.DataFrame:
    """Figure 3's table: `summary` of ODIN at each value of one setting, varied alone.

    Runs count in which nothing but that setting differs from the profile `fast`, and the plain
    profile at its own value; scenarios with a single value are left out. Column `value` is added.
    """
    table = summary(frame.query("dataset == @dataset and method == 'ODIN' and profile == 'fast'"))
    other = table.settings.str.extract(rf"^{re.escape(setting)}=([^, ]+)$")[0]
    plain = [getattr(make_config(dataset, name), setting) for name in table.scenario]
    value = pd.to_numeric(other, errors="coerce").where(table.settings != "", plain)
    table = table.assign(value=value).dropna(subset="value")
    many = table.groupby("scenario").value.transform("nunique") > 1
    return table[many].sort_values(["scenario", "value"], ignore_index=True)
