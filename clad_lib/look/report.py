"""The report of a run as one page that can be sent, and the tables of many runs as files."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from plotly.offline import get_plotlyjs

from clad_lib.look import charts, files, tables
from clad_lib.study.store import RECORD, write_atomically

if TYPE_CHECKING:
    from clad_lib.study.batch import Report
    from clad_lib.study.engine import Study

LARGEST = 6_000_000  # bytes of a page, so that it can be sent
PLOTLY = "application/vnd.plotly.v1+json"
SWEPT = {"clusters": "number of clusters K", "latent": "latent size D"}  # figure 3
MADE_BY = ["commit", "versions", "machine", "threads", "precision", "device", "data", "source"]
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><style>
body {{font: 16px/1.5 sans-serif; max-width: 1000px; margin: auto; padding: 1em; color: #222}}
table {{border-collapse: collapse; display: block; overflow-x: auto}}
td, th {{padding: 2px 8px; text-align: left; vertical-align: top}}
figure {{margin: 2em 0}} figure img {{max-width: 100%}} figcaption {{color: #595959}}
[data-figure] {{min-height: 450px}}
</style></head><body><main><h1>{title}</h1>
{body}
</main>
<script>
const unpack = async text => new Response(new Blob([Uint8Array.from(atob(text),
  each => each.charCodeAt(0))]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
(async () => {{
  const script = document.createElement("script");
  script.textContent = await unpack("{script}");
  document.head.append(script);
  const draw = new IntersectionObserver(seen => seen.filter(each => each.isIntersecting)
    .forEach(async ({{target}}) => {{
      draw.unobserve(target);
      const figure = JSON.parse(await unpack(target.dataset.figure));
      target.textContent = "";
      Plotly.newPlot(target, {{...figure, config: {{responsive: true, displaylogo: false}}}});
    }}), {{rootMargin: "800px"}});
  document.querySelectorAll("[data-figure]").forEach(each => draw.observe(each));
}})();
</script></body></html>
"""


class Picture(NamedTuple):
    """A picture in an executed notebook: a plotly figure as a dict, a PNG in base64, or both."""

    name: str
    title: str
    alt: str
    figure: dict[str, Any] | None
    png: str


def pictures_of(notebook: Path) -> list[Picture]:
    """The pictures in the outputs of an executed notebook, in order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    found: list[Picture] = []
    for output in [output for cell in cells for output in cell.get("outputs", [])]:
        data = output.get("data", {})
        figure, png = data.get(PLOTLY), "".join(data.get("image/png", ""))
        if figure or png:
            stored = output.get("metadata", {}).get("image/png", {})
            about = (figure or {}).get("layout", {}).get("meta") or stored
            title = about.get("title", "picture")
            slug = "_".join(re.findall(r"[a-z0-9]+", title.lower())[:5])
            name = f"{notebook.stem}-{len(found) + 1}-{slug}"
            found.append(Picture(name, title, about.get("alt", title), figure, png))
    return found


def page(title: str, parts: Mapping[str, str], notebooks: Iterable[Path]) -> str:
    """One page that opens without a network: parts, heading -> HTML, then the notebooks' pictures.

    All figures share one compressed plotly script. Pictures that would make the page larger than
    LARGEST bytes are left out, and counted.
    """
    script = packed(get_plotlyjs())
    body = [f"<h2>{html.escape(head)}</h2>\n{text}" for head, text in parts.items() if text]
    room = LARGEST - len(PAGE) - len(script) - len("\n".join(body).encode()) - 1000
    pictures = [_figure(each) for path in notebooks for each in pictures_of(path)]
    kept = list(_that_fit(pictures, room))
    if len(kept) < len(pictures):
        left = f"{len(pictures) - len(kept)} pictures are too large for this page"
        body.append(f"<p>{left}: they stand in the executed notebooks.</p>")
    return PAGE.format(title=html.escape(title), body="\n".join(body + kept), script=script)


def packed(text: str) -> str:
    """Text compressed, in base64, for a page that unpacks it."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _that_fit(parts: Iterable[str], room: int) -> Iterator[str]:
    for part in parts:
        if len(part.encode()) < room:
            room -= len(part.encode()) + 1
            yield part


def _figure(picture: Picture) -> str:
    alt = html.escape(picture.alt)
    shown = f'<img src="data:image/png;base64,{picture.png}" alt="{alt}">'
    if picture.figure:
        drawn = packed(json.dumps(picture.figure))
        shown = f'<div role="img" aria-label="{alt}" data-figure="{drawn}">{alt}</div>'
    return f"<figure>{shown}<figcaption>{html.escape(picture.title)}</figcaption></figure>"


def write_report(study: Study, report: Report) -> Path:
    """Write report.html of a study: verdict, table, promises, pictures, settings, provenance."""
    from clad_lib.config import as_dict
    from clad_lib.study import words
    from clad_lib.study.stages import methods

    found = words.finished(study, methods())
    verdict, table = words.verdict(study, found), words.table_of(study, found)
    promised: dict[str, list[str]] = {}
    for name, scores in found.items():
        text = words.promise(study, name, scores).partition(": ")[2]
        promised.setdefault(text, []).append(name)
    note = "AUROC in percent; bold: cannot be told from the best that used no test label."
    best = table[["best"]].set_axis(["AUROC"], axis=1)
    parts = {
        "Verdict": _lines([verdict.text] if verdict else []),
        "Table": _table(table.drop(columns="best"), note=note, best=best, decimals=1),
        "What was not made": _lines(f"{name}: {why}" for name, why in report.lacking.items()),
        "What was promised": _lines(
            f"{', '.join(each)}: {text}" for text, each in promised.items()
        ),
        "Made by": _made_by(study.path(name) for name in found),
        "Settings": f"<details>{pd.Series(as_dict(study.config)).to_frame().to_html()}</details>",
    }
    config, path = study.config, study.folder / "report.html"
    title = f"{config.dataset} {config.scenario}: {study.split.scenario.title} are normal"
    write_atomically(path, page(title, parts, report.executed))
    return path


def write_batch_report(title: str, report: Report, path: Path) -> Path:
    """Write the report of a batch: how it ended, its table, pictures, and what made it."""
    from clad_lib.study.batch import in_words
    from clad_lib.study.results import collect
    from clad_lib.study.tables import summary

    folders = [str(job.places.root / job.key) for job, _ in report.ended]
    frame = collect(report.ended[0][0].places.root)
    frame = frame[frame.folder.isin(folders)]
    parts = {"How it ended": _lines(in_words(title, report)), "Table": _table(summary(frame))}
    parts["Made by"] = _made_by(map(Path, frame.folder))
    write_atomically(path, page(title, parts, report.executed))
    return path


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _table(frame: pd.DataFrame, **options: Any) -> str:
    shown = tables.results_table(frame, caption="Results", **options)
    return shown.to_html() if len(frame) else ""


def _made_by(folders: Iterable[Path]) -> str:
    """What the records of artefacts say of where they come from, each answer once."""
    records = [json.loads((folder / RECORD).read_text(encoding="utf-8")) for folder in folders]
    frame = pd.DataFrame(records, columns=MADE_BY).astype(str).drop_duplicates()
    return frame.T.to_html(header=False) if records else ""


def closing_lines(study: Study, report: Report) -> list[str]:
    """Write the report of a study; returns what the terminal says, with its path as the last."""
    from clad_lib.study.batch import in_words
    from clad_lib.study.stages import methods
    from clad_lib.study.words import scores_in_words

    path = write_report(study, report)
    return [*scores_in_words(study, methods()), "", *in_words("study", report), f"report: {path}"]


def write_tables(frame: pd.DataFrame, out: Path) -> list[Path]:
    """Write the table of results, the ranks and figure 3 of many runs into `out`; the new files."""
    from clad_lib.study.tables import average_ranks, summary, sweep
    from clad_lib.study.words import formatted

    whole, written = summary(frame), []
    for name, table in (("results", whole), ("ranks", average_ranks(whole))):
        for form, ending in (("csv", "csv"), ("markdown", "md")):
            written.append(out / f"{name}.{ending}")
            write_atomically(written[-1], formatted(table, form))
    for dataset in frame.dataset.unique():
        for setting, axis in SWEPT.items():
            if len(varied := sweep(frame, dataset, setting)):
                axes: dict[str, Any] = dict(x="value", setting=axis, line="scenario")
                figure = charts.ablation_lines(varied, title=f"CLAD (ODIN) on {dataset}", **axes)
                written += files.write_figure(figure, out / f"figure3_{dataset}_{setting}")
    return written
