"""The command line: `python -m clad_lib study`, and the rest that needs no notebook open."""

from __future__ import annotations

import ast
import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from clad_lib.config import make_config

INTERRUPTED = 130  # how Typer reports ctrl-C

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Dataset = Annotated[str, typer.Option(help="digits, mnist, gtsrb, cifar10, tiny_imagenet, or a folder of images")]
Scenario = Annotated[str, typer.Option(help="such as CUR; a label such as 3; or a grouping such as 0+3+8")]
Profile = Annotated[
    str, typer.Option(help="smoke (only proves that all fits: read no number), fast, or paper (the published settings)")
]
Seed = Annotated[int, typer.Option(help="seed of the split, the weights and the batches")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")]
Runs = Annotated[Path, typer.Option(help="folder for everything that a run writes")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="another hyper-parameter, such as temperature=1")]


@app.command()
def study(
    dataset: Dataset = "digits",
    scenario: Scenario = "CUR",
    profile: Profile = "fast",
    seed: Seed = 0,
    notebooks: Annotated[str, typer.Option(help="some of them, by number: 02,03; or all, with the long 07")] = "",
    device: Device = "auto",
    runs: Runs = Path("runs"),
    settings: Settings = None,
) -> None:
    """Execute the notebooks in order on one scenario, write their pictures, and print the table."""
    from clad_lib import headless, pipeline, reports

    config = make_config(dataset, scenario, profile=profile, seed=seed, **_parse(settings or []))
    chosen = headless.choose_notebooks([name.strip() for name in notebooks.split(",") if name.strip()])
    opened = pipeline.open_study(config, runs_root=runs.resolve(), device=device)  # fails early, before any kernel
    parameters = headless.notebook_parameters(config, runs, device)
    executed = headless.execute_all(chosen, parameters, opened.folder / "notebooks")
    pictures = headless.write_pictures(executed, opened.folder / "pictures")
    reports.report(opened, executed, pictures)


@app.command()
def run(
    dataset: Dataset = "digits",
    scenario: Scenario = "CUR",
    profile: Profile = "fast",
    seed: Seed = 0,
    methods: Annotated[str, typer.Option(help="all, or some of them: ODIN,KNN,OCSVM")] = "all",
    device: Device = "auto",
    runs: Runs = Path("runs"),
    settings: Settings = None,
) -> None:
    """Train and score without notebooks: every method on one scenario and seed, what is finished is kept; print the table."""
    from clad_lib import methods as known
    from clad_lib import pipeline, reports

    wanted = known.METHODS if methods == "all" else tuple(name.strip() for name in methods.split(","))
    if unknown := [name for name in wanted if name not in known.METHODS]:
        raise ValueError(f"unknown method {unknown[0]!r}: expected all, or some of {', '.join(known.METHODS)}")
    config = make_config(dataset, scenario, profile=profile, seed=seed, **_parse(settings or []))
    opened = pipeline.open_study(config, runs_root=runs.resolve(), device=device)
    for name in wanted:
        known.prepare(opened, name)
        known.scores(opened, name)
    reports.table(opened, wanted)


@app.command()
def batch(
    study: Annotated[Path, typer.Argument(help="a TOML file, such as studies/smoke.toml")],
    workers: Annotated[int, typer.Option(min=0, help="processes on this machine; 0: one a core, or one a GPU")] = 0,
    scheduler: Annotated[str, typer.Option(help="address of a running Dask scheduler, tcp://host:8786")] = "",
    device: Device = "auto",
    runs: Runs = Path("runs"),
    dry_run: Annotated[bool, typer.Option(help="print the jobs, what is done, and an estimate of the time left")] = False,
    retry_failed: Annotated[bool, typer.Option(help="run jobs again that failed before")] = False,
) -> None:
    """Execute a whole study with papermill on Dask; what is done is found again, so the same command resumes."""
    from clad_lib import batch as engine
    from clad_lib import cluster, jobs, reports
    from clad_lib.studies import read_study
    from clad_lib.training import pick_device

    found = read_study(study)
    if not scheduler:
        pick_device(device)
    planned = jobs.plan(found.configs, found.methods, runs.resolve())
    workers = workers or cluster.default_workers(device)
    if dry_run:
        typer.echo(engine.overview(planned, workers))
        return
    report = engine.run_batch(
        planned, name=found.name, workers=workers, scheduler=scheduler, device=device, retry_failed=retry_failed
    )
    if not reports.batch(found.title, planned, report):
        raise typer.Exit(1)


@app.command()
def dashboard(
    dataset: Dataset = "digits",
    scenario: Scenario = "CUR",
    profile: Profile = "fast",
    seed: Seed = 0,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    settings: Settings = None,
    ip: Annotated[str, typer.Option(help="any other address lets people look, without a password")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8866,
    browser: Annotated[bool, typer.Option(help="open a browser")] = True,
) -> None:
    """Serve the explorers of a finished run as a web page without code (Voila)."""
    from clad_lib import dashboard as page
    from clad_lib import headless, pipeline

    config = make_config(dataset, scenario, profile=profile, seed=seed, **_parse(settings or []))
    opened = pipeline.open_study(config, runs_root=runs.resolve(), device=device)
    if not opened.run.has("ODIN"):
        typer.echo("this run has no scores yet: `python -m clad_lib study` with the same options makes them")
    parameters = headless.notebook_parameters(config, runs, device) | {"local": ip in page.LOOPBACK}
    prepared = page.prepare(parameters, opened.folder / page.PAGE)
    typer.echo(f"http://{ip}:{port}  (ctrl-C ends it)")
    raise typer.Exit(page.serve(prepared, ip=ip, port=port, browser=browser))


@app.command()
def results(
    sql: Annotated[str, typer.Argument(help="a question to the views `results` and `scores`; empty: the ready table")] = "",
    runs: Runs = Path("runs"),
    as_: Annotated[str, typer.Option("--format", help="text, markdown or csv")] = "text",
    mlflow: Annotated[str, typer.Option(help="log the runs to this folder or address of MLflow instead, each once")] = "",
) -> None:
    """The finished runs as a table: SELECT what you like, or per scenario and method beside the paper."""
    from clad_lib import marks, tables, tracking
    from clad_lib import results as tables_of

    frame = _collected(runs)
    if mlflow:
        logged, known = tracking.export(frame, mlflow)
        typer.echo(f"{logged} runs logged to {mlflow}, {known} were there already")
    elif sql or as_ != "markdown":
        typer.echo(tables.formatted(tables_of.query(frame, sql) if sql else tables.ready(frame), as_))
    else:
        typer.echo(f"{tables.formatted(marks.marked(tables.ready(frame)), as_)}\n\n{marks.LEGEND}")


@app.command()
def keep(
    runs: Runs = Path("runs"),
    into: Annotated[Path, typer.Option(help="the tidy file; a row of the same run and seed is replaced")] = Path(
        "results/measured.csv"
    ),
    note: Annotated[str, typer.Option(help="what else the command needs, such as OMP_NUM_THREADS=1")] = "",
) -> None:
    """Merge the finished runs into the committed measurements; runs of uncommitted code are refused, status 1."""
    from clad_lib import records

    kept = records.keep(_collected(runs), into, note=note)
    for line in kept.refused:
        typer.echo(line, err=True)
    typer.echo(f"{into}: {kept.added} rows added, {kept.replaced} replaced, {len(kept.refused)} runs not kept")
    if kept.refused:
        raise typer.Exit(1)


@app.command()
def figures() -> None:
    """Rebuild the README's tables, figures/table_* and, where its runs are there, figure 3, from results/measured.csv alone."""
    from clad_lib import headless, tables

    for path in tables.write_all(headless.notebook_folder().parent):
        typer.echo(path.name)


@app.command()
def notebooks(only: Annotated[str, typer.Option(help="some of them, by number: 02,03")] = "") -> None:
    """Re-execute the default study and rewrite the committed notebooks and figures/ from it."""
    from clad_lib import headless

    chosen = headless.choose_notebooks([name.strip() for name in only.split(",") if name.strip()] or ["all"])
    headless.rewrite(chosen)
    typer.echo(f"rewrote {', '.join(path.name for path in chosen)}")


def _collected(runs: Path) -> Any:
    from clad_lib.results import collect

    frame = collect(runs)
    if frame.empty:
        raise ValueError(
            f"no finished run in {runs}: start with `python -m clad_lib batch studies/smoke.toml`, or name a folder with --runs"
        )
    return frame


def _parse(settings: list[str]) -> dict[str, Any]:
    """`name=value` pairs as Python values; a value that is no literal is a string."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set got {setting!r}: expected name=value, such as temperature=1")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit status 1."""
    from clad_lib.batch import BatchError
    from clad_lib.headless import NotebookError
    from clad_lib.runs import RunError
    from clad_lib.training import TrainingError

    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # an interrupted kernel leaves tasks that complain
    try:
        status = app(standalone_mode=False)
    except (BatchError, NotebookError, RunError, TrainingError, ValueError, TypeError) as error:
        sys.exit(f"clad: {error}")
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except typer.Exit as error:
        status = error.exit_code
    except Exception as error:
        if type(error).__module__.startswith("click") or hasattr(error, "format_message"):
            sys.exit(f"clad: {error.format_message()}")  # type: ignore[attr-defined]
        raise
    if status == INTERRUPTED:
        sys.exit("clad: interrupted; finished stages are kept, the same command goes on from there")
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
