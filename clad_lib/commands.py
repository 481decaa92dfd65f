"""Commands: `clad study` with the notebooks, `clad run` without, and all around them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Annotated, Any

import typer

from clad_lib.config import Config, make_config

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="One-class anomaly detection: a study in notebooks, and a detector for your images.",
)

Dataset = Annotated[
    str, typer.Option(help="digits, mnist, gtsrb, cifar10, tiny_imagenet, or a folder of images")
]
Scenario = Annotated[
    str, typer.Option(help="such as CUR; a label such as 3; or a grouping such as 0+3+8")
]
Profile = Annotated[str, typer.Option(help="smoke (read no number), fast, or paper (as published)")]
Seed = Annotated[int, typer.Option(help="seed of the split, the weights and the batches")]
Size = Annotated[
    int | None, typer.Option(help="side in pixels to which a folder's images are brought")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")]
Threads = Annotated[int, typer.Option(min=1, help="another number gives other last digits")]
Runs = Annotated[Path, typer.Option(help="folder for everything that a run writes")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="another setting, such as temperature=1")
]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="print it and stop")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"clad {installed('clad-lib')}")
        raise typer.Exit


@app.command()
def study(
    dataset: Dataset = "digits",
    scenario: Scenario = "MIX",
    profile: Profile = "fast",
    seed: Seed = 0,
    size: Size = None,
    notebooks: Annotated[str, typer.Option(help="by number: 02,03-05; all, with 07 and 09")] = "",
    device: Device = "auto",
    runs: Runs = Path("runs"),
    settings: Set = None,
) -> None:
    """Execute the notebooks on one scenario, write the report, and print the table."""
    from clad_lib.look import report
    from clad_lib.study import notebooks as runner
    from clad_lib.study.batch import run_study
    from clad_lib.study.engine import open_study

    config = make_run_config(dataset, scenario, profile, seed, size, settings)
    chosen = runner.choose_notebooks(notebooks)
    opened = open_study(config, runs=runs.resolve(), device=device)  # fails before any kernel
    ended = run_study(opened, chosen, device=device, say=typer.echo)
    for line in report.closing_lines(opened, ended):
        typer.echo(line)
    if ended.lacking:
        raise typer.Exit(1)


@app.command()
def run(
    dataset: Dataset = "digits",
    scenario: Scenario = "MIX",
    profile: Profile = "fast",
    seed: Seed = 0,
    size: Size = None,
    methods: Annotated[str, typer.Option(help="all, or some of them: ODIN,KNN,OCSVM")] = "all",
    device: Device = "auto",
    threads: Threads = 1,
    runs: Runs = Path("runs"),
    settings: Set = None,
) -> None:
    """Train and score without notebooks: methods on one scenario and seed, and the table."""
    from clad_lib.study import stages
    from clad_lib.study.engine import open_study
    from clad_lib.study.words import scores_in_words

    wanted = stages.choose_methods(methods)
    config = make_run_config(dataset, scenario, profile, seed, size, settings)
    opened = open_study(config, runs=runs.resolve(), device=device, threads=threads)
    failed = {}
    for name in wanted:
        try:
            _ = opened[name]
        except ValueError as error:  # this method cannot run on these images: the others can
            failed[name] = str(error)
    for line in scores_in_words(opened, wanted, failed):
        typer.echo(line)
    if len(failed) == len(wanted):
        raise typer.Exit(1)


@app.command()
def batch(
    study: Annotated[Path, typer.Argument(help="a TOML file, such as studies/smoke.toml")],
    workers: Annotated[int, typer.Option(min=0, help="processes here; 0: one a core or GPU")] = 0,
    scheduler: Annotated[
        str, typer.Option(help="address of a running Dask scheduler, tcp://host:8786")
    ] = "",
    device: Device = "auto",
    runs: Runs = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option(help="print the jobs, what is done, and the time left")
    ] = False,
    retry_failed: Annotated[bool, typer.Option(help="run jobs again that failed before")] = False,
) -> None:
    """Execute a whole study with papermill on Dask; the same command resumes it."""
    from clad_lib.look.report import write_batch_report
    from clad_lib.study import batch as engine
    from clad_lib.study import cluster, jobs
    from clad_lib.study.grid import read_grid

    grid = read_grid(study)
    planned = jobs.plan(grid.configs, grid.methods, runs.resolve())
    workers = workers or cluster.default_workers(device)
    if dry_run:
        typer.echo(engine.overview(planned, workers))
        return
    report = engine.run_batch(
        planned,
        name=grid.name,
        workers=workers,
        scheduler=scheduler,
        device=device,
        retry_failed=retry_failed,
    )
    for line in engine.in_words(grid.title, report):
        typer.echo(line)
    page = runs.resolve() / "batches" / f"{grid.name}.html"
    typer.echo(f"report: {write_batch_report(grid.title, report, page)}")
    if report.count("done") < len(planned):
        raise typer.Exit(1)


@app.command()
def dashboard(
    dataset: Dataset = "digits",
    scenario: Scenario = "MIX",
    profile: Profile = "fast",
    seed: Seed = 0,
    size: Size = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    settings: Set = None,
    ip: Annotated[
        str, typer.Option(help="any other address lets people look, without a password")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8866,
    browser: Annotated[bool, typer.Option(help="open a browser")] = True,
) -> None:
    """Serve the explorers of a finished run as a web page without code (Voila)."""
    from clad_lib.study import dashboard as page
    from clad_lib.study.engine import open_study

    config = make_run_config(dataset, scenario, profile, seed, size, settings)
    opened = open_study(config, runs=runs.resolve(), device=device)
    if not opened.has("ODIN"):
        typer.echo("this run has no scores yet: `clad study` with the same options makes them")
    typer.echo(f"http://{ip}:{port}  (ctrl-C ends it)")
    raise typer.Exit(page.serve(opened, ip=ip, port=port, browser=browser))


def make_run_config(
    dataset: str,
    scenario: str,
    profile: str,
    seed: int,
    size: int | None,
    settings: list[str] | None,
) -> Config:
    """The configuration of a run from its options."""
    more = parse_settings(settings or []) | ({} if size is None else {"size": size})
    return make_config(dataset, scenario, profile=profile, seed=seed, **more)


def parse_settings(settings: list[str]) -> dict[str, Any]:
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
