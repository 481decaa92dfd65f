"""Commands around finished runs: `clad results`, `figures`, `notebooks`, `runs` and `cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clad_lib.commands import Dataset, Runs, Scenario, Seed, app
from clad_lib.config import make_config


@app.command()
def results(
    sql: Annotated[str, typer.Argument(help="a question to the views `results` and `scores`")] = "",
    runs: Runs = Path("runs"),
    as_: Annotated[str, typer.Option("--format", help="text, markdown or csv")] = "text",
    add: Annotated[
        Path | None, typer.Option(help="a CSV of index and score, as one more method")
    ] = None,
    method: Annotated[str, typer.Option(help="the name under which --add stands")] = "Mine",
    dataset: Dataset = "digits",
    scenario: Scenario = "MIX",
    seed: Seed = 0,
) -> None:
    """The finished runs as a table: SELECT what you like, or per scenario and method."""
    from clad_lib.study import results as kept
    from clad_lib.study.tables import summary
    from clad_lib.study.words import formatted

    if add is not None:
        from clad_lib.study.engine import open_study
        from clad_lib.study.measure import add_scores

        opened = open_study(make_config(dataset, scenario, seed=seed), runs=runs.resolve())
        typer.echo(f"added to {add_scores(opened, add, method)}")
    frame = kept.collect_some(runs)
    typer.echo(formatted(kept.query(frame, sql) if sql else summary(frame), as_))


@app.command()
def figures(
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option(help="folder for the tables and figures")] = Path("figures"),
) -> None:
    """Write the tables and the figure 3 of the finished runs as CSV, Markdown, HTML and PNG."""
    from clad_lib.look.report import write_tables
    from clad_lib.study.results import collect_some

    for path in write_tables(collect_some(runs), out):
        typer.echo(path)


@app.command()
def notebooks(
    action: Annotated[str, typer.Argument(help="copy")],
    folder: Annotated[Path, typer.Argument(help="where your own copies go")] = Path("my_notebooks"),
) -> None:
    """Copy the notebooks to a folder of your own, so that saving changes no tracked file."""
    from clad_lib.study.notebooks import copy_notebooks

    if action != "copy":
        raise typer.BadParameter(f"{action!r}: expected copy")
    for path in copy_notebooks(folder):
        typer.echo(path)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="the folder of runs")] = Path("runs"),
    remove_stale: Annotated[bool, typer.Option(help="remove what no current row can find")] = False,
) -> None:
    """List what lies under runs/ and its size; remove what no current row can find."""
    from clad_lib.study import housekeeping

    table = housekeeping.contents(folder.resolve())
    if table.empty:
        typer.echo(f"nothing in {folder}")
        return
    typer.echo(table.drop(columns="folder").to_string(index=False))
    stale = table[table.stale]
    sizes = f"{table.megabytes.sum():.1f} MB, {stale.megabytes.sum():.1f} MB of it"
    typer.echo(f"{len(table)} artefacts, {sizes} in {len(stale)} stale ones")
    if remove_stale:
        typer.echo(f"removed {len(housekeeping.remove_stale(folder.resolve()))}")


@app.command()
def cache(clear: Annotated[bool, typer.Option(help="remove the decoded images")] = False) -> None:
    """Show the cache of decoded images, or clear it."""
    from clad_lib.data import cache

    for path, megabytes in cache.cache_contents():
        typer.echo(f"{megabytes:8.1f} MB  {path}")
    if clear:
        typer.echo(f"removed {cache.clear_cache()} files")
