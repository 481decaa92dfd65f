"""The training monitor: what it says and draws, what it costs, and what the interrupt button leaves, in a real kernel."""

import dataclasses
import json
import math
import queue
import shutil
import tempfile
import time

import nbformat
import numpy as np
import pytest
import torch
from jupyter_client.manager import KernelManager
from torch import nn

from clad_lib import headless, pipeline
from clad_lib.config import make_config
from clad_lib.training import Progress, TrainingError, fit
from clad_lib.widgets.monitor import PAUSE, POINTS, WAITING, TrainingMonitor, duration, in_words, thinned


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def monitor(clock):
    return TrainingMonitor(loss="squared error", clock=clock)


def squared_error(model, x, y):
    return (model(x)[:, 0] - y).square().mean()


def train(watch, *, epochs=5, lr=0.01, loss=squared_error, **settings):
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(2, 1)
    options = dict(epochs=epochs, batch_size=16, lr=lr, seed=0, title="line", progress=False, watch=watch) | settings
    return model, fit(model, loss, x, x.sum(1), **options)


def drawn(monitor):
    return np.asarray(monitor.figure.data[0].x), np.asarray(monitor.figure.data[0].y)


def test_before_and_after_a_training(monitor):
    assert WAITING in monitor.message.value
    _, losses = train(monitor)
    epochs, values = drawn(monitor)
    assert epochs.tolist() == [1, 2, 3, 4, 5]
    assert values == pytest.approx(losses)
    assert f"line: trained 5 epochs in 0.0 s, loss {losses[-1]:.4g}" in monitor.message.value
    assert "Training: line" in monitor.figure.layout.title.text
    assert monitor.figure.layout.yaxis.title.text == "squared error"


def test_while_it_trains_the_line_says_how_far_and_how_long(monitor, clock):
    monitor(Progress("autoencoder", 0, 10, state="started"))
    assert "autoencoder: starting, 10 epochs" in monitor.message.value
    for epoch in range(1, 5):
        clock.now += 2
        monitor(Progress("autoencoder", epoch, 10, 1 / epoch))
    assert "autoencoder: epoch 4 of 10, loss 0.25, about 12 s left" in monitor.message.value
    assert monitor.figure.layout.xaxis.range[1] > 10


def test_the_browser_hears_at_most_twice_a_second_and_always_the_end(monitor, clock):
    shown = []
    monitor.message.observe(lambda change: shown.append(clock.now), "value")
    monitor(Progress("line", 0, 1000, state="started"))
    for epoch in range(1, 1001):
        clock.now += 0.01
        monitor(Progress("line", epoch, 1000, 1.0))
    monitor(Progress("line", 1000, 1000, 0.5, state="finished"))
    gaps = np.diff(shown[:-1])
    assert len(shown) == pytest.approx(2 + 10 / PAUSE, abs=1)
    assert gaps.min() >= PAUSE - 1e-6
    assert len(drawn(monitor)[0]) == 1000


def test_one_epoch_is_a_point_with_a_mark(monitor):
    train(monitor, epochs=1)
    assert drawn(monitor)[0].tolist() == [1]
    assert "markers" in monitor.figure.data[0].mode
    assert "trained 1 epoch in" in monitor.message.value


def test_each_stage_starts_the_plot_anew(monitor):
    for title, epochs in (("autoencoder", 4), ("DEC", 2), ("classifier", 3)):
        _, losses = train(monitor, epochs=epochs, title=title)
        assert drawn(monitor)[1] == pytest.approx(losses)
        assert title in monitor.figure.layout.title.text
        assert title in monitor.message.value


def test_an_early_end_is_said_and_closes_the_axis(monitor):
    train(monitor, epochs=50, on_epoch_end=lambda epoch, loss: epoch == 2)
    assert "trained 3 of at most 50 epochs" in monitor.message.value
    assert monitor.figure.layout.xaxis.range[1] < 4


def test_a_loss_that_is_not_finite_passes_on_and_is_said(monitor):
    with pytest.raises(TrainingError, match="learning rate below"):
        train(monitor, epochs=200, lr=20, optimizer="sgd")
    assert "line: training failed after epoch" in monitor.message.value
    assert "try a learning rate below" in monitor.message.value
    assert np.isfinite(drawn(monitor)[1]).all()


def stop_at(count):
    """A loss that is interrupted in the middle of an epoch, at its `count`-th batch."""
    calls = iter(range(1, count + 1))

    def loss(model, x, y):
        if next(calls) == count:
            raise KeyboardInterrupt
        return squared_error(model, x, y)

    return loss


def test_an_interrupt_within_an_epoch_passes_on_and_is_said(monitor):
    with pytest.raises(KeyboardInterrupt):
        train(monitor, loss=stop_at(11))
    for words in ("stopped after epoch 2 of 5", "Nothing half-trained was kept", "Run the cell again"):
        assert words in monitor.message.value
    with pytest.raises(KeyboardInterrupt):
        train(monitor, loss=stop_at(2))
    assert "stopped before the first of 5 epochs was complete" in monitor.message.value
    train(monitor)
    assert "trained 5 epochs" in monitor.message.value


def test_an_interrupt_within_the_watcher_passes_on_with_its_epoch():
    heard = []

    def watch(news):
        heard.append(news)
        if news.epoch == 3 and news.state == "running":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(watch)
    assert [(news.epoch, news.state) for news in heard[-2:]] == [(3, "running"), (3, "stopped")]


def test_a_long_training_is_thinned_and_its_extremes_stay(monitor):
    losses = np.random.default_rng(0).random(10_000)
    losses[[1234, 7777]] = 5, -5
    monitor(Progress("line", 0, 10_000, state="started"))
    for epoch, loss in enumerate(losses, start=1):
        monitor(Progress("line", epoch, 10_000, loss))
    monitor(Progress("line", 10_000, 10_000, losses[-1], state="finished"))
    epochs, values = drawn(monitor)
    assert len(epochs) <= POINTS
    assert (epochs[0], epochs[-1]) == (1, 10_000)
    assert {1235, 7778} <= set(epochs.tolist())
    assert values == pytest.approx(losses[epochs - 1])
    state = {name: value for name, value in monitor.figure.get_state().items() if name != "_esm"}
    assert len(repr(state)) < 100_000


@pytest.mark.parametrize("count", [0, 1, POINTS, POINTS + 1, 123_457])
def test_thinning_keeps_order_ends_and_limit(count):
    rows = thinned(np.full(count, math.nan) if count == POINTS + 1 else np.zeros(count))
    assert len(rows) <= POINTS
    assert (np.diff(rows) > 0).all()
    assert count == 0 or (rows[0], rows[-1]) == (0, count - 1)


def test_times_in_words():
    assert [duration(s) for s in (0.04, 9.96, 59.6, 200, 7500)] == ["0.0 s", "10 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]
    assert "about 30 s left" in in_words(Progress("DEC", 1, 4, 0.5), 10.0)


def test_the_hook_costs_microseconds_an_epoch(monitor):
    monitor(Progress("line", 0, 1000, state="started"))
    started = time.perf_counter()
    for epoch in range(1, 1001):
        monitor(Progress("line", epoch, 1000, 1.0))
    assert (time.perf_counter() - started) / 1000 < 100e-6  # about 1 on a quiet machine


def test_without_a_watcher_no_news_are_made(monkeypatch):
    monkeypatch.setattr(Progress, "_replace", None)
    _, losses = train(None)
    assert len(losses) == 5


def test_the_stages_of_a_study_tell_its_watcher(tmp_path):
    heard = []
    config = make_config(profile="smoke", clusters=4)
    study = pipeline.open_study(config, runs_root=tmp_path, device="cpu", progress=False, watch=heard.append)
    for stage in (pipeline.autoencoder, pipeline.clusters, pipeline.classifier) * 2:
        stage(study)
    assert [news.title for news in heard if news.state == "started"] == ["autoencoder", "DEC", "classifier"]
    assert [news.title for news in heard if news.state == "finished"] == ["autoencoder", "DEC", "classifier"]
    assert study == dataclasses.replace(study, watch=None)


SETUP = """
import dataclasses, json
from clad_lib import pipeline
from clad_lib.config import make_config
from clad_lib.widgets.monitor import TrainingMonitor
monitor = TrainingMonitor(log=True)
"""
OPEN = "study = pipeline.open_study(make_config(profile='smoke', ae_epochs={}), runs_root={!r}, device='cpu', watch=monitor)"
LOOK = """
print(json.dumps([monitor.message.value, study.run.has('autoencoder'), list(monitor.figure.data[0].x)], default=int))
"""


def test_a_notebook_without_a_browser_runs_and_stays_small(tmp_path):
    document = nbformat.v4.new_notebook()
    document.metadata["kernelspec"] = dict(name="python3", display_name="Python 3", language="python")
    sources = ["seed = 0", SETUP + "monitor", OPEN.format(3, str(tmp_path)), "pipeline.autoencoder(study);", LOOK]
    document.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    document.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(document, tmp_path / "01_made.ipynb")
    done = nbformat.read(headless.execute(tmp_path / "01_made.ipynb", {}, tmp_path / "out.ipynb"), as_version=4)
    text, kept, epochs = json.loads(done.cells[-1].outputs[0].text)
    assert "trained 3 epochs" in text
    assert kept
    assert epochs == [1, 2, 3]
    widgets = done.metadata.pop("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    states = [{k: v for k, v in widget["state"].items() if k != "_esm"} for widget in widgets.values()]
    assert len(json.dumps(states)) + len(nbformat.writes(done)) < 100_000


@pytest.fixture
def kernel():
    """A running kernel that talks over files, as many tests may start one at a time."""
    folder = tempfile.mkdtemp(prefix="clad-")
    manager = KernelManager(transport="ipc", ip=f"{folder}/kernel")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    shutil.rmtree(folder, ignore_errors=True)


def execute(client, code, *, until=None, timeout=90):
    """Run a cell to its end: its reply and its printed text; `until(message)` is called with all that it sends."""
    sent, text, deadline = client.execute(code), "", time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            message = client.get_iopub_msg(timeout=1)
        except queue.Empty:
            continue
        if message["parent_header"].get("msg_id") != sent:
            continue
        if until is not None:
            until(message)
        text += message["content"].get("text", "") if message["msg_type"] == "stream" else ""
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return client.get_shell_msg(timeout=10)["content"], text
    raise TimeoutError(f"the cell did not end within {timeout} s: {code}")


def test_the_interrupt_button_leaves_a_usable_run_and_kernel(kernel, tmp_path):
    manager, client = kernel
    pressed = []

    def press(message):
        value = str(message["content"].get("data", {}).get("state", {}).get("value", ""))
        if not pressed and " left<" in value:
            pressed.append(value)
            manager.interrupt_kernel()

    assert execute(client, SETUP + OPEN.format(100_000, str(tmp_path)))[0]["status"] == "ok"
    reply, _ = execute(client, "pipeline.autoencoder(study)", until=press)
    assert pressed
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
    reply, text = execute(client, LOOK)
    said, kept, epochs = json.loads(text)
    assert "training was stopped after epoch" in said
    assert f"epoch {len(epochs)} of 100000" in said or len(epochs) >= POINTS / 2
    assert not kept
    assert not list(tmp_path.rglob("*seed0*"))
    reply, text = execute(client, OPEN.format(3, str(tmp_path)) + "\npipeline.autoencoder(study)\n" + LOOK)
    assert reply["status"] == "ok"
    said, kept, epochs = json.loads(text.splitlines()[-1])
    assert "trained 3 epochs" in said
    assert kept
    assert epochs == [1, 2, 3]
