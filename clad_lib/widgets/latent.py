"""The latent explorer: the t-SNE map with images on hover, on selection and a cluster at a time."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw
import numpy as np
import plotly.graph_objects as go

from clad_lib import pipeline
from clad_lib.plots.theme import ANOMALOUS, NORMAL, SCALE, finite, look, plain, same_length
from clad_lib.runs import RunError
from clad_lib.widgets.mapped import Mapped, Placed, gather
from clad_lib.widgets.parts import guarded, live, message_line, say, strip, table

MOST = 20_000  # points drawn; more are sampled
SHOWN = 24  # images of a selection


def latent_explorer(study: pipeline.Study) -> ipw.Widget:
    """The explorer of a run's map, or one line that says what is missing. Hidden classes are shown as analysis only."""
    try:
        return LatentExplorer(gather(study))
    except (RunError, ValueError) as error:
        line = message_line()
        say(line, f"No latent explorer: {error}", loud=True)
        return line


class LatentExplorer(ipw.VBox):
    """Controls: colour, cluster (opens its card), place_button; hover shows an image, box and lasso show the selected ones.

    Raises ValueError for points that are NaN or infinite, or images that are not as many.
    """

    def __init__(self, data: Mapped):
        same_length(points=data.points, images=data.images)
        finite("points", data.points)
        self.rows, self.data = _sample(len(data.points)), data
        self.placed: Placed | None = None
        wide = dict(style=dict(description_width="initial"))
        self.colour = ipw.Dropdown(options=list(data.colourings), description="colour by", **wide)
        count = 0 if data.labels is None else int(data.labels.max()) + 1
        options = [("choose", -1), *((f"cluster {k}", k) for k in range(count))]
        self.cluster = ipw.Dropdown(options=options, value=-1, description="open the card of", disabled=not count, **wide)
        self.place_button = ipw.Button(description="Place test images", disabled=data.place is None,
                                       tooltip="Where openTSNE's transform puts test images on this map (analysis)")  # fmt: skip
        self.hover, self.selection, self.card = (ipw.HTML() for _ in range(3))
        for name, place in dict(hover=self.hover, selection=self.selection, card=self.card).items():
            place.add_class(f"clad-{name}")
        self.message = message_line()
        self.figure = live(self._draw())
        super().__init__([
            ipw.HBox([self.colour, self.cluster, self.place_button], layout=ipw.Layout(grid_gap="18px", flex_flow="row wrap")),
            self.message,
            ipw.HBox([ipw.Box([self.figure], layout=ipw.Layout(flex="1 1 600px", min_width="0")),
                      ipw.VBox([self.hover], layout=ipw.Layout(width="190px"))]),
            self.selection, self.card,
        ])  # fmt: skip
        self._start()

    def _start(self) -> None:
        part = f" ({len(self.rows):,} of them drawn)" if len(self.rows) < len(self.data.points) else ""
        say(self.message, f"{self.data.told}{part}. Draw a lasso or a box to see images; click a point for its cluster.")
        self.hover.value = "<i>Move over a point to see its image.</i>"
        self.colour.observe(lambda _: self._recolour(), "value")
        self.cluster.observe(lambda change: self.open_card(change["new"]), "value")
        self.place_button.on_click(lambda _: self._place())
        self.figure.data[0].on_hover(lambda _, points, state: self._show(points.point_inds))
        self.figure.data[0].on_click(lambda _, points, state: self._click(points.point_inds))
        self.figure.data[0].on_selection(lambda _, points, selector: self.select(points.point_inds))
        self.figure.data[1].on_hover(lambda _, points, state: self._show(points.point_inds, placed=True))

    def _draw(self) -> go.Figure:
        x, y = self.data.points[self.rows].T.astype(np.float32)
        size = float(np.clip(260 / np.sqrt(len(self.rows)), 4, 9))
        figure = go.Figure()
        figure.add_scattergl(
            x=x, y=y, mode="markers", name="training images", hoverinfo="none", marker=self._marker() | dict(size=size)
        )
        figure.add_scattergl(x=[], y=[], mode="markers", name="test images", hoverinfo="none", showlegend=False)
        bare = dict(showticklabels=False, ticks="", showgrid=False)
        figure.update_xaxes(title="t-SNE 1 (no unit)", **bare)
        figure.update_yaxes(title="t-SNE 2 (no unit)", scaleanchor="x", **bare)
        return figure.update_layout(template="clad", height=560, dragmode="lasso", margin=dict(l=40, r=10, t=16, b=46))

    def _marker(self) -> dict[str, Any]:
        colouring = self.data.colourings[self.colour.value]
        values, name = np.asarray(colouring.values)[self.rows], plain(self.colour.value)
        bar = dict(title=dict(text=name, side="right"), thickness=14)
        if colouring.names is None:
            span = dict(cmin=float(values.min()), cmax=float(values.max()) or 1.0)
            return dict(color=values.astype(np.float32), colorscale=SCALE, symbol="circle", showscale=True,
                        colorbar=bar | dict(tickvals=None, ticktext=None), **span)  # fmt: skip
        kinds, place = np.unique(values, return_inverse=True)
        looks, count = [look(order) for order in range(len(kinds))], len(kinds)
        steps = [[(order + side) / count, looks[order].colour] for order in range(count) for side in (0, 1)]
        texts = [plain(colouring.names[int(kind)]) for kind in kinds]
        return dict(color=place.astype(np.float32), colorscale=steps, cmin=-0.5, cmax=count - 0.5, showscale=True,
                    symbol=np.array([each.number for each in looks])[place].tolist(),
                    colorbar=bar | dict(tickvals=list(range(count)), ticktext=texts))  # fmt: skip

    def _recolour(self) -> None:
        with guarded(self.message), self.figure.batch_update():
            self.figure.data[0].marker.update(self._marker())

    def _show(self, places: list[int], *, placed: bool = False) -> None:
        with guarded(self.message):
            if not places:
                return
            if placed and self.placed is not None:
                kind = "anomaly" if self.placed.anomaly[places[0]] else "normal"
                self.hover.value = strip(self.placed.images[places[:1]], [f"test image: {kind} (analysis)"], size=160)
            else:
                row = int(self.rows[places[0]])
                self.hover.value = strip(self.data.images[row : row + 1], [self._caption(row)], size=160)

    def _caption(self, row: int) -> str:
        told = [f"image {row if self.data.train_rows is None else self.data.train_rows[row]}"]
        for name, colouring in self.data.colourings.items():
            value = colouring.values[row]
            told.append(str(colouring.names[int(value)]) if colouring.names else f"{name} {value:.3g}")
        return ", ".join(told)

    def _click(self, places: list[int]) -> None:
        if places and self.data.labels is not None:
            self.cluster.value = int(self.data.labels[self.rows[places[0]]])

    def select(self, places: list[int]) -> None:
        """Show what was selected, `places` among the drawn points: how many, in which clusters, and some of the images."""
        with guarded(self.message):
            rows = self.rows[np.asarray(places, dtype=int)]
            if not len(rows):
                self.selection.value = "<i>nothing selected</i>"
                return
            rows = np.sort(rows)
            shown = rows if len(rows) <= SHOWN else rows[np.linspace(0, len(rows) - 1, SHOWN).astype(int)]
            head = f"<b>{len(rows):,} images selected</b>, {len(rows) / len(self.rows):.1%} of the map; {len(shown)} shown"
            self.selection.value = f"{head}{strip(self.data.images[shown])}{self._statistics(rows)}"

    def _statistics(self, rows: np.ndarray) -> str:
        lines = []
        for name, colouring in self.data.colourings.items():
            values = np.asarray(colouring.values)[rows]
            if colouring.names is None:
                lines.append([name, f"mean {values.mean():.3g}, from {values.min():.3g} to {values.max():.3g}"])
            else:
                kinds, counts = np.unique(values, return_counts=True)
                most = np.argsort(-counts, kind="stable")[:5]
                lines.append([name, ", ".join(f"{colouring.names[int(kinds[i])]}: {counts[i]}" for i in most)])
        return table(["of the selection", ""], lines)

    def open_card(self, cluster: int) -> None:
        """The card of a cluster: its share, how sure it is, what it holds (analysis), its surest and least sure images."""
        with guarded(self.message):
            labels, confidence = self.data.labels, self.data.confidence
            members = np.flatnonzero(labels == cluster) if labels is not None and cluster >= 0 else np.zeros(0, dtype=int)
            if labels is None or confidence is None or not len(members):
                self.card.value = "" if cluster < 0 else f"<i>cluster {cluster} has no images on this map</i>"
                return
            order = members[np.argsort(-confidence[members], kind="stable")]
            lines = [["share of the map", f"{len(members) / len(labels):.1%}, {len(members):,} images"],
                     ["mean confidence", f"{confidence[members].mean():.3f}"]]  # fmt: skip
            if self.data.hidden is not None:
                kinds, counts = np.unique(self.data.hidden[members], return_counts=True)
                lines.append(
                    [
                        "purity (analysis)",
                        f"{counts.max() / len(members):.3f}, mostly {self.data.names[int(kinds[counts.argmax()])]}",
                    ]
                )
            parts = [("most confident", order[:10]), ("least confident", order[::-1][:10])]
            strips = "".join(f"<b>{name}</b>{strip(self.data.images[rows], [f'{confidence[r]:.3f}' for r in rows])}"
                             for name, rows in parts)  # fmt: skip
            self.card.value = table([f"cluster {cluster}", ""], lines) + strips

    def _place(self) -> None:
        with guarded(self.message):
            if self.data.place is None or self.placed is not None:
                return
            say(self.message, "Placing test images on the map with openTSNE's transform ...")
            found = self.placed = self.data.place()
            styles = [ANOMALOUS if anomaly else NORMAL for anomaly in found.anomaly]
            x, y = found.points.T
            mark = dict(
                color=[s.colour for s in styles], symbol=["x" if s is ANOMALOUS else "circle-open" for s in styles], size=8
            )
            with self.figure.batch_update():
                self.figure.data[1].update(x=x, y=y, marker=mark)
            say(
                self.message,
                f"{len(x)} test images placed (analysis): crosses are anomalies, rings are normal. The map did not move.",
            )


def _sample(count: int) -> np.ndarray:
    """Rows to draw: all up to MOST, else a seeded sample of MOST, in order."""
    if count <= MOST:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:MOST])
