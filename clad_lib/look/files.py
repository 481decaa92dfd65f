"""Figures as files: pages that need no network, and pictures drawn by a Chrome or Chromium."""

from __future__ import annotations

import html
import io
import warnings
from pathlib import Path

from PIL import Image
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from clad_lib.look.theme import alt_text
from clad_lib.study.store import write_atomically

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title></head>
<body style="margin:0"><main role="img" aria-label="{alt}" style="max-width:1200px;margin:auto">
{figure}
</main></body>
</html>
"""


def write_figure(figure: Figure, stem: str | Path, *, scale: float = 2) -> list[Path]:
    """Write stem.html, and stem.png where a browser is found, and return the paths.

    The pages of a folder share one plotly script, which is written beside them; they ask no other
    machine for anything. Each file appears whole or not at all. Raises StoreError when the folder
    cannot be written to.
    """
    drawn = figure.to_html(
        config={"responsive": True, "displaylogo": False},
        auto_play=False,
        include_plotlyjs="directory",
        full_html=False,
    )
    alt = html.escape(alt_text(figure))
    page = PAGE.format(title=alt.partition(". ")[0], alt=alt, figure=drawn)
    files = {f"{stem}.html": page, f"{stem}.png": png_bytes(figure, scale=scale)}
    written = {Path(name): content for name, content in files.items() if content is not None}
    for path, content in written.items():
        write_atomically(path, content)
    write_atomically(Path(stem).with_name("plotly.min.js"), get_plotlyjs())
    return [*written]


def png_bytes(figure: Figure, *, width: int = 900, scale: float = 1) -> bytes | None:
    """Return the figure as a PNG of `width` px times `scale`, in 256 colours.

    Without a browser that can draw it: None, with a warning. The first picture of a process takes
    3 s; its browser then stays open and takes 0.3 s for each of the others.
    """
    import kaleido

    size = {"width": width, "height": figure.layout.height or 480, "scale": scale}
    try:
        with warnings.catch_warnings(action="ignore"):  # an open browser has its options already
            offline = {"mathjax": False}  # which kaleido would ask a CDN for
            drawn = kaleido.calc_fig_sync(
                figure.to_dict(), {"format": "png", **size}, kopts=offline
            )
    except Exception as error:
        warnings.warn(f"no PNG is drawn: {type(error).__name__}: {error}", stacklevel=2)
        return None
    # only after a success: kaleido's server waits for ever for a browser that does not start
    kaleido.start_sync_server(silence_warnings=True, **offline)
    picture, stream = Image.open(io.BytesIO(drawn)).convert("RGB"), io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(stream, "png", optimize=True)
    return stream.getvalue()
