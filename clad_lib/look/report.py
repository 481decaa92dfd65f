"""The report of a run as one page that can be sent, and the tables of many runs as files."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from clad_lib.config import as_dict
from clad_lib.look import charts, tables
from clad_lib.study.results import collect
from clad_lib.study.stages import methods
from clad_lib.study.store import RECORD, read_json, write_atomically
from clad_lib.study.tables import average_ranks, summary, sweep

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
figure {{margin: 2em 0}} figcaption {{color: #595959}}
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


def page(title: str, parts: Mapping[str, str], notebooks: Iterable[Path]) -> str:
    """One page that opens without a network: parts, heading -> HTML, then the notebooks' pictures.

    All figures share one compressed plotly script. Pictures that would make the page larger than
    LARGEST bytes are left out, and counted.
    """
    script, kept = packed(get_plotlyjs()), list[str]()
    body = [f"<h2>{html.escape(head)}</h2>\n{text}" for head, text in parts.items() if text]
    room = LARGEST - len(PAGE) - len(script) - len("\n".join(body).encode()) - 1000
    pictures = [each for path in notebooks for each in pictures_of(path)]
    for each in pictures:
        if len(each.encode()) < room:
            room -= len(each.encode()) + 1
            kept.append(each)
    if len(kept) < len(pictures):
        left = f"{len(pictures) - len(kept)} pictures are too large for this page"
        body.append(f"<p>{left}: they stand in the executed notebooks.</p>")
    return PAGE.format(title=html.escape(title), body="\n".join(body + kept), script=script)


def pictures_of(notebook: Path) -> Iterator[str]:
    """The figures in the outputs of an executed notebook as HTML, in order, with their texts."""
    for cell in read_json(notebook)["cells"]:
        for output in cell.get("outputs", []):
            if figure := output.get("data", {}).get(PLOTLY):
                yield drawn(json.dumps(figure))


def drawn(figure: str) -> str:
    """A figure of plotly, as JSON, as HTML that `page` draws when it comes into view."""
    about = {"title": "picture", "alt": "picture"}
    about |= json.loads(figure)["layout"].get("meta") or {}
    alt, title = (html.escape(about[name]) for name in ("alt", "title"))
    box = f'<div role="figure" aria-label="{alt}" data-figure="{packed(figure)}">{alt}</div>'
    return f"<figure>{box}<figcaption>{title}</figcaption></figure>"


def packed(text: str) -> str:
    """Text compressed, in base64, for a page that unpacks it."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def png_bytes(figure: Figure, *, scale: float = 1) -> bytes | None:
    """Return the figure as a PNG of 900 px times `scale`, in 256 colours.

    Without a browser that can draw it: None, with a warning. The first picture of a process takes
    3 s; its browser then stays open and takes 0.3 s for each of the others.
    """
    import kaleido

    size = {"format": "png", "width": 900, "height": figure.layout.height or 480, "scale": scale}
    try:
        with warnings.catch_warnings(action="ignore"):  # an open browser has its options already
            offline = {"mathjax": False}  # which kaleido would ask a CDN for
            drawn = kaleido.calc_fig_sync(figure.to_dict(), size, kopts=offline)
    except Exception as error:
        warnings.warn(f"no PNG is drawn: {type(error).__name__}: {error}", stacklevel=2)
        return None
    # only after a success: kaleido's server waits for ever for a browser that does not start
    kaleido.start_sync_server(silence_warnings=True, **offline)
    picture, stream = Image.open(io.BytesIO(drawn)).convert("RGB"), io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(stream, "png", optimize=True)
    return stream.getvalue()


def write_report(study: Study, report: Report) -> Path:
    """Write report.html of a study: verdict, table, promises, pictures, settings, provenance."""
    from clad_lib.study import words

    found = words.finished(study, methods())
    verdict, table = words.verdict(study, found), words.table_of(study, found)
    promised = pd.Series(
        {name: words.promise(study, name, each).partition(": ")[2] for name, each in found.items()},
        dtype=str,
    )
    note = "AUROC in percent; bold: cannot be told from the best that used no test label."
    best = table[["best"]].set_axis(["AUROC"], axis=1)
    config, path = study.config, study.folder / "report.html"
    parts = {
        "Verdict": _lines([verdict] if verdict else []),
        "Table": _table(table.drop(columns="best"), note=note, best=best, decimals=1),
        "What was not made": _lines(f"{name}: {why}" for name, why in report.lacking.items()),
        "What was promised": _lines(
            f"{', '.join(names)}: {text}"
            for text, names in promised.groupby(promised, sort=False).groups.items()
        ),
        "Made by": _made_by(study.path(name) for name in found),
        "Settings": f"<details>{pd.Series(as_dict(config)).to_frame().to_html()}</details>",
    }
    title = f"{config.dataset} {config.scenario}: {study.split.scenario.title} are normal"
    write_atomically(path, page(title, parts, report.executed))
    return path


def write_batch_report(title: str, report: Report, path: Path) -> Path:
    """Write the report of a batch: how it ended, its table, pictures, and what made it."""
    from clad_lib.study.batch import in_words

    folders = [str(job.places.root / job.key) for job, _ in report.ended]
    frame = collect(report.ended[0][0].places.root)
    frame = frame[frame.folder.isin(folders)]
    parts = {
        "How it ended": _lines(in_words(title, report)),
        "Table": _table(summary(frame)),
        "Made by": _made_by(map(Path, frame.folder)),
    }
    write_atomically(path, page(title, parts, report.executed))
    return path


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _table(frame: pd.DataFrame, **options: Any) -> str:
    return tables.results_table(frame, caption="Results", **options).to_html() if len(frame) else ""


def _made_by(folders: Iterable[Path]) -> str:
    """What the records of artefacts say of where they come from, each answer once."""
    records = [read_json(folder / RECORD) for folder in folders]
    frame = pd.DataFrame(records, columns=MADE_BY).astype(str).drop_duplicates()
    return frame.T.to_html(header=False) if records else ""


def write_tables(frame: pd.DataFrame, out: Path) -> list[Path]:
    """Write the table of results, the ranks and figure 3 of many runs into `out`; the new files.

    A figure is a page that needs no network, and a PNG where a browser is found. Each file appears
    whole or not at all. Raises StoreError when the folder cannot be written to.
    """
    from clad_lib.study.words import formatted

    whole, files = summary(frame), dict[str, Any]()
    for name, table in {"results": whole, "ranks": average_ranks(whole)}.items():
        files[f"{name}.csv"] = formatted(table, "csv")
        files[f"{name}.md"] = formatted(table, "markdown")
    for dataset, (setting, axis) in product(frame.dataset.unique(), SWEPT.items()):
        if len(varied := sweep(frame, dataset, setting)):
            stem, title = f"figure3_{dataset}_{setting}", f"CLAD (ODIN) on {dataset}"
            figure = charts.ablation_lines(
                varied, x="value", setting=axis, line="scenario", title=title
            )
            files[f"{stem}.html"] = page(title, {axis: drawn(figure.to_json() or "")}, ())
            files[f"{stem}.png"] = png_bytes(figure, scale=2)
    written = {out / name: content for name, content in files.items() if content is not None}
    for path, content in written.items():
        write_atomically(path, content)
    return [*written]
