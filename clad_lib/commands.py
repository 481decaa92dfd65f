"""Commands: `clad study` with the notebooks, `clad run` without, and all around them."""

import ast
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from clad_lib.config import check_fields, datasets, make_config
from clad_lib.study import stages

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="One-class anomaly detection: a study in notebooks, and a detector for your images.",
)

Dataset = Annotated[str, typer.Option(help=f"{', '.join(datasets())}, or a folder of images")]
Scenario = Annotated[
    str, typer.Option(help="such as CUR; a label such as 3; or a grouping such as 0+3+8")
]
Profile = Annotated[
    str, typer.Option(help="smoke (read no number), fast, best (a GPU) or paper (as published)")
]
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
        typer.echo(f"clad {metadata.version('clad-lib')}")
        raise typer.Exit


@app.command()
def study(
    context: typer.Context,
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
    from clad_lib.look.report import write_report
    from clad_lib.study import batch, jobs, words
    from clad_lib.study.notebooks import choose_notebooks

    chosen = choose_notebooks(notebooks)  # this and the next fail before any kernel
    opened = open_run(context.params)
    planned = jobs.plan_study(opened.places, chosen, opened.folder)
    ended = batch.run_batch(planned, name="study", device=device, retry_failed=True, say=typer.echo)
    page, told = write_report(opened, ended), words.scores_in_words(opened, stages.methods())
    typer.echo("\n".join([*told, "", *batch.in_words("study", ended), f"report: {page}"]))
    raise typer.Exit(1 if ended.lacking else 0)


@app.command()
def run(
    context: typer.Context,
    dataset: Dataset = "digits",
    scenario: Scenario = "MIX",
    profile: Profile = "fast",
    seed: Seed = 0,
    size: Size = None,
    methods: Annotated[
        str, typer.Option(help=f"all, or some joined by commas: {', '.join(stages.methods())}")
    ] = "all",
    device: Device = "auto",
    threads: Threads = 1,
    runs: Runs = Path("runs"),
    settings: Set = None,
) -> None:
    """Train and score without notebooks: methods on one scenario and seed, and the table."""
    from clad_lib.study import words

    wanted, failed = stages.choose_methods(methods), {}
    opened = open_run(context.params)
    for name in wanted:
        try:
            _ = opened[name]
        except ValueError as error:  # this method cannot run on these images: the others can
            failed[name] = str(error)
    typer.echo("\n".join(words.scores_in_words(opened, wanted, failed)))
    raise typer.Exit(1 if len(failed) == len(wanted) else 0)


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
    from clad_lib.study import cluster, grid, jobs

    read, root = grid.read_grid(study), runs.resolve()
    planned = jobs.plan(read.configs, read.methods, root)
    if dry_run:
        typer.echo(engine.overview(planned, workers or cluster.default_workers(device)))
        return
    report = engine.run_batch(
        planned,
        name=read.name,
        workers=workers,
        scheduler=scheduler,
        device=device,
        retry_failed=retry_failed,
    )
    page = write_batch_report(read.title, report, root / "batches" / f"{read.name}.html")
    typer.echo("\n".join([*engine.in_words(read.title, report), f"report: {page}"]))
    raise typer.Exit(1 if report.lacking else 0)


@app.command()
def dashboard(
    context: typer.Context,
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
    from clad_lib.study.dashboard import serve

    opened = open_run(context.params)
    if not opened.has("ODIN"):
        typer.echo("this run has no scores yet: `clad study` with the same options makes them")
    typer.echo(f"http://{ip}:{port}  (ctrl-C ends it)")
    raise typer.Exit(serve(opened, ip=ip, port=port, browser=browser))


def open_run(options: dict[str, Any]) -> Any:
    """The Study that the options of a command describe; what --set says comes last.

    A value that is no Python literal is a string. Raises ValueError for other than name=value.
    """
    from clad_lib.study import engine

    names = "dataset", "scenario", "profile", "seed", "size"
    values = {name: options[name] for name in names if options.get(name) is not None}
    for setting in options.get("settings") or ():
        name, equals, text = setting.partition("=")
        if not (equals and name):
            raise ValueError(f"--set got {setting!r}: expected name=value, such as temperature=1")
        values[name] = text
        with suppress(ValueError, SyntaxError):
            values[name] = ast.literal_eval(text)
    how = {name: options[name] for name in ("device", "threads") if name in options}
    return engine.open_study(
        make_config(**check_fields(values)),  # settings alone: make_config takes more
        runs=Path(options["runs"]).resolve(),
        **how,
    )
