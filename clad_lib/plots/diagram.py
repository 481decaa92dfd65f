"""The four stages of CLAD as a picture: image, autoencoder, clusters, classifier, score."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from clad_lib.plots.theme import ANOMALOUS, INK, NORMAL, QUIET, finish, look

SEVEN = (".#####.", ".....#.", "....#..", "...#...", "...#...", "..#....", "..#....")
STAGES = (
    ("images", "normal ones only,<br>their classes hidden"),
    ("1 autoencoder", "learns latents z<br>by rebuilding images"),
    ("2 clusters", "DEC on z gives each<br>image a pseudo-label"),
    ("3 classifier", "ResNet-18 learns<br>the pseudo-labels"),
    ("4 ODIN score", "low confidence means<br>anomalous"),
)


def four_stages(
    *,
    title: str = "CLAD in four stages",
    note: str = "Left to right. Training sees only images of normal classes and never which class each has: clusters take "
    "its place.",
) -> go.Figure:
    """Image -> autoencoder -> DEC clusters -> ResNet-18 -> ODIN score, drawn from shapes: 900 x 360 px, no data."""
    figure = go.Figure()
    figure.update_xaxes(visible=False, range=[0, 50], fixedrange=True)
    figure.update_yaxes(visible=False, range=[0, 13], fixedrange=True)
    draws = (_image, _autoencoder, _clusters, _resnet, _score)
    for index, (draw, (head, text)) in enumerate(zip(draws, STAGES, strict=True)):
        x = 10 * index + 5
        draw(figure, x)
        figure.add_annotation(x=x, y=3.4, text=f"<b>{head}</b>", showarrow=False, font=dict(size=15))
        small = dict(size=12, color=QUIET)
        figure.add_annotation(x=x, y=2.7, text=text, showarrow=False, yanchor="top", font=small)
        if index:
            figure.add_annotation(
                x=x - 4.0, ax=x - 6.0, y=8.5, ay=8.5, xref="x", yref="y", axref="x", ayref="y", text="",
                showarrow=True, arrowhead=2, arrowwidth=2, arrowcolor=INK,
            )  # fmt: skip
    told = ", ".join(f"{head} ({text.replace('<br>', ' ')})" for head, text in STAGES[1:])
    alt = f"Diagram: images, then {told}."
    finish(figure, title=title, note=note, alt=alt, height=360, bottom=10)
    return figure.update_layout(margin=dict(l=10, r=10), hovermode=False)


def _box(figure: go.Figure, x0: float, y0: float, x1: float, y1: float, colour: str, *, edge: str = INK) -> None:
    figure.add_shape(type="rect", x0=x0, y0=y0, x1=x1, y1=y1, fillcolor=colour, line=dict(color=edge, width=1))


def _image(figure: go.Figure, x: float) -> None:
    """A seven of square pixels, with two more images behind it."""
    for shift in (0.9, 0.45):
        _box(figure, x - 2.6 + shift, 5.6 + shift, x + 2.2 + shift, 10.9 + shift, "#D9DEE8")
    _box(figure, x - 2.6, 5.6, x + 2.2, 10.9, "#111111")
    across, down = 4.8 / 7, 5.3 / 7
    for row, line in enumerate(SEVEN):
        for column, mark in enumerate(line):
            if mark == "#":
                x0, y0 = x - 2.6 + column * across, 10.9 - (row + 1) * down
                _box(figure, x0, y0, x0 + across, y0 + down, "#F4F4F4", edge="#F4F4F4")


def _autoencoder(figure: go.Figure, x: float) -> None:
    """Encoder and decoder as two funnels that meet at the latent."""
    for side, colour in ((-1, "#8FA3C7"), (1, "#D5DCE9")):
        path = f"M {x + side * 3.4} 5.3 L {x + side * 3.4} 11.7 L {x + side * 0.7} 9.6 L {x + side * 0.7} 7.4 Z"
        figure.add_shape(type="path", path=path, fillcolor=colour, line=dict(color=INK, width=1))
    _box(figure, x - 0.45, 7.0, x + 0.45, 10.0, NORMAL.colour)
    for place, text in ((-2.1, "encode"), (2.1, "decode")):
        figure.add_annotation(x=x + place, y=8.5, text=text, showarrow=False, font=dict(size=12))
    figure.add_annotation(x=x, y=10.6, text="z", showarrow=False, font=dict(size=14))


def _clusters(figure: go.Figure, x: float) -> None:
    """Three groups of latents, each with its centre."""
    random = np.random.default_rng(4)
    for k, (dx, dy) in enumerate(((-1.9, 9.8), (1.8, 10.2), (0.1, 6.6))):
        cloud = random.normal((x + dx, dy), (0.55, 0.5), (16, 2))
        one = look(k)
        figure.add_scatter(
            x=cloud[:, 0], y=cloud[:, 1], mode="markers", hoverinfo="skip", showlegend=False,
            marker=dict(color=one.colour, symbol=one.symbol, size=7, line=dict(width=0.6, color=INK)),
        )  # fmt: skip
        figure.add_annotation(x=x + dx, y=dy + 1.75, text=f"<b>{k}</b>", showarrow=False, font=dict(size=14))


def _resnet(figure: go.Figure, x: float) -> None:
    """Blocks of layers that narrow, and three outputs."""
    for step in range(5):
        half = 3.2 - 0.42 * step
        left, colour = x - 3.4 + 0.95 * step, "#5B7DB1" if step % 2 else "#C3CFE3"
        _box(figure, left, 8.5 - half, left + 0.6, 8.5 + half, colour)
    for k, y in enumerate((10.4, 8.5, 6.6)):
        one = look(k)
        figure.add_scatter(
            x=[x + 2.2], y=[y], mode="markers", hoverinfo="skip", showlegend=False,
            marker=dict(color=one.colour, symbol=one.symbol, size=15, line=dict(width=1, color=INK)),
        )  # fmt: skip
        figure.add_annotation(x=x + 3.2, y=y, text=f"<b>{k}</b>", showarrow=False, font=dict(size=14))


def _score(figure: go.Figure, x: float) -> None:
    """Two humps of scores, normal and anomalous, and the threshold."""
    t = np.linspace(-3.4, 3.4, 80)
    for centre, one, shade in ((-1.3, NORMAL, "rgba(31,58,110,0.35)"), (1.5, ANOMALOUS, "rgba(238,128,51,0.35)")):
        figure.add_scatter(
            x=x + t, y=6 + 4.2 * np.exp(-((t - centre) ** 2) / 1.2), mode="lines",
            line=dict(color=one.colour, dash=one.dash, width=2.5), hoverinfo="skip", showlegend=False,
        )  # fmt: skip
        path = "M " + " L ".join(f"{x + a:.2f} {6 + 4.2 * np.exp(-((a - centre) ** 2) / 1.2):.2f}" for a in t) + " Z"
        figure.add_shape(type="path", path=path, fillcolor=shade, line=dict(width=0), layer="below")
    figure.add_shape(type="line", x0=x - 3.4, x1=x + 3.6, y0=6, y1=6, line=dict(color=INK, width=1.5))
    figure.add_shape(type="line", x0=x + 0.15, x1=x + 0.15, y0=5.4, y1=11.2, line=dict(color=INK, width=2, dash="dash"))
    for place, text in ((-2.2, "normal"), (2.5, "anomalous")):
        figure.add_annotation(x=x + place, y=10.8, text=text, showarrow=False, font=dict(size=12))
    figure.add_annotation(x=x + 0.15, y=11.9, text="threshold", showarrow=False, font=dict(size=12))
