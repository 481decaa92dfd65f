"""The method in motion: DEC by epoch, ODIN's step on one image, one boundary against several, and
the hardest images of each anomaly class. What moves plays, and can be scrubbed, without a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import torch
from scipy.special import softmax
from sklearn.decomposition import PCA

from clad_lib.clad.posthoc import log_confidence
from clad_lib.clad.scores import PUBLISHED_ODIN_FACTOR, searched_grid
from clad_lib.clad.training import as_unit, infer
from clad_lib.look import charts, parts, theme
from clad_lib.look.live import Figure, plotly_script
from clad_lib.study.engine import Scores, Study
from clad_lib.study.experiments import Plane, Side, grid

HARDEST = 12  # images of a cell of the matrix
COARSE = 3  # of the knots of a grid every third is drawn, since each frame has grids of its own
HELP = "Click a cell to see its hardest images. By keyboard: arrows move, Enter opens."


def played(figures: Mapping[str, go.Figure], *, setting: str, start: int = -1) -> go.Figure:
    """Figures of one make, one a value of a setting, as one with a slider, play and pause.

    All have the same number of traces; figure `start` is the still picture. Frames hold what the
    last figure has otherwise than the first.
    """
    jump = {"mode": "immediate", "fromcurrent": True, "transition": {"duration": 0}}
    jump["frame"] = {"duration": 700, "redraw": True}
    steps = [{"label": name, "method": "animate", "args": [[name], jump]} for name in figures]
    buttons = [
        {"label": label, "method": "animate", "args": [what, jump]}
        for label, what in (("Play", None), ("Pause", [None]))
    ]
    still, last = [*figures.values()][start], [*figures.values()][-1].data
    first = next(iter(figures.values())).data
    moving = [at for at, trace in enumerate(last) if trace != first[at]]
    still.frames = [
        go.Frame(
            name=name,
            data=[each.data[at] for at in moving],
            traces=moving,
            layout={"annotations": each.layout.annotations},
        )
        for name, each in figures.items()
    ]
    place = {"y": -80 / (still.layout.height - still.layout.margin.t - 200), "yanchor": "top"}
    slider = {"steps": steps, "active": start % len(figures), "x": 0.2, "len": 0.8, "pad_t": 0}
    play = {"type": "buttons", "buttons": buttons, "direction": "left", "x": 0, "xanchor": "left"}
    return still.update_layout(
        sliders=[slider | place | {"currentvalue_prefix": f"{setting}: "}],
        updatemenus=[play | place],
        margin_b=200,
    )


def dec_by_epoch(
    latents: np.ndarray, centroids: np.ndarray, soft: np.ndarray, target: np.ndarray
) -> go.Figure:
    """What `study.experiments.dec_trail` gives: latents and centroids moving, q and p as bars."""
    points = np.concatenate([latents, centroids], axis=1)  # (E, n + K, D)
    plane = PCA(2).fit(points.reshape(-1, points.shape[2]))
    places = np.stack([plane.transform(each).T for each in points]).astype(np.float32)
    at, count = soft[0].max(1).argmin(), soft.shape[1]
    marks: dict[str, Any] = dict(mode="markers", hoverinfo="skip")
    cross = {"symbol": "x", "size": 13, "color": "white", "line": {"color": theme.INK, "width": 2}}
    ring = {"symbol": "circle-open", "size": 18, "color": theme.INK, "line": {"width": 3}}
    right: dict[str, Any] = dict(x=[*map(str, range(soft.shape[2]))], xaxis="x2", yaxis="y2")
    bars = [{"color": theme.NORMAL}, {"color": theme.ANOMALOUS, "pattern": {"shape": "/"}}]
    colours, symbols = (np.resize(each, soft.shape[2]) for each in (theme.PALETTE, theme.SYMBOLS))
    made = {}
    for epoch, (x, y) in enumerate(places):
        groups = soft[epoch].argmax(1)
        dots = {"color": colours[groups], "symbol": symbols[groups]}
        traces = [
            go.Scatter(x=x[:count], y=y[:count], marker=dots, showlegend=False, **marks),
            go.Scatter(x=x[count:], y=y[count:], marker=cross, name="centroid", **marks),
            go.Scatter(x=x[[at]], y=y[[at]], marker=ring, name="the image at the right", **marks),
            go.Bar(y=soft[epoch, at], name="q", marker=bars[0], **right),
            go.Bar(y=target[epoch, at], name="p", marker=bars[1], **right),
        ]
        made[str(epoch)] = go.Figure(traces)
    (left, low), (far, high) = 1.08 * places.min((0, 2)), 1.08 * places.max((0, 2))
    ends = [f"{p[:, at].max(1)[0]:.2f} to {p[:, at].max(1)[-1]:.2f}" for p in (soft, target)]
    theme.finish(
        made[str(epoch)],
        title="DEC, epoch by epoch",
        note="Left, images by pseudo-label and the centroids (large crosses), in the plane of most "
        f"spread, which has {plane.explained_variance_ratio_.sum():.0%} of it; the ring is one "
        "image, at first the least decided. Right, its soft assignment q, and the target p that q "
        "is pulled to.",
        alt=f"{epoch} epochs. The image's largest q goes from {ends[0]}, largest p from {ends[1]}.",
        height=640,
        xaxis={"title": "main direction 1 (no unit)", "domain": [0, 0.58], "range": [left, far]},
        yaxis={"title": "main direction 2 (no unit)", "range": [low, high]},
        xaxis2={"title": "cluster", "type": "category", "domain": [0.68, 1], "anchor": "y2"},
        yaxis2={"title": "q and p (share)", "range": [0, 1.02], "anchor": "x2"},
    )
    return played(made, setting="epoch")


def odin_steps(study: Study, row: int) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]]:
    """ODIN's step from test image `row` at the T temperatures and E epsilons of the run's grid.

    Gives the outputs after the step (columns what, temperature, epsilon, cluster, value); the share
    (T, E) of the calibration normals that score higher than the image; and for each temperature the
    image, the direction of its step (white raises a pixel), and the image after each step.
    """
    known, model = study["odin_grid"], study["classifier"].model
    image, settings = study.split.test[row : row + 1], study.settings("odin_grid")
    scale = PUBLISHED_ODIN_FACTOR * model.standardise.std if settings.odin_factor else 1.0
    scores = searched_grid(model, image, settings)
    names, logits = [f"T = {each:g}" for each in known.temperatures], list[np.ndarray]()
    sizes, pictures = torch.from_numpy(known.epsilons).float()[:, None, None, None], {}
    for name, temperature in zip(names, known.temperatures, strict=True):
        x = as_unit(image.to(study.device)).requires_grad_(True)
        uphill = torch.autograd.grad(log_confidence(model(x), temperature=temperature), x)[0].sign()
        after = (x + sizes.to(x.device) * scale * uphill).detach()  # (E, C, H, W)
        logits.append(infer(model, after).numpy())
        pictures[name] = torch.cat([x.detach(), (1 + uphill) / 2, after[1:]]).cpu().numpy()
    raw = np.stack(logits)  # (T, E, K)
    values = np.stack([raw, softmax(raw / known.temperatures[:, None, None], axis=2)])
    axes: dict[str, Any] = {"what": ["logit f", "softmax of f / T"], "temperature": names}
    axes |= {"epsilon": known.epsilons, "cluster": range(raw.shape[2])}
    rows = pd.MultiIndex.from_product(axes.values(), names=axes)
    above = pd.DataFrame((known.calibration > scores).mean(2), names, known.epsilons)
    return pd.DataFrame({"value": values.ravel()}, rows).reset_index(), above, pictures


def odin_on_one_image(outputs: pd.DataFrame, above: pd.DataFrame, *, start: int = -1) -> go.Figure:
    """What `odin_steps` gives: logits, softmax and rank of an image, a frame an epsilon."""
    made, panels = {}, dict[str, Any](facet_col="temperature", facet_row="what")
    alt = f"Normals above: {theme.listed(above.iloc[:, [0, -1]].stack(), '.1%')}."
    for epsilon, part in outputs.groupby("epsilon"):
        told = (f"{name}<br>{v:.1%} of the normals above" for name, v in above[epsilon].items())
        shown = part.replace({"temperature": dict(zip(above.index, told, strict=True))})
        figure = px.bar(shown, x="cluster", y="value", template=theme.TEMPLATE, **panels)
        theme.finish(
            figure,
            title="What T and epsilon do to one image",
            note="Logits and softmax after the step, a column a temperature. Above each column: "
            "how many of the calibration normals score higher than the image. An anomaly should "
            "have few.",
            alt=alt,
            height=700,
            above=40,
        )
        made[f"{epsilon:g}"] = figure.update_xaxes(dtick=1)
    still = [*made.values()][start].update_yaxes(matches=None)
    still.update_yaxes(range=[0, 1.02], row=1).update_yaxes(title="share", row=1, col=1)
    still.update_yaxes(title="logit", row=2, col=1)
    return played(made, setting="epsilon, pixels", start=start)


def boundaries_by_count(plane: Plane, ways: Mapping[int, Mapping[str, Side]]) -> go.Figure:
    """What `study.experiments.boundaries_by_count` gives: a frame a number of boundaries."""
    (x, y), made = (each[::COARSE] for each in grid(plane)), {}
    points = plane.train, plane.test[plane.anomaly]
    for count, sides in ways.items():
        coarse = {
            name: side._replace(scores=side.scores[:, ::COARSE, ::COARSE])
            for name, side in sides.items()
        }
        figure = charts.boundary_panels(
            *points,
            coarse,
            title="One boundary against K",
            note="Shaded: called normal; the same share of the normal test images lies outside "
            "everywhere. What the panel in the middle keeps out more than the left one is the "
            "kernel's width; what the right one keeps out more than the middle one is the number "
            "of boundaries.",
            x=x,
            y=y,
            labels=np.zeros(len(plane.train), int),
            drawn=150,
        )
        figure.update_traces(name="normal", selector={"name": "latent class 0"})
        made[str(count)] = figure.update_traces(hovertemplate=None, hoverinfo="skip")
    return played(made, setting="number of boundaries K")


class HardestImages(parts.Explorer):
    """AUROC by anomaly class and method; a cell opens the images that are hardest to find."""

    def __init__(self, study: Study, found: Mapping[str, Scores], table: pd.DataFrame):
        self.study, self.found, self.panel = study, found, ipw.HTML()
        figure = charts.auroc_matrix(table)
        self.methods, self.classes = [*figure.data[0].x], [*figure.data[0].y]
        row, column = np.indices((len(self.classes), len(self.methods))).reshape(2, -1)
        figure.data[0].update(x=None, y=None)  # places along the axes, as those of the marks
        figure.update_xaxes(type="linear", tickvals=np.unique(column), ticktext=self.methods)
        figure.update_yaxes(type="linear", tickvals=np.unique(row), ticktext=self.classes)
        figure.add_scatter(
            x=column,
            y=row,
            customdata=np.arange(len(row))[:, None],
            mode="markers",
            marker={"size": 26, "opacity": 0},
            hoverinfo="none",
        )
        self.figure = Figure(script=plotly_script(), acts=True)
        alt = f"{figure.layout.meta['alt']} {HELP}"
        self.figure.draw(figure, alt, title=None, margin={"t": 20, "l": 90})
        super().__init__(ipw.HTML(f"<p>{HELP}</p>"), self.figure, self.panel)
        self.figure.on_msg(self._heard)
        self.show(0)

    def _heard(self, _: Any, content: dict[str, Any], __: Any) -> None:
        if content["what"] == "open":
            self.show(content["rows"][0])

    def show(self, cell: int) -> None:
        """Show the hardest images of a cell; cells are numbered along the rows of the matrix."""
        row, column = divmod(cell, len(self.methods))
        name, method = self.classes[row], self.methods[column]
        scored, answers = self.found[method], self.study.split.answers
        hidden = answers.test_class == self.study.split.class_names.index(name)
        rows = np.flatnonzero(answers.test_anomaly & hidden)
        rows = rows[np.argsort(scored.test[rows], kind="stable")[:HARDEST]]
        above = (scored.calibration > scored.test[rows, None]).mean(1)
        captions = [f"{parts.per_cent(share)} above" for share in above]
        title = f"The hardest images of {name} for {method}; below, the calibration images above"
        pictures = self.study.split.test[rows].numpy()
        self.panel.value = parts.strip(pictures, captions, title=title)
