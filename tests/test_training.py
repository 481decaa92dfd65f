"""The one loop, the one pass, devices, and the networks they train."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from clad_lib.models import ConvAutoencoder, ResNet18, SmallMapConv2d, channel_statistics
from clad_lib.training import TrainingError, as_unit, epochs_for, fit, infer, pick_device, seeded


def squared_error(model, x, y):
    return (model(x)[:, 0] - y).square().mean()


def line(seed=0):
    with seeded(seed):
        return nn.Linear(2, 1)


def data():
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    return x, x @ torch.tensor([2.0, -1.0]) + 0.5


def test_fit_recovers_a_line():
    model = line()
    losses = fit(model, squared_error, *data(), epochs=300, batch_size=16, lr=0.05, seed=0, progress=False)
    assert model.weight.detach().numpy() == pytest.approx(np.array([[2, -1]]), abs=1e-3)
    assert losses[-1] < 1e-6 < losses[0]


def test_one_full_batch_step_is_plain_gradient_descent():
    x, y = data()
    model, twin = line(), line()
    fit(model, squared_error, x, y, epochs=1, batch_size=64, lr=0.1, momentum=0, optimizer="sgd", seed=0, progress=False)
    squared_error(twin, x, y).backward()
    assert torch.allclose(model.weight, twin.weight - 0.1 * twin.weight.grad)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    weights = []
    for seed in (1, 1, 2):
        model = line()
        fit(model, squared_error, *data(), epochs=3, batch_size=10, lr=0.01, seed=seed, schedule="onecycle", progress=False)
        weights.append(model.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_hooks_stop_and_replace():
    seen = []

    def loss(model, x, target):
        seen.append(float(target[0]))
        return squared_error(model, x, target)

    x, y = data()
    losses = fit(model := line(), loss, x, y, epochs=9, batch_size=64, lr=0.01, seed=0, progress=False, shuffle=False,
                 on_epoch_start=lambda epoch: (y + epoch,), on_epoch_end=lambda epoch, loss: epoch == 2)  # fmt: skip
    assert len(losses) == 3
    assert seen == pytest.approx([float(y[0]) + k for k in range(3)])
    assert model.weight.requires_grad


def test_bad_training_data_and_diverging_loss():
    x, y = data()
    with pytest.raises(ValueError, match=r"lengths \[64, 3\]"):
        fit(line(), squared_error, x, y[:3], epochs=1, batch_size=8, lr=0.1, seed=0, progress=False)
    with pytest.raises(ValueError, match="NaN"):
        fit(line(), squared_error, x.fill_(float("nan")), y, epochs=1, batch_size=8, lr=0.1, seed=0, progress=False)
    with pytest.raises(TrainingError, match="learning rate below"):
        fit(line(), squared_error, *data(), epochs=200, batch_size=8, lr=1e6, optimizer="sgd", seed=0, progress=False)


def test_infer_restores_the_mode_of_every_part():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    model[1].eval()
    infer(model, torch.rand(5, 4), batch_size=2)
    assert model.training
    assert not model[1].training


def test_epochs_for_small_data():
    assert epochs_for(1000, epochs=8, batch_size=100, min_steps=0) == 8
    assert epochs_for(100, epochs=8, batch_size=100, min_steps=300) == 300
    assert epochs_for(250, epochs=8, batch_size=100, min_steps=31) == 11


def test_devices():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch finds no GPU"):
            pick_device("cuda")


def test_statistics_against_numpy():
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    unit = images.numpy() / 255
    assert mean.numpy() == pytest.approx(unit.mean((0, 2, 3)), abs=1e-6)
    assert std.numpy() == pytest.approx(unit.std((0, 2, 3)), abs=1e-6)
    assert channel_statistics(images.fill_(7))[1].numpy() == pytest.approx(1 / 255)


@pytest.mark.parametrize(("encoder", "channels", "size"), [("small", 1, 28), ("large", 3, 32), ("small", 3, 64)])
def test_autoencoder_shapes_and_published_widths(encoder, channels, size):
    mean = torch.zeros(channels)
    model = ConvAutoencoder(channels, size, latent=7, encoder=encoder, mean=mean, std=mean + 1)
    images = torch.rand(2, channels, size, size)
    rebuilt = model(images)
    assert model.encode(images).shape == (2, 7)
    assert rebuilt.shape == images.shape
    assert 0 <= rebuilt.min() <= rebuilt.max() <= 1
    widths = [part.out_channels for part in model.encoder if isinstance(part, nn.Conv2d)]
    base = 4 * channels if encoder == "small" else 16 * channels
    assert sorted(set(widths)) == [base, 2 * base, 4 * base]


def test_latents_are_deterministic_unless_the_defect_is_on():
    mean, images = torch.zeros(1), torch.rand(2, 1, 8, 8)
    quiet, noisy = (ConvAutoencoder(1, 8, latent=3, mean=mean, std=mean + 1, noisy=noisy) for noisy in (False, True))
    assert torch.equal(quiet.encode(images), quiet.encode(images))
    assert not torch.equal(noisy.encode(images), noisy.encode(images))


@pytest.mark.parametrize("size", [16, 28, 32, 64])
def test_the_small_stem_leaves_seven_or_eight_pixels(size):
    mean = torch.zeros(3)
    model = ResNet18(3, size, classes=4, mean=mean, std=mean + 1).eval()
    sizes = []
    model.trunk.layer1.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[-1]))
    assert model(torch.rand(2, 3, size, size)).shape == (2, 4)
    assert sizes[0] in (7, 8)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_small_map_gradients_equal_torchs(size, stride):
    conv = nn.Conv2d(6, 5, 3, stride=stride, padding=1, bias=False)
    ours = SmallMapConv2d.like(conv).train()
    maps = [torch.rand(4, 6, size, size, dtype=torch.float32, requires_grad=True) for _ in "ab"]
    maps[1].data.copy_(maps[0].data)
    outputs = [conv(maps[0]), ours(maps[1])]
    weight = torch.rand_like(outputs[0])
    grads = [torch.autograd.grad((o * weight).sum(), (m, conv.weight)) for o, m in zip(outputs, maps, strict=True)]
    for one, two in zip(*grads, strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-6)


def test_as_unit():
    assert as_unit(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0, 1]
    assert as_unit(torch.tensor([0.5])).tolist() == [0.5]


def test_a_watcher_hears_of_the_start_each_epoch_and_the_end():
    heard = []
    losses = fit(line(), squared_error, *data(), epochs=2, batch_size=64, lr=0.01, seed=0, title="line", progress=False,
                 watch=heard.append)  # fmt: skip
    assert [(news.title, news.epoch, news.epochs, news.state) for news in heard] == [
        ("line", 0, 2, "started"), ("line", 1, 2, "running"), ("line", 2, 2, "running"), ("line", 2, 2, "finished"),
    ]  # fmt: skip
    assert [news.loss for news in heard[1:]] == [*losses, losses[-1]]


def test_a_watcher_that_fails_is_dropped_with_one_warning_and_changes_no_bit():
    calls = []

    def watch(news):
        calls.append(news)
        if news.epoch == 2:
            raise ConnectionError("the browser is gone")

    options = dict(epochs=5, batch_size=16, lr=0.01, seed=0, progress=False)
    alone = fit(line(), squared_error, *data(), **options)
    with pytest.warns(RuntimeWarning, match="training goes on without it .*the browser is gone") as warned:
        watched = fit(line(), squared_error, *data(), **options, watch=watch)
    assert len(warned) == 1
    assert len(calls) == 3
    assert np.array_equal(alone, watched)


@pytest.mark.parametrize("part", ["loss", "backward", "watch"])
def test_an_interrupt_leaves_a_usable_model(part):
    def loss(model, x, y):
        value = squared_error(model, x, y)
        if part == "loss" and len(heard) == 3:
            raise KeyboardInterrupt
        if part == "backward" and len(heard) == 3:
            value.register_hook(interrupt)
        return value

    def interrupt(*_):
        raise KeyboardInterrupt

    def watch(news):
        heard.append(news.state)
        if part == "watch" and len(heard) == 4:
            raise KeyboardInterrupt

    heard, model = [], line()
    options = dict(batch_size=16, lr=0.01, seed=0, progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(model, loss, *data(), epochs=9, watch=watch, **options)
    assert heard[-1] == "stopped"
    assert torch.isfinite(infer(model, data()[0])).all()
    assert len(fit(model, squared_error, *data(), epochs=2, **options)) == 2
