"""ODIN against the formula and finite differences; the scores of a split; what the room imports."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import percentileofscore, rankdata
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from clad_lib.clad import scores
from clad_lib.clad.networks import ResNet18, Standardise, Trained
from clad_lib.clad.posthoc import (
    POSTHOC,
    energy,
    knn,
    log_confidence,
    mahalanobis,
    max_logit,
    msp,
    vim,
)
from clad_lib.clad.training import fit, gains_from_bf16, infer, seeded
from clad_lib.config import Settings, make_config


@pytest.fixture(scope="module")
def classifier():
    statistics = dict(mean=torch.tensor([0.3]), std=torch.tensor([0.25]))
    with seeded(0):
        model = ResNet18(1, 16, classes=5, **statistics)
        model(torch.rand(64, 1, 16, 16))  # move the batch-norm statistics away from their start
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(23, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_odin_at_temperature_one_without_a_step_is_msp(classifier, images):
    plain = infer(classifier, images, batch_size=256, bf16=True)  # ODIN computes in it too
    assert torch.equal(scores.odin(classifier, images, temperature=1, epsilon=0), msp(plain))


def test_a_loaded_classifier_scores_as_the_trained_one_to_the_bit(images):
    statistics = dict(mean=torch.tensor([0.3]), std=torch.tensor([0.25]))
    trained, loaded = (ResNet18(1, 16, classes=2, **statistics) for _ in range(2))
    labels = torch.arange(len(images)) % 2
    fit(
        trained,
        lambda model, *batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        *(images, labels),
        **dict(epochs=1, batch_size=8, lr=1e-3, seed=0, progress=False),
    )
    loaded.load_state_dict(trained.state_dict())
    assert torch.equal(scores.odin(loaded, images), scores.odin(trained, images))


@pytest.mark.parametrize("epsilon", [0.0, 0.01])
def test_scores_do_not_depend_on_the_batch(classifier, images, epsilon):
    options, tolerance = dict(temperature=10, epsilon=epsilon), 1e-5
    if gains_from_bf16(torch.device("cpu")):  # it rounds otherwise in other batches
        tolerance = 3e-4
    if epsilon:  # in float32 rounding may turn the sign of a gradient near 0
        model, few = smooth()
        found = [scores.odin(model, few, **options, batch_size=size) for size in (3, 1)]
        assert np.allclose(*found, rtol=1e-5)
        tolerance = 3e-3
    whole = scores.odin(classifier, images, **options, batch_size=23)
    single = scores.odin(classifier, images, **options, batch_size=1)
    assert np.allclose(whole, single, rtol=tolerance)


def test_uint8_and_unit_images_score_alike(classifier):
    random = torch.Generator().manual_seed(2)
    grey = torch.randint(0, 256, (9, 1, 16, 16), dtype=torch.uint8, generator=random)
    assert torch.equal(scores.odin(classifier, grey), scores.odin(classifier, grey.float() / 255))


class Smooth(nn.Module):
    """A small network in double precision: finite differences are exact enough to compare signs."""

    def __init__(self, channels=1):
        super().__init__()
        self.standardise = Standardise(channels, 0.0, torch.linspace(0.2, 0.5, channels))
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * channels, 12), nn.Tanh(), nn.Linear(12, 4)
        )

    def forward(self, images):
        return self.body(self.standardise(images))


def smooth(channels=1):
    with seeded(3):
        model = Smooth(channels).double()
    random = torch.Generator().manual_seed(4)
    return model, torch.rand(3, channels, 4, 4, dtype=torch.float64, generator=random)


def by_finite_differences(model, images, temperature):
    """The confidence as a function, and the sign of its gradient, (N, C, H, W)."""

    def confidence(x):
        return log_softmax(model(x).detach().numpy() / temperature, axis=1).max(1)

    gradient = np.zeros(images.flatten(1).shape)
    for pixel in range(gradient.shape[1]):
        nudge = torch.zeros(gradient.shape[1], dtype=torch.float64)
        nudge[pixel] = 1e-6
        nudge = nudge.view(1, *images.shape[1:])
        gradient[:, pixel] = confidence(images + nudge) - confidence(images - nudge)
    return confidence, torch.from_numpy(np.sign(gradient)).view(images.shape)


@pytest.mark.parametrize("temperature", [1.0, 50.0])
def test_the_step_follows_the_gradient_by_finite_differences(temperature):
    model, images = smooth()
    confidence, sign = by_finite_differences(model, images, temperature)
    # x' = x - eps sign(-grad) = x + eps sign(grad)
    ours = scores.odin(model, images, temperature=temperature, epsilon=0.01)
    assert np.allclose(ours, -confidence(images + 0.01 * sign), rtol=1e-9)
    assert (ours.numpy() < -confidence(images)).all()


def test_the_published_unit_is_161_standard_deviations_of_each_channel():
    model, images = smooth(channels=3)
    confidence, sign = by_finite_differences(model, images, 1000.0)
    steps = 1e-4 * 161.39240506 * torch.tensor([0.2, 0.35, 0.5]).view(3, 1, 1)
    published = scores.odin(model, images, epsilon=1e-4, unit="published")
    assert np.allclose(published, -confidence(images + steps * sign), rtol=1e-9)
    pixel = scores.odin(model, images, epsilon=1e-4)
    assert not np.allclose(published, pixel, rtol=1e-9)


def odin_settings(**overrides):
    reads = ("temperature", "epsilon", "epsilon_unit", "odin_factor")
    return Settings(make_config("digits", "CUR", **overrides), reads, progress=False)


@pytest.mark.parametrize(
    ("overrides", "unit"),
    [
        ({}, "pixel"),
        ({"epsilon_unit": "published"}, "published"),
        ({"odin_factor": True}, "published"),
        ({"odin_factor": True, "epsilon_unit": "published"}, "published"),
    ],
)
def test_the_published_factor_is_applied_once_whatever_asks_for_it(overrides, unit):
    model, images = smooth()
    settings = odin_settings(temperature=10, epsilon=1e-3, **overrides)
    found = scores.odin_scores(None, settings, Trained(model, np.zeros(1)))(images)
    expected = scores.odin(model, images, temperature=10, epsilon=1e-3, unit=unit)
    assert torch.equal(found, expected)


def test_the_published_mnist_step_is_about_half_a_hundredth_of_a_pixel(classifier, images):
    classifier.standardise.std.fill_(0.3081)  # of MNIST's pixels
    published = scores.odin(classifier, images, epsilon=1e-4, unit="published")
    pixel = scores.odin(classifier, images, epsilon=0.00497)
    classifier.standardise.std.fill_(0.25)
    assert np.allclose(published, pixel, rtol=1e-3)


def test_odin_leaves_the_classifier_alone(classifier, images):
    classifier.train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    scores.odin(classifier, images, epsilon=0.01)
    after = classifier.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert classifier.training
    classifier.eval()


def test_bad_settings(classifier, images):
    with pytest.raises(ValueError, match="temperature is 0"):
        scores.odin(classifier, images, temperature=0)
    for epsilon in (-1, float("nan")):
        with pytest.raises(ValueError, match=f"epsilon is {epsilon}"):
            scores.odin(classifier, images, epsilon=epsilon)


def test_the_grid_is_odin_at_each_point_to_the_bit(classifier, images):
    temperatures, epsilons = (1, 1000), (0, 0.01)
    grid = scores.odin_grid(classifier, images, temperatures=temperatures, epsilons=epsilons)
    for i, temperature in enumerate(temperatures):
        for j, epsilon in enumerate(epsilons):
            one = scores.odin(classifier, images, temperature=temperature, epsilon=epsilon)
            assert np.array_equal(grid[i, j], one)


def test_outputs_are_the_logits_of_the_classifier(classifier, images):
    both = scores.outputs(classifier, images)
    assert torch.equal(both.logits, infer(classifier, images, batch_size=256, bf16=True))
    assert both.features.shape == (23, 512)
    assert both.features.dtype == both.logits.dtype == torch.float32


@pytest.fixture(scope="module")
def stages(classifier):
    """A split of random images with its clusters and outputs, as the table of stages hands them."""
    random = torch.Generator().manual_seed(7)
    parts = {}
    for name, count in (("train", 60), ("calibration", 20), ("test", 30)):
        shape = (count, 1, 16, 16)
        parts[name] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    split = SimpleNamespace(**parts, calibration_tracks=np.arange(20) // 2)
    trained, settings = Trained(classifier, np.zeros(1)), odin_settings()
    clusters = SimpleNamespace(labels=np.arange(60) % 5)
    return split, settings, trained, clusters, scores.part_outputs(split, settings, trained)


def one_pass_scores(stages):
    split, settings, trained, clusters, outputs = stages
    rows = (
        scores.msp_scores,
        scores.max_logit_scores,
        scores.energy_scores,
        scores.knn_scores,
        scores.mahalanobis_scores,
        scores.relative_mahalanobis_scores,
        scores.vim_scores,
    )
    return [row(split, settings, clusters, trained, outputs) for row in rows]


def test_the_scores_of_a_split_are_those_of_its_outputs(stages):
    split, _, trained, clusters, outputs = stages
    assert outputs.test.features.dtype == torch.float16
    found = one_pass_scores(stages)
    labels, train = torch.from_numpy(clusters.labels), outputs.train
    for part in ("calibration", "test"):
        tested = getattr(outputs, part)
        expected = [
            msp(tested.logits),
            -tested.logits.amax(1),
            -tested.logits.double().logsumexp(1),
            knn(tested.features, train.features),
            mahalanobis(tested.features, train.features, labels),
            mahalanobis(tested.features, train.features, labels, relative=True),
            vim(tested, train, trained.model.head),
        ]
        for ours, values in zip(found, expected, strict=True):
            assert np.array_equal(getattr(ours, part), values.double().numpy())
    assert len(found[0].calibration) == len(split.calibration)
    assert found[0].used is None


def test_the_ensemble_keeps_its_reference_images_out_of_the_calibration(stages):
    split, settings, *_ = stages
    plain = one_pass_scores(stages)
    found = scores.rank_average_scores(split, settings, *plain)
    assert found.used.sum() == 10  # five of the ten tracks of two frames
    tracks = split.calibration_tracks
    assert not set(tracks[found.used]) & set(tracks[~found.used])
    ranks = [
        (rankdata(np.append(each.calibration[found.used], each.test[7]))[-1] - 1) / 10
        for each in plain
    ]
    assert np.isclose(found.test[7], np.mean(ranks))
    assert len(found.calibration) == 20


def test_the_ensemble_by_hand_and_against_scipy(stages):
    """The reference of seed 0 is read off `used`; ranks are SciPy's, ties half."""
    split, settings, *_ = stages
    random = np.random.default_rng(0)
    scored = [scores.Scored(*(random.integers(0, 9, n).astype(float) for n in (20, 30)))] * 2
    scored[1] = scores.Scored(scored[0].calibration * 10, scored[0].test * 10 + 5)
    found = scores.rank_average_scores(split, settings, *scored)
    for part in ("calibration", "test"):
        ranks = [
            percentileofscore(each.calibration[found.used], getattr(each, part), kind="mean")
            for each in scored
        ]
        assert np.allclose(getattr(found, part), np.mean(ranks, axis=0) / 100)
    tied = scores.rank_average_scores(split, settings, scores.Scored(np.ones(20), np.arange(3.0)))
    assert tied.test.tolist() == [0, 0.5, 1]


def test_one_calibration_image_is_too_few_for_the_ensemble(stages):
    _, settings, *_ = stages
    one = scores.Scored(np.ones(1), np.ones(3))
    with pytest.raises(ValueError, match=r"got 1 calibration image\(s\) or track\(s\)"):
        scores.rank_average_scores(SimpleNamespace(calibration_tracks=np.zeros(1)), settings, one)


@pytest.mark.parametrize("factor", [False, True])
def test_the_grid_of_a_split_is_odin_on_a_sample_of_its_images(stages, factor, monkeypatch):
    split, _, trained, *_ = stages
    monkeypatch.setattr(scores, "GRID_IMAGES", 12)
    monkeypatch.setattr(scores, "EPSILONS", (0.0, 0.003))
    found = scores.odin_grid_of(split, odin_settings(odin_factor=factor), trained)
    assert found.calibration.shape == found.test.shape == (3, 2, 12)
    assert (np.diff(found.test_rows) > 0).all()
    sample = split.test[torch.from_numpy(found.test_rows)]
    options = dict(temperature=found.temperatures[1], epsilon=found.epsilons[1])
    unit = "published" if factor else "pixel"
    expected = scores.odin(trained.model, sample, **options, unit=unit)
    assert np.array_equal(found.test[1, 1], expected)


class NoDoubleOnTheDevice(TorchDispatchMode):
    """Plays a device without float64: only what `.cpu()` brought back may be made double.

    Tensors count as the device's unless they come from `.cpu()`, are made without any tensor, or
    are computed from such tensors alone.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.host = WeakIdKeyDictionary()
        plain = torch.Tensor.cpu

        def cpu(tensor):
            found = plain(tensor).view(tensor.shape)  # a tensor of its own, where cpu() copies none
            self.host[found] = True
            return found

        monkeypatch.setattr(torch.Tensor, "cpu", cpu)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        made_here = func is torch.ops.aten.lift_fresh.default  # torch.tensor, torch.from_numpy
        if made_here or all(tensor in self.host for tensor in given):
            self.host.update(dict.fromkeys(made, True))
        elif any(tensor.dtype == torch.float64 for tensor in made):
            raise TypeError(f"{func} makes float64 on the device")
        return out


def test_no_float64_on_the_device_while_scoring(classifier, images, monkeypatch):
    with NoDoubleOnTheDevice(monkeypatch):
        found = scores.odin(classifier, images, unit="published")
        scores.odin(classifier, images, epsilon=0)
        scores.odin_grid(classifier, images, temperatures=(1, 10), epsilons=(0, 0.01))
        both = scores.outputs(classifier, images)
        labels = torch.arange(23) % 5
        for score in POSTHOC.values():
            score(both, both, labels, classifier.head)
        msp(classifier(images).detach())
        max_logit(both.logits.clone())
        energy(both.logits.clone())
    assert found.dtype == torch.float64


def test_the_device_without_float64_refuses_what_the_old_code_did(classifier, images, monkeypatch):
    with NoDoubleOnTheDevice(monkeypatch):
        logits = classifier(images).detach()
        with pytest.raises(TypeError, match="float64 on the device"):
            -log_confidence(logits.double())
        log_confidence(logits.cpu().double())


BLOCKED = ("torchvision", "openTSNE", "MulticoreTSNE", "plotly", "papermill", "dask", "duckdb")


def test_the_room_imports_nothing_heavy():
    names = ("networks", "training", "dec", "posthoc", "scores", "latent_map")
    imports = "; ".join(f"import clad_lib.clad.{name}" for name in names)
    code = f"import sys; {imports}; print([name for name in {BLOCKED} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
