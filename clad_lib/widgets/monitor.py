"""A training seen while it runs: the loss as a live plot, and a line that says how far it is and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import ipywidgets as ipw
import numpy as np

from clad_lib.plots.curves import loss_curves
from clad_lib.plots.theme import plain
from clad_lib.training import Progress
from clad_lib.widgets.parts import live, message_line, say

PAUSE = 0.5  # s; the browser hears at most twice a second
SHARE = 0.01  # of the time at most goes into drawing: a slow drawing is followed by a longer pause
POINTS = 1000  # drawn at most; of a longer training each stretch keeps its lowest and its highest loss
MARKED = 60  # with so few points each has a mark
WAITING = "Nothing is training yet. A stage that is found in the run folder is not trained again."
NOTE = "Mean loss of each epoch so far. A curve that no longer falls has learnt what it can at this learning rate."


class TrainingMonitor(ipw.VBox):
    """A live loss plot under a line of text: display it in one cell, train in a later one with `watch=monitor`.

    `log` makes the loss axis logarithmic, `loss` is its title with the unit. Each training starts the plot anew.
    """

    def __init__(self, *, log: bool = False, loss: str = "mean loss", clock: Callable[[], float] = time.perf_counter):
        super().__init__()
        figure = loss_curves({"loss": np.empty(0)}, log=log, loss=loss, title="Training", note=NOTE)
        self.message, self.figure = message_line(), live(figure.update_layout(showlegend=False), height=340)
        self.children = (self.message, self.figure)
        self._clock = clock  # s
        self._losses: list[float] = []
        self._started = self._due = clock()
        say(self.message, WAITING)

    def __call__(self, news: Progress) -> None:
        """Take the news of a training; most epochs are only remembered, the start and the end are always drawn."""
        now = self._clock()
        if news.state == "started":
            self._losses, self._started = [], now
        elif news.state == "running":
            self._losses.append(news.loss)
            if now < self._due:
                return
        self._draw(news, now - self._started)
        done = self._clock()
        self._due = done + max(PAUSE, (done - now) / SHARE)

    def __repr__(self) -> str:
        """What a viewer without widgets shows in its place."""
        return "TrainingMonitor: a live plot of the loss, in JupyterLab"

    def _draw(self, news: Progress, seconds: float) -> None:
        say(self.message, in_words(news, seconds), loud=news.state in ("stopped", "failed"))
        losses, rows = np.asarray(self._losses, dtype=np.float64), thinned(self._losses)
        line, layout = self.figure.data[0], self.figure.layout
        with self.figure.batch_update():
            line.x, line.y = rows + 1, losses[rows]
            line.mode = "lines+markers" if len(rows) <= MARKED else "lines"
            if news.state == "started":
                layout.title.text = f"<b>Training: {plain(news.title)}</b>"
                layout.xaxis.update(_epoch_axis(news.epochs))
            elif news.state == "finished":
                layout.xaxis.update(_epoch_axis(news.epoch))


def in_words(news: Progress, seconds: float) -> str:
    """The line above the plot; `seconds` since the training started."""
    where, loss = f"epoch {news.epoch} of {news.epochs}", f"loss {news.loss:.4g}"
    epochs = "1 epoch" if news.epochs == 1 else f"{news.epochs} epochs"
    if news.state == "started":
        return f"{news.title}: starting, {epochs}"
    if news.state == "running":
        left = seconds / news.epoch * (news.epochs - news.epoch)
        return f"{news.title}: {where}, {loss}, about {duration(left)} left"
    if news.state == "finished":
        trained = epochs if news.epoch == news.epochs else f"{news.epoch} of at most {epochs}"
        return f"{news.title}: trained {trained} in {duration(seconds)}, {loss}"
    ended = f"after {where}" if news.epoch else f"before the first of {epochs} was complete"
    again = "Nothing half-trained was kept, and finished stages are untouched."
    if news.state == "stopped":
        return f"{news.title}: training was stopped {ended}. {again} Run the cell again to train this stage anew."
    return f"{news.title}: training failed {ended}: {news.reason.removeprefix(f'{news.title}: ')}. {again}"


def duration(seconds: float) -> str:
    """A time in s as words: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def thinned(losses: Sequence[float], *, limit: int = POINTS) -> np.ndarray:
    """Which of the losses to draw, (at most `limit`,) rising: the ends, and the extremes of stretches of equal length."""
    count = len(losses)
    if count <= limit:
        return np.arange(count)
    values = np.nan_to_num(np.asarray(losses, dtype=np.float64), posinf=np.finfo(np.float64).max)
    edges = np.linspace(0, count, (limit - 2) // 2 + 1).astype(int)
    stretches = [(start, values[start:stop]) for start, stop in pairwise(edges)]
    lows, highs = ([start + pick(part) for start, part in stretches] for pick in (np.argmin, np.argmax))
    return np.unique([0, count - 1, *lows, *highs])


def _epoch_axis(epochs: int) -> dict[str, Any]:
    pad = 0.02 * epochs + 0.2
    return dict(range=[1 - pad, max(epochs, 1) + pad], dtick=1 if epochs <= 20 else None)
