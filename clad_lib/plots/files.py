"""Figures to files and notebooks: self-contained HTML, PNG through a Chrome or Chromium, and both in one output cell."""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import functools
import html
import io
import json
import os
import tempfile
import threading
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
from PIL import Image

from clad_lib.plots.theme import WIDTH, alt_text, title_text

PATIENCE = 90  # seconds a browser may take over one figure, its start included
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title></head>
<body style="margin:0"><div role="img" aria-label="{alt}" style="max-width:1200px;margin:auto">
{figure}
</div></body>
</html>
"""


class Picture:
    """A figure as notebooks keep it: interactive in JupyterLab, a static picture where scripts do not run."""

    def __init__(self, figure: go.Figure, *, alt: str | None = None, static: bool = False):
        self.figure, self.alt, self.static = figure, alt or alt_text(figure), static

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle: dict[str, Any] = {"text/plain": self.alt}
        picture = png_bytes(self.figure)
        if picture is not None:
            bundle["image/png"] = base64.b64encode(picture).decode()
        if picture is None or not self.static:
            bundle["application/vnd.plotly.v1+json"] = json.loads(pio.to_json(self.figure, validate=False))
        return bundle, {"image/png": {"alt": self.alt}}

    def __repr__(self) -> str:
        return self.alt


def show(figure: go.Figure, *, alt: str | None = None, static: bool = False) -> Picture:
    """A figure to end a notebook cell with; web viewers that run no scripts show its PNG.

    alt: the figure in words, by default its own. static: keep only the PNG, for figures of many points.
    """
    return Picture(figure, alt=alt, static=static)


def write_figure(figure: go.Figure, stem: Path | str, *, scale: float = 2) -> list[Path]:
    """Write stem.html, which needs no network, and stem.png where a Chrome or Chromium is found -> the paths written.

    The HTML holds plotly itself, 5 MB, so that it can be sent on alone. Each file appears whole or not at all. Without
    a browser one warning says so. Raises OSError that names the folder when it cannot be written to.
    """
    stem = Path(stem)
    config = {"responsive": True, "displaylogo": False}
    drawing = pio.to_html(figure, full_html=False, include_plotlyjs=True, config=config)
    page = PAGE.format(title=html.escape(title_text(figure)), alt=html.escape(alt_text(figure)), figure=drawing)
    parts = {".html": page.encode(), ".png": png_bytes(figure, scale=scale)}
    return [_write(stem.with_name(stem.name + suffix), data) for suffix, data in parts.items() if data is not None]


def _write(path: Path, data: bytes) -> Path:
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}-", dir=path.parent, delete=False) as stream:
            draft = Path(stream.name)
            stream.write(data)
        draft.chmod(0o644)
        os.replace(draft, path)
    except OSError as error:
        cure = "free some space or choose another folder"
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}; {cure}") from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
    return path


def find_browser() -> str | None:
    """The Chrome or Chromium that draws PNGs: $BROWSER_PATH, else the usual names and places; None where there is none."""
    from choreographer.browsers.chromium import Chromium

    path = Chromium.find_browser(skip_local=False)
    return path if path and os.access(path, os.X_OK) and Path(path).is_file() else None


def png_bytes(figure: go.Figure, *, width: int = WIDTH, scale: float = 1, colours: int = 256) -> bytes | None:
    """The figure as PNG, `width` px times `scale`, reduced to `colours`, 256 at most.

    Without a browser that can draw it: None, with one warning.
    """
    browser = find_browser()
    if browser is None:
        warnings.warn("no Chrome or Chromium found: figures are written as HTML only", UserWarning, stacklevel=1)
        return None
    options = dict(format="png", width=width, height=figure.layout.height or 520, scale=scale)
    try:
        return _fewer_colours(_draw(figure.to_dict(), options), colours)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        warnings.warn(f"{browser} cannot draw a figure ({reason}): HTML only", UserWarning, stacklevel=1)
        return None


def _fewer_colours(png: bytes, colours: int) -> bytes:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    few = picture.getcolors(20_000) is not None  # MAXCOVERAGE is truest to drawings, and takes 10 s for photos
    method = Image.Quantize.MAXCOVERAGE if few else Image.Quantize.MEDIANCUT
    picture = picture.quantize(colours, method=method, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    picture.save(stream, "png", optimize=True)
    return stream.getvalue()


def _draw(figure: dict[str, Any], options: dict[str, Any]) -> bytes:
    loop, browser = _drawing_room(os.getpid(), os.environ.get("BROWSER_PATH"))

    async def draw() -> bytes:
        return await (await asyncio.wrap_future(browser)).calc_fig(figure, opts=options)

    return asyncio.run_coroutine_threadsafe(draw(), loop).result(PATIENCE)


@functools.cache
def _drawing_room(process: int, path: str | None) -> tuple[asyncio.AbstractEventLoop, Future]:
    """One browser a process, opened once (3 s; 0.3 s a figure from then on), on an event loop of its own.

    kaleido's own server waits for ever when its browser does not start; here the failure comes back.
    """
    from kaleido import Kaleido

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def start() -> Any:
        browser = Kaleido(mathjax=False, timeout=PATIENCE)
        await browser.open()
        return browser

    opening = asyncio.run_coroutine_threadsafe(start(), loop)
    atexit.register(_close, loop, opening)
    return loop, opening


def _close(loop: asyncio.AbstractEventLoop, opening: Future) -> None:
    with contextlib.suppress(Exception):
        asyncio.run_coroutine_threadsafe(opening.result(1).close(), loop).result(5)
