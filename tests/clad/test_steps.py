"""A captured step gives what a plain one gives, whatever the size of the batch."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from clad_lib.clad import steps
from clad_lib.clad.training import fit, seeded


def network() -> nn.Module:
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3)
        )


def loss(model, images, labels):
    return cross_entropy(model(images), labels)


def data(count=70):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % 3


def trained(device="cpu", **more):
    model = network().to(device)
    options = dict(epochs=40, batch_size=32, lr=1e-3, seed=0, schedule="onecycle", progress=False)
    return model, fit(model, loss, *data(), **options | more)


class Replayed:
    """A CUDA graph on the CPU: replaying writes where capturing wrote."""

    def __init__(self):
        self.count = 0

    def replay(self):
        step = self.step
        value = steps.Step.__call__(step, *step.inputs)
        for place, parameter in zip(step.gradient, step.parameters, strict=True):
            place.copy_(parameter.grad)
            parameter.grad = None  # the step gives it back
        step.value.copy_(value)
        self.count += 1


@pytest.fixture
def captured(monkeypatch):
    """CapturedStep where there is no CUDA, as if each had been captured."""
    made, graph = [], contextlib.nullcontext

    def step_of(model, loss, *, device, size, steps: int):
        step = made_step(model, loss, device=device, size=size)
        step.graph.step = step
        made.append(step)
        return step

    made_step = steps.CapturedStep
    stream = type("Stream", (), {"wait_stream": lambda self, other: None})
    monkeypatch.setattr(torch.cuda, "device", lambda _: graph())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Replayed)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: graph())
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream())
    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: graph())
    monkeypatch.setattr("clad_lib.clad.training.step_of", step_of)
    return made


def test_batches_that_are_replayed_and_those_that_are_not_train_alike(captured, monkeypatch):
    replayed, its_losses = trained()  # batches of 32, 32 and 6
    assert captured[0].graph.count == 40 * 2 - steps.WARM
    monkeypatch.setattr("clad_lib.clad.training.step_of", steps.step_of)
    plain, losses = trained()
    # The first capture runs here, where a GPU only records: batch norm counts one batch more.
    for (name, one), other in zip(plain.named_parameters(), replayed.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert losses.tolist() == its_losses.tolist()


def test_steps_are_captured_on_cuda_alone_and_where_there_are_many(monkeypatch):
    by = dict(size=8, steps=steps.LEAST)
    assert type(steps.step_of(network(), loss, device=torch.device("cpu"), **by)) is steps.Step
    few = by | dict(steps=steps.LEAST - 1)
    assert type(steps.step_of(network(), loss, device=torch.device("cuda"), **few)) is steps.Step
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "Stream", str)
    step = steps.step_of(network(), loss, device=torch.device("cuda"), **by)
    assert type(step) is steps.CapturedStep


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_captured_training_is_plain_training_on_a_gpu(monkeypatch):
    _, captured = trained("cuda")
    monkeypatch.setattr(steps, "LEAST", 10**9)
    _, plain = trained("cuda")
    assert captured == pytest.approx(plain, rel=1e-3)
