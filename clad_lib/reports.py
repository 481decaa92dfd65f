"""What the commands say about a study on the terminal: its table, and where its pictures are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from clad_lib.batch import Report
from clad_lib.calibration import NONE, Threshold, in_words
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
    if opened.config.profile == "smoke":
        typer.echo("profile smoke hardly trains: it proves that the parts fit, and its numbers say nothing")
    done = [name for name in names if opened.run.has(name)]
    if opened.split.answers.test_anomaly.any():
        typer.echo(f"{'method':<20} {'AUROC':>6} {'95 % interval':>15} {'AUPR':>6} {'FPR@95TPR':>10}")
    for name in done:
        metrics = json.loads((opened.run.find(name) / "metrics.json").read_text())
        label = f"{name} (oracle)" if name == "Oracle" else name
        if "auroc" not in metrics:
            typer.echo(f"{label:<20} {threshold_of(metrics)}\n{'':<20} {opened.run.find(name)}")
            continue
        interval = f"{100 * metrics['auroc_low']:.1f} to {100 * metrics['auroc_high']:.1f}"
        typer.echo(f"{label:<20} {100 * metrics['auroc']:6.1f} {interval:>15} {100 * metrics['aupr_anomaly']:6.1f} "
                   f"{100 * metrics['fpr95']:10.1f}")  # fmt: skip


def threshold_of(metrics: dict[str, Any]) -> str:
    """The threshold of a run on normal images alone, its promise and the share of test images that alarm; or why none."""
    known: dict[str, Any] = {"value": float("inf")} | metrics["threshold"]
    found, size = Threshold(**known), metrics["images"]
    if found.guarantee == NONE:
        return in_words(found)
    alarms = f"{100 * metrics['alarm_rate']:.1f} % of the {size['test']} test images alarm"
    return f"alarm above {found.value:.6g}. {in_words(found)}; {alarms}"


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
