"""Commands around finished runs: `clad results`, `figures`, `notebooks`, `runs` and `cache`."""

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from clad_lib.commands import Dataset, Runs, Scenario, Seed, app, open_run


@app.command()
def results(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(help="a question to the views `results` and `scores`")] = "",
    runs: Runs = Path("runs"),
    as_: Annotated[Literal["text", "markdown", "csv"], typer.Option("--format")] = "text",
    add: Annotated[
        Path | None, typer.Option(help="a CSV of index and score, as one more method")
    ] = None,
    method: Annotated[str, typer.Option(help="the name under which --add stands")] = "Mine",
    dataset: Dataset = "digits",
    scenario: Scenario = "MIX",
    seed: Seed = 0,
) -> None:
    """The finished runs as a table: SELECT what you like, or per scenario and method."""
    from clad_lib.study import measure, tables, words
    from clad_lib.study import results as kept

    if add is not None:
        added = measure.add_scores(open_run(context.params), add, method)
        typer.echo(f"added to {added}")
    frame = kept.collect_some(runs)
    typer.echo(words.formatted(kept.query(frame, sql) if sql else tables.summary(frame), as_))


@app.command()
def figures(
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option(help="folder for the tables and figures")] = Path("figures"),
) -> None:
    """Write the tables and the figure 3 of the finished runs as CSV, Markdown, HTML and PNG."""
    from clad_lib.look.report import write_tables
    from clad_lib.study.results import collect_some

    typer.echo("\n".join(map(str, write_tables(collect_some(runs), out))))


@app.command()
def notebooks(
    action: Literal["copy"],
    folder: Annotated[Path, typer.Argument(help="where your own copies go")] = Path("my_notebooks"),
) -> None:
    """Copy the notebooks to a folder of your own, so that saving changes no tracked file."""
    from clad_lib.study.notebooks import copy_notebooks

    typer.echo("\n".join(map(str, copy_notebooks(folder))))


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="the folder of runs")] = Path("runs"),
    remove_stale: Annotated[bool, typer.Option(help="remove what no current row can find")] = False,
) -> None:
    """List what lies under runs/ and its size; remove what no current row can find."""
    from clad_lib.study.results import contents

    table = contents(folder.resolve())
    if table.empty:
        typer.echo(f"nothing in {folder}")
        return
    stale = table[table.stale]
    typer.echo(table.drop(columns="folder").to_string(index=False))
    sizes = f"{table.megabytes.sum():.1f} MB, {stale.megabytes.sum():.1f} MB of it"
    typer.echo(f"{len(table)} artefacts, {sizes} in {len(stale)} stale ones")
    for gone in stale.folder if remove_stale else ():
        shutil.rmtree(gone, ignore_errors=True)
        typer.echo(f"removed {gone}")


@app.command()
def cache(clear: Annotated[bool, typer.Option(help="remove the decoded images")] = False) -> None:
    """Show the cache of decoded images, or clear it: they are decoded again when needed."""
    from clad_lib.data.cache import cached_files

    for path in cached_files():
        typer.echo(f"{path.stat().st_size / 1e6:8.1f} MB  {path}{'  removed' if clear else ''}")
        if clear:
            path.unlink(missing_ok=True)
