"""Figure 3: AUROC against one setting that was varied alone, such as the number of clusters or the latent size."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from clad_lib import plots, results
from clad_lib.config import make_config
from clad_lib.scenarios import SCENARIOS

NAMES = {"clusters": "number of clusters", "latent": "latent size"}


def sweep(frame: pd.DataFrame, dataset: str, setting: str, *, profile: str = "fast", method: str = "ODIN") -> pd.DataFrame:
    """scenario, value, seeds, auroc and spread of a method at each value of one setting, such as `clusters` or `latent`.

    Counted are runs in which nothing but that setting differs from the profile, and the plain profile at its own value.
    auroc and spread: mean and sample deviation over seeds, in [0, 1]; spread is missing for one seed. Scenarios with one
    value are left out; the others stand in the paper's order. Empty without such runs.
    """
    rows = frame[(frame.dataset == dataset) & (frame.profile == profile) & (frame.method == method) & frame.auroc.notna()]
    other = pd.to_numeric(rows.settings.str.extract(rf"^{setting}=([^, ]+)$")[0], errors="coerce")
    plain = [getattr(make_config(dataset, scenario, profile=profile), setting) for scenario in rows.scenario]
    rows = rows.assign(value=other.where(rows.settings != "", plain)).dropna(subset="value")
    rows = rows[rows.groupby("scenario").value.transform("nunique") > 1]
    means = rows.groupby(["scenario", "value"]).agg(seeds=("seed", "nunique"), auroc=("auroc", "mean"), spread=("auroc", "std"))
    place = {name: number for number, name in enumerate(SCENARIOS.get(dataset, {}))}
    table = means.reset_index().assign(place=lambda each: each.scenario.map(place).fillna(len(place)))
    return table.sort_values(["place", "scenario", "value"], ignore_index=True).drop(columns="place")


def figure3(frame: pd.DataFrame, dataset: str, setting: str, *, profile: str = "fast", note: str = "") -> go.Figure:
    """CLAD's AUROC (ODIN) against one setting, a line a scenario as in the paper's figure 3, beside DeepSVDD's mean.

    `note` follows the line on how to read it. ValueError when no run varies that setting.
    """
    table, named = sweep(frame, dataset, setting, profile=profile), NAMES.get(setting, setting)
    if table.empty:
        raise ValueError(f"no {dataset} run varies {setting} alone: run `python -m clad_lib batch studies/ablation.toml` first")
    values = sorted(table.value.unique())
    lines = {str(name): rows.set_index("value").reindex(values) for name, rows in table.groupby("scenario", sort=False)}
    seeds = " to ".join(str(count) for count in sorted({table.seeds.min(), table.seeds.max()}))
    figure = plots.ablation_lines(
        values, {name: rows.auroc.to_numpy() for name, rows in lines.items()}, setting=named,
        spread={name: rows.spread.to_numpy() for name, rows in lines.items() if rows.spread.notna().any()},
        reference=deep_svdd(frame, dataset, list(lines), profile=profile), title=f"CLAD (ODIN) on {dataset}: {named}",
        note=f"Profile {profile}, nothing else changed; mean and sample deviation over seeds ({seeds} a point). {note}".strip(),
    )  # fmt: skip
    told = ", ".join(f"{row.scenario} {row.auroc:.3f} at {row.value:g}" for row in table.itertuples())
    return figure.update_layout(meta={"alt": f"AUROC against {named}: {told}.", "title": figure.layout.meta["title"]})


def deep_svdd(frame: pd.DataFrame, dataset: str, scenarios: list[str], *, profile: str = "fast") -> tuple[str, float] | None:
    """DeepSVDD's mean AUROC over the scenarios, and a name that says whose: ours where all were run, else the paper's."""
    ours = results.summary(frame[(frame.profile == profile) & (frame.settings == "")])
    paper = results.paper_results().rename(columns={"paper": "auroc"})
    for name, rows in (("ours", ours), ("the paper's", paper)):
        found = rows[(rows.dataset == dataset) & (rows.method == "DeepSVDD") & rows.scenario.isin(scenarios)]
        if set(found.scenario) == set(scenarios):
            return f"DeepSVDD, {name}", float(found.auroc.mean())
    return None


def varied(frame: pd.DataFrame, *, profile: str = "fast") -> list[tuple[str, str]]:
    """The data sets and settings of NAMES that have three values or more, enough for a figure 3."""
    pairs = itertools.product(sorted(frame.dataset.unique()), NAMES)
    return [pair for pair in pairs if sweep(frame, *pair, profile=profile).value.nunique() > 2]


def write_figures(frame: pd.DataFrame, folder: Path, *, note: str = "") -> list[Path]:
    """figure3_<dataset>_<setting> as .csv, .html and, where a browser is found, .png, for each pair that `varied` finds."""
    written = []
    for dataset, setting in varied(frame):
        figure, base = figure3(frame, dataset, setting, note=note), folder / f"figure3_{dataset}_{setting}"
        sweep(frame, dataset, setting).to_csv(base.with_suffix(".csv"), index=False)
        figure.write_html(base.with_suffix(".html"), include_plotlyjs="cdn")
        written += [base.with_suffix(".csv"), base.with_suffix(".html")]
        if picture := plots.png_bytes(figure, scale=2):
            base.with_suffix(".png").write_bytes(picture)
            written.append(base.with_suffix(".png"))
    return written
