"""What the commands say about a study on the terminal: its table, and where its pictures are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from clad_lib.batch import Report
from clad_lib.headless import LONG
from clad_lib.jobs import Job
from clad_lib.methods import METHODS


def report(opened: Any, executed: list[Path], pictures: list[Path]) -> None:
    """The table of all methods, and where the pictures and the executed notebooks lie."""
    table(opened, METHODS)
    shown = sum(path.suffix == ".html" for path in pictures)
    typer.echo(f"\n{shown} pictures: {opened.folder / 'pictures'}")
    if not any(path.suffix == ".png" for path in pictures):
        typer.echo("no Chrome or Chromium was found: the pictures are HTML only")
    if executed:
        typer.echo(f"executed notebooks: {executed[0].parent}")
        left = [name for name in LONG if name not in {path.stem for path in executed}]
        typer.echo(f"not executed, because it trains many times: {left[0]} (add --notebooks {left[0][:2]})") if left else None


def table(opened: Any, names: Sequence[str]) -> None:
    """The finished ones of the methods, in percent, with the bootstrap interval of the AUROC."""
    typer.echo(f"\n{opened.config.dataset} {opened.split.scenario.name}: {opened.split.scenario.title} is normal; "
               f"profile {opened.config.profile}, protocol {opened.config.protocol}, seed {opened.config.seed}")  # fmt: skip
    typer.echo(f"{'method':<20} {'AUROC':>6} {'95 % interval':>15} {'AUPR':>6} {'FPR@95TPR':>10}")
    for name in names:
        if not opened.run.has(name):
            continue
        metrics = json.loads((opened.run.find(name) / "metrics.json").read_text())
        label = f"{name} (oracle)" if name == "Oracle" else name
        if "auroc" not in metrics:
            typer.echo(f"{label:<20} no anomalies in the test split; {100 * metrics['alarm_rate']:.1f} % of it alarm")
            continue
        interval = f"{100 * metrics['auroc_low']:.1f} to {100 * metrics['auroc_high']:.1f}"
        typer.echo(f"{label:<20} {100 * metrics['auroc']:6.1f} {interval:>15} {100 * metrics['aupr_anomaly']:6.1f} "
                   f"{100 * metrics['fpr95']:10.1f}")  # fmt: skip


def batch(title: str, planned: Sequence[Job], report: Report) -> bool:
    """How a batch ended, each failed job with its error and its folder; whether everything is done."""
    counts = {status: report.count(status) for status in ("done", "failed", "blocked")}
    typer.echo(f"{title}: {', '.join(f'{count} {status}' for status, count in counts.items())} in {report.seconds:.0f} s")
    for job in planned:
        if report.outcomes[job.key].status == "failed":
            typer.echo(f"failed: {job.title}: {report.outcomes[job.key].error}\n  {job.failure}")
    if counts["failed"] or counts["blocked"]:
        typer.echo("look at the notebooks in those folders, then give the command again with --retry-failed")
    return not counts["failed"] and not counts["blocked"]
