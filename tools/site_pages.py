"""The site's pages, a hook of mkdocs: the checkout's own files, its notebooks, and the docstrings.

Pages lie as they do in the checkout, so that every relative link of a file is one of the site, and
`mkdocs build --strict` checks it. A notebook is shown with its stored outputs: figures are drawn by
the site's own copy of plotly's script, formulas are MathML. The build fails where a page would ask
another machine for anything.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from plotly.offline import get_plotlyjs

HOME = Path(__file__).resolve().parents[1]
PLOTLY = "application/vnd.plotly.v1+json"
KEPT = ("*.md", "LICENSE", "CITATION.cff", "docs/*.md", "studies/*.*", "results/*.*", "figures/*.*")
ROOMS = {
    "index": ("config", "detector"),
    **dict.fromkeys(("data", "judge", "clad", "methods", "study", "look")),
}
ABROAD = re.compile(
    r"""<(?:script|img|iframe|source|video|link(?![^>]*rel="?canonical))[^>]*\s
    (?:src|href)="?(?:https?:)?//[^\s">]+|url\(["']?(?:https?:)?//[^)]+|@import[^;]+//[^;]+""",
    re.VERBOSE,
)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Put the checkout's files, the notebooks and the reference in place of the folder docs/."""
    for page in [*files.documentation_pages()]:
        files.remove(page)
    for path in sorted(each for pattern in KEPT for each in HOME.glob(pattern)):
        uri = path.relative_to(HOME).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for path in sorted(HOME.glob("notebooks/[0-9]*.ipynb")):
        text, pictures = page_of(json.loads(path.read_text(encoding="utf-8")), path.stem)
        for name, content in {f"{path.stem}.md": text, **pictures}.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    for room, modules in ROOMS.items():
        uri = f"reference/{room}.md"
        files.append(File.generated(config, uri, content=reference(room, modules)))
    files.append(File.generated(config, "plotly.min.js", content=get_plotlyjs()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to notebooks lead to their pages."""
    return re.sub(r"(\]\([^)\s:]+)\.ipynb\)", r"\1.md)", markdown)


def on_post_template(output_content: str, **_: Any) -> str:
    """Name what the theme leaves without a name; screen readers would say nothing of it."""
    named = output_content.replace('role="dialog"', 'role="dialog" aria-label="Search"')
    return named.replace('class="md-toggle"', 'class="md-toggle" aria-label="Open"')


def on_post_page(output: str, **_: Any) -> str:
    """The same on every page."""
    return on_post_template(output)


def on_post_build(config: Any, **_: Any) -> None:
    """Raise PluginError for a page or a style sheet that asks another machine for anything."""
    found = [
        f"{path.relative_to(config.site_dir)}: {match[:120]}"
        for path in Path(config.site_dir).rglob("*")
        if path.suffix in (".html", ".css")
        for match in ABROAD.findall(path.read_text(encoding="utf-8"))
    ]
    if found:
        raise PluginError("pages ask other machines:\n" + "\n".join(found))


def reference(room: str, modules: tuple[str, ...] | None) -> str:
    """The page of a room: a section of docstrings for each of its modules."""
    if modules is None:
        paths = sorted((HOME / "clad_lib" / room).glob("[a-z]*.py"))
        modules = tuple(f"{room}.{path.stem}" for path in paths)
    title = "clad_lib" if room == "index" else f"clad_lib.{room}"
    return "\n\n".join([f"# {title}", *(f"::: clad_lib.{module}" for module in modules)])


def page_of(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by name."""
    parts, pictures = list[str](), dict[str, bytes]()
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(with_formulas(source))
            continue
        parts.append(f"```python\n{source}\n```")
        shown = [output_of(output, stem, pictures) for output in cell["outputs"]]
        if shown:
            inside = "\n\n".join(shown)
            parts.append(f'<div class="output" markdown="1">\n\n{inside}\n\n</div>')
    return "\n\n".join(parts) + "\n", pictures


def output_of(output: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> str:
    """An output of a cell as Markdown or HTML; its picture, if it has one, joins `pictures`."""
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items() if kind != PLOTLY}
    figure, alt = output.get("data", {}).get(PLOTLY), ""
    if png := data.get("image/png"):
        name = f"{stem}-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(png)
        alt = html.escape(output["metadata"].get("image/png", {}).get("alt", "picture"))
        data["text/html"] = f'<img src="{name}" alt="{alt}" loading="lazy">'
    if figure:
        packed = base64.b64encode(gzip.compress(json.dumps(figure).encode(), mtime=0)).decode()
        shown = data.get("text/html", alt)
        label = f'role="figure" aria-label="{alt}"'
        return f'<figure><div {label} data-figure="{packed}">{shown}</div></figure>'
    text = data.get("text/plain", "".join(output.get("text", [])))
    return data.get("text/html") or data.get("text/markdown") or f"```text\n{text.rstrip()}\n```"


def with_formulas(text: str) -> str:
    """Markdown whose formulas, between dollars, are MathML."""
    text = re.sub(r"\$\$(.+?)\$\$", lambda m: convert(m[1], display="block"), text, flags=re.S)
    return re.sub(r"(?<![\\$])\$([^$\n]+)\$", lambda m: convert(m[1]), text)
