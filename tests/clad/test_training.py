"""The one loop, the one pass, devices, and the stages that train CLAD's two networks."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from clad_lib.clad.networks import ConvAutoencoder, ResNet18
from clad_lib.clad.training import (
    TrainingError,
    as_unit,
    autoencoder,
    batch_for,
    classifier,
    epochs_for,
    evaluating,
    fit,
    infer,
    pick_device,
    seeded,
    train_classifier,
)
from clad_lib.config import Settings, make_config


def squared_error(model, x, y):
    return (model(x)[:, 0] - y).square().mean()


def line(seed=0):
    with seeded(seed):
        return nn.Linear(2, 1)


def data(count=64):
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return x, x @ torch.tensor([2.0, -1.0]) + 0.5


QUIET = dict(seed=0, progress=False)


def test_fit_recovers_a_line():
    model = line()
    losses = fit(model, squared_error, *data(), epochs=300, batch_size=16, lr=0.05, **QUIET)
    assert model.weight.detach().numpy() == pytest.approx(np.array([[2, -1]]), abs=1e-3)
    assert losses[-1] < 1e-6 < losses[0]


def test_one_full_batch_step_is_plain_gradient_descent():
    x, y = data()
    model, twin = line(), line()
    options = dict(epochs=1, batch_size=64, lr=0.1, optimizer="sgd")
    fit(model, squared_error, x, y, **options, **QUIET)
    squared_error(twin, x, y).backward()
    assert torch.allclose(model.weight, twin.weight - 0.1 * twin.weight.grad)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    weights = []
    for seed in (1, 1, 2):
        model = line()
        options = dict(epochs=3, batch_size=10, lr=0.01, schedule="onecycle", progress=False)
        fit(model, squared_error, *data(), seed=seed, **options)
        weights.append(model.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_learning_rate_follows_the_schedule(schedule, optimizer, monkeypatch):
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
    rates, plain = [], kind.step

    def step(self, *args, **more):
        rates.append(self.param_groups[0]["lr"])
        return plain(self, *args, **more)

    monkeypatch.setattr(kind, "step", step)
    options = dict(epochs=5, batch_size=16, lr=0.02, schedule=schedule, optimizer=optimizer)
    fit(line(), squared_error, *data(), **options, **QUIET)
    assert len(rates) == 20
    if schedule == "constant":
        assert set(rates) == {0.02}
    else:  # Smith & Topin: up to the peak in the first third, then down to almost nothing
        assert max(rates) == pytest.approx(0.02, rel=1e-2)
        assert rates[0] < 0.001 > rates[-1]
        assert 3 <= int(np.argmax(rates)) <= 7


def test_steps_of_small_data_are_made_up_to_the_least_number():
    options = dict(epochs=2, batch_size=16, lr=0.01, min_steps=30)
    assert len(fit(line(), squared_error, *data(), **options, **QUIET)) == 8  # of 4 steps each


def test_epochs_for_small_data():
    assert epochs_for(1000, epochs=8, batch_size=100, min_steps=0) == 8
    assert epochs_for(100, epochs=8, batch_size=100, min_steps=300) == 300
    assert epochs_for(250, epochs=8, batch_size=100, min_steps=31) == 11


def test_the_hook_stops_training_and_may_rewrite_the_data():
    x, y = data()
    target, seen = y.clone(), []

    def loss(model, x, target):
        seen.append(float(target[0]))
        return squared_error(model, x, target)

    def hook(epoch, mean):
        target.copy_(y + epoch + 1)
        return epoch == 2

    options = dict(epochs=9, batch_size=64, lr=0.01, shuffle=False, on_epoch_end=hook)
    losses = fit(model := line(), loss, x, target, **options, **QUIET)
    assert len(losses) == 3
    assert seen == pytest.approx([float(y[0]) + k for k in range(3)])
    assert model.weight.requires_grad


def test_bad_training_data_and_diverging_loss():
    x, y = data()
    options = dict(batch_size=8, lr=0.1, **QUIET)
    with pytest.raises(ValueError, match=r"lengths \[64, 3\]"):
        fit(line(), squared_error, x, y[:3], epochs=1, **options)
    with pytest.raises(ValueError, match=r"lengths \[0, 0\]"):
        fit(line(), squared_error, x[:0], y[:0], epochs=1, **options)
    with pytest.raises(ValueError, match="NaN"):
        fit(line(), squared_error, x.clone().fill_(float("nan")), y, epochs=1, **options)
    options |= dict(lr=1e6, optimizer="sgd", title="line")
    with pytest.raises(TrainingError, match=r"line: loss is .* learning rate below 1e"):
        fit(line(), squared_error, x, y, epochs=200, **options)


def batches_of(model, count, batch_size=64):
    sizes = []

    def loss(model, x, y):
        sizes.append(len(x))
        return squared_error(model, x, y)

    fit(model, loss, *data(count), epochs=1, batch_size=batch_size, lr=0.01, **QUIET)
    return sizes


def test_a_last_image_alone_joins_the_batch_before_where_a_batch_norm_needs_two():
    normalised = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    assert batches_of(normalised, 65) == [65]
    assert batches_of(normalised, 129) == [64, 65]
    assert batches_of(normalised, 66) == [64, 2]
    assert batches_of(normalised, 64) == [64]
    assert batches_of(line(), 65) == [64, 1]
    assert batches_of(line(), 1) == [1]


@pytest.mark.parametrize("part", ["loss", "backward", "hook"])
def test_an_interrupt_leaves_a_usable_model(part):
    calls = []

    def interrupt(*_):
        raise KeyboardInterrupt

    def loss(model, x, y):
        value = squared_error(model, x, y)
        calls.append(part)
        if part == "loss" and len(calls) == 6:
            interrupt()
        if part == "backward" and len(calls) == 6:
            value.register_hook(interrupt)
        return value

    model, options = line(), dict(batch_size=16, lr=0.01, **QUIET)
    hook = interrupt if part == "hook" else None
    with pytest.raises(KeyboardInterrupt):
        fit(model, loss, *data(), epochs=9, on_epoch_end=hook, **options)
    assert torch.isfinite(infer(model, data()[0])).all()
    assert len(fit(model, squared_error, *data(), epochs=2, **options)) == 2


def test_progress_is_one_bar_on_stderr_with_loss_and_time_left(capsys):
    options = dict(epochs=3, batch_size=16, lr=0.01, seed=0, title="autoencoder")
    losses = fit(line(), squared_error, *data(), **options)
    told = capsys.readouterr()
    assert told.out == ""
    last = told.err.split("\r")[-1]
    assert re.search(r"autoencoder: 100%.* 3/3 \[\d\d:\d\d<\d\d:\d\d,", last)
    assert f"loss {losses[-1]:.4g}" in last
    assert told.err.count("\n") == 1
    fit(line(), squared_error, *data(), **options, progress=False)
    assert capsys.readouterr() == ("", "")


def test_infer_restores_the_mode_of_every_part_also_after_an_error():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    model[1].eval()
    infer(model, torch.rand(5, 4), batch_size=2)
    assert [part.training for part in model.modules()] == [True, True, False]
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert 1 / any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == [True, True, False]


def test_a_gpu_takes_as_many_images_at_a_time_as_have_a_million_pixels():
    there = nn.Linear(1, 1, device="meta")  # anything but a CPU
    assert batch_for(nn.Linear(1, 1), torch.zeros(0, 3, 32, 32)) == 256
    assert batch_for(nn.Linear(1, 1), torch.zeros(0, 3, 32, 32), 64) == 64
    assert batch_for(there, torch.zeros(0, 3, 32, 32), 64) == 1024
    assert batch_for(there, torch.zeros(0, 1, 2048, 2048), 64) == 1


def test_infer_is_the_function_on_every_image_in_order():
    images = torch.randint(0, 256, (7, 1, 2, 2), dtype=torch.uint8)
    found = infer(line(), images, function=lambda x: x.flatten(1).sum(1), batch_size=3)
    assert found.numpy() == pytest.approx(images.numpy().sum((1, 2, 3)) / 255, rel=1e-6)


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("gpu", "cuda:x"):
        with pytest.raises(ValueError, match=f"unknown device '{wrong}'"):
            pick_device(wrong)
    with pytest.raises(ValueError, match="device 'cuda:99': torch finds"):
        pick_device("cuda:99")


def test_as_unit():
    assert as_unit(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0, 1]
    assert as_unit(torch.tensor([0.5])).tolist() == [0.5]
    assert as_unit(torch.rand(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)


def split_of(count, *, size=8, classes=2):
    images = torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8)
    return SimpleNamespace(train=images, labels=np.arange(count) % classes)


def settings_of(reads, **overrides):
    config = make_config("digits", "CUR", profile="smoke", **overrides)
    return Settings(config, reads, device=torch.device("cpu"), progress=False)


AUTOENCODER = "encoder latent ae_epochs ae_lr ae_schedule ae_batch min_steps noisy_latents"
CLASSIFIER = "stem clf_epochs clf_lr clf_batch clf_schedule min_steps"


def test_the_autoencoder_stage_reads_what_it_declares_and_repeats_bit_for_bit():
    settings = settings_of([*AUTOENCODER.split(), "hidden_statistics"], latent=3)
    split, found = split_of(40), []
    for _ in "ab":
        with seeded(settings.seed):
            found.append(autoencoder(split, settings))
    assert isinstance(found[0].model, ConvAutoencoder)
    assert found[0].model.shape["latent"] == 3
    assert np.array_equal(found[0].losses, found[1].losses)
    assert len(found[0].losses) == 4  # of one step each: min_steps


@pytest.mark.parametrize("encoder", ["small", "large"])
def test_65_images_in_batches_of_64_train_every_network(encoder):
    reads = [*AUTOENCODER.split(), *CLASSIFIER.split(), "hidden_statistics"]
    settings = settings_of(reads, encoder=encoder, min_steps=0)
    split = split_of(65)
    assert np.isfinite(autoencoder(split, settings).losses).all()
    trained = classifier(split, settings, SimpleNamespace(labels=split.labels))
    assert isinstance(trained.model, ResNet18)
    assert trained.model.shape == {"channels": 1, "size": 8, "classes": 2, "stem": "small"}
    assert np.isfinite(trained.losses).all()


def test_other_epochs_of_the_classifier_make_half_of_the_least_steps():
    settings = settings_of([*CLASSIFIER.split(), "hidden_statistics"], min_steps=4)
    split = split_of(40)
    labels = torch.from_numpy(split.labels)
    for epochs, expected in ((None, 4), (1, 2), (3, 3)):
        trained = train_classifier(split, settings, split.train, labels, epochs=epochs)
        assert len(trained.losses) == expected  # of one step each
