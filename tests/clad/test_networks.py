"""The networks against the paper's widths, numpy's statistics, and torch's own gradients."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from clad_lib.clad.networks import (
    NETWORKS,
    ConvAutoencoder,
    PlainNet,
    ResNet18,
    Standardise,
    channel_statistics,
    statistics,
)
from clad_lib.clad.small_maps import on_small_maps
from clad_lib.config import Settings, make_config


def test_statistics_against_numpy():
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    mean, std = channel_statistics(images).values()
    unit = images.numpy() / 255
    assert mean.numpy() == pytest.approx(unit.mean((0, 2, 3)), abs=1e-6)
    assert std.numpy() == pytest.approx(unit.std((0, 2, 3)), abs=1e-6)
    assert channel_statistics(images.fill_(7))["std"].numpy() == pytest.approx(1 / 255)


def test_the_published_defect_averages_the_statistics_of_the_hidden_classes():
    images = torch.randint(0, 256, (30, 2, 4, 4), dtype=torch.uint8)
    images[20:] //= 4
    classes = np.repeat([3, 8], [20, 10])
    split = SimpleNamespace(train=images, answers=SimpleNamespace(train_class=classes))
    unit = images.numpy() / 255
    parts = [unit[classes == 3], unit[classes == 8]]
    for defect, expected in ((False, [unit]), (True, parts)):
        config = make_config("digits", "CUR", hidden_statistics=defect)
        found = statistics(split, Settings(config, ["hidden_statistics"]))
        for name, reduce in (("mean", np.mean), ("std", np.std)):
            values = np.mean([reduce(part, axis=(0, 2, 3)) for part in expected], axis=0)
            assert found[name].numpy() == pytest.approx(values, abs=1e-6)


def test_a_clean_run_does_not_read_the_hidden_classes():
    split = SimpleNamespace(train=torch.zeros(4, 1, 4, 4, dtype=torch.uint8))  # no answers at all
    statistics(split, Settings(make_config("digits", "CUR"), ["hidden_statistics"]))


def test_standardise_by_hand_and_without_statistics():
    images = torch.rand(3, 2, 4, 4)
    mean, std = torch.tensor([0.2, 0.4]), torch.tensor([0.5, 2.0])
    found = Standardise(2, mean, std)(images)
    assert torch.allclose(found[:, 1], (images[:, 1] - 0.4) / 2)
    assert torch.equal(Standardise(2)(images), images)


@pytest.mark.parametrize(
    ("encoder", "channels", "size"), [("small", 1, 28), ("large", 3, 32), ("small", 3, 64)]
)
def test_autoencoder_shapes_and_published_widths(encoder, channels, size):
    model = ConvAutoencoder(channels, size, latent=7, encoder=encoder)
    images = torch.rand(2, channels, size, size)
    rebuilt = model(images)
    assert model.encode(images).shape == (2, 7)
    assert rebuilt.shape == images.shape
    assert 0 <= rebuilt.min() <= rebuilt.max() <= 1
    convolutions = [part for part in model.encoder if isinstance(part, nn.Conv2d)]
    base = 4 * channels if encoder == "small" else 16 * channels
    assert sorted({part.out_channels for part in convolutions}) == [base, 2 * base, 4 * base]
    assert len(convolutions) == (3 if encoder == "small" else 6)
    norms = [part for part in model.encoder if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == (0 if encoder == "small" else 6)


def test_an_image_size_that_cannot_be_halved_twice_is_refused():
    with pytest.raises(ValueError, match="size is 30: expected a multiple of 4"):
        ConvAutoencoder(1, 30, latent=3)


def test_latents_are_deterministic_unless_the_defect_is_on():
    images = torch.rand(2, 1, 8, 8)
    quiet, noisy = (ConvAutoencoder(1, 8, latent=3, noisy=noisy) for noisy in (False, True))
    assert torch.equal(quiet.encode(images), quiet.encode(images))
    assert not torch.equal(noisy.encode(images), noisy.encode(images))


@pytest.mark.parametrize("size", [16, 28, 32, 64])
def test_the_small_stem_leaves_seven_or_eight_pixels(size):
    assert first_block_size(ResNet18(3, size, classes=4).eval(), size) in (7, 8)


@pytest.mark.parametrize(("stem", "expected"), [("full", 32), ("published", 8)])
def test_the_other_stems_as_described(stem, expected):
    model = ResNet18(3, 32, classes=4, stem=stem).eval()
    assert first_block_size(model, 32) == expected
    kernel = model.trunk.conv1.kernel_size
    assert kernel == ((7, 7) if stem == "published" else (3, 3))


def first_block_size(model, size):
    sizes = []
    model.trunk.layer1.register_forward_pre_hook(
        lambda module, inputs: sizes.append(inputs[0].shape[-1])
    )
    assert model(torch.rand(2, 3, size, size)).shape == (2, 4)
    return sizes[0]


def test_logits_are_the_head_of_the_features_in_float32():
    model, images = ResNet18(1, 16, classes=3).eval(), torch.rand(4, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, logits = model.features(images), model(images)
    assert features.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    assert torch.equal(logits, model.head(features.float()))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (2, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("training", [False, True])
def test_small_maps_and_their_gradients_equal_torchs(training, size, stride, autocast):
    conv = nn.Conv2d(6, 5, 3, stride=stride, padding=1, bias=False)
    ours = on_small_maps(conv, size).train(training)
    maps = [torch.rand(4, 6, size, size, requires_grad=True) for _ in "ab"]
    maps[1].data.copy_(maps[0].data)
    expected = conv(maps[0])  # in float32: torch's bfloat16 errs where taps meet padding alone
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        outputs = [expected, ours(maps[1])]
    by_torch = "Convolution" in type(outputs[1].grad_fn).__name__
    assert by_torch == (size > stride and not training)
    weight = torch.rand(outputs[0].shape)
    grads = [
        torch.autograd.grad((output * weight).sum(), (image, *layer.parameters()))
        for output, image, layer in zip(outputs, maps, (conv, ours), strict=True)
    ]
    if size <= stride:  # only the taps that meet the map are kept; the others have no gradient
        met = slice(1, 1 + size)
        found = torch.zeros_like(conv.weight).permute(0, 2, 3, 1)
        found[:, met, met] = grads[1][1].view(5, size, size, 6)
        grads[1] = (grads[1][0], found.permute(0, 3, 1, 2))
    tolerance = dict(rtol=0.02, atol=0.05) if autocast else dict(rtol=1e-5, atol=1e-6)
    for one, two in zip((outputs[0], *grads[0]), (outputs[1], *grads[1]), strict=True):
        assert torch.allclose(one, two.float(), **tolerance)


@pytest.mark.parametrize("stem", ["small", "full", "published"])
@pytest.mark.parametrize("size", [8, 12, 16, 28, 32, 64, 96])
def test_the_network_is_torchvisions(size, stem):
    torch.manual_seed(0)
    ours = ResNet18(3, size, classes=4, stem=stem)
    first = ours.trunk.conv1
    torch.manual_seed(0)  # the same weights, drawn in the same order
    theirs = resnet18(num_classes=4)
    shape = first.in_channels, first.out_channels, first.kernel_size, first.stride, first.padding
    theirs.conv1, theirs.maxpool = nn.Conv2d(*shape, bias=False), ours.trunk.maxpool
    theirs.fc, images = nn.Identity(), torch.rand(3, 3, size, size, dtype=torch.float64)
    for training in (False, True):
        found = ours.double().train(training).features(images)
        assert torch.allclose(found, theirs.double().train(training)(images), rtol=1e-6, atol=1e-9)


def test_large_maps_are_left_to_torch():
    conv = nn.Conv2d(6, 5, 3, padding=1, bias=False)
    assert on_small_maps(conv, 3) is conv


@pytest.mark.parametrize(
    "network",
    [
        ConvAutoencoder(2, 8, latent=3, encoder="large", noisy=True, mean=torch.rand(2)),
        ResNet18(2, 16, classes=3, stem="full", std=torch.rand(2) + 1),
        PlainNet(2, 16, classes=5, mean=torch.rand(2)),
    ],
)
def test_a_network_can_be_built_again_from_its_shape_and_weights(network):
    shape = json.loads(json.dumps(network.shape))
    again = NETWORKS[type(network).__name__](**shape)
    again.load_state_dict(network.state_dict())
    images = torch.rand(2, 2, shape["size"], shape["size"])
    torch.manual_seed(0)
    first = network.eval()(images)
    torch.manual_seed(0)
    assert torch.equal(again.eval()(images), first)
