"""OCNN and OCCNN against the conditions that their papers' objectives set, and injected faults."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clad_lib.clad.networks import ConvAutoencoder, Trained, channel_statistics
from clad_lib.clad.training import infer, seeded
from clad_lib.config import Settings, make_config
from clad_lib.data.reading import load_dataset
from clad_lib.judge.metrics import auroc
from clad_lib.methods import neural
from clad_lib.methods.scorers import NotApplicable, encoder_features


def fit_ocnn(images, model, *, nu=0.1, epochs=1, seed=0):
    settings = SimpleNamespace(nu=nu, ocnn_epochs=epochs, seed=seed, progress=False)
    return neural.ocnn(SimpleNamespace(train=images), settings, Trained(model, None))


def fit_occnn(images, model, *, steps=2, seed=0):
    settings = SimpleNamespace(occnn_steps=steps, seed=seed, progress=False)
    return neural.occnn(SimpleNamespace(train=images), settings, Trained(model, None))


@pytest.fixture(scope="module")
def zeros():
    """Training images of the digit 0, and test images of all digits."""
    train, test = load_dataset("digits")
    return torch.from_numpy(train.images[train.labels == 0]), torch.from_numpy(test.images)


@pytest.fixture(scope="module")
def autoencoder(zeros):
    with seeded(0):
        return ConvAutoencoder(1, 16, latent=4, **channel_statistics(zeros[0])).eval()


@pytest.fixture
def fitted(monkeypatch):
    """The networks that `fit` trained, and the data it saw: (model, features)."""
    seen = []
    real = neural.fit

    def spy(model, loss, features, **settings):
        seen.append((model, features))
        return real(model, loss, features, **settings)

    monkeypatch.setattr(neural, "fit", spy)
    return seen


def test_ocnn_ends_with_r_as_the_quantile_of_its_responses(zeros, autoencoder):
    scorer = fit_ocnn(zeros[0], autoencoder, nu=0.2, epochs=5)
    scores = scorer(zeros[0])
    assert abs(float((scores > 0).double().mean()) - 0.2) <= 1 / len(scores) + 1e-6


def test_ocnn_lowers_its_objective_and_scores_r_minus_the_response(zeros, autoencoder, fitted):
    """Equations 3 and 6 of the paper, computed here from the trained weights."""

    def objective(epochs):
        scorer = fit_ocnn(zeros[0], autoencoder, nu=0.1, epochs=epochs, seed=3)
        v, w = (weight.detach() for weight in fitted[-1][0].parameters())
        features = infer(encoder_features(autoencoder), zeros[0])
        x = features / features.square().sum(1).mean().sqrt()
        response = torch.sigmoid(x @ v.T) @ w[0]
        r = torch.quantile(response, 0.1)
        assert torch.allclose(scorer(zeros[0]), r - response, atol=1e-5)
        weights = v.square().sum() + w.square().sum()
        return float(weights / 2 + (r - response).clamp_min(0).mean() / 0.1 - r)

    assert objective(30) < objective(1)


def test_occnn_tells_features_from_the_noise_that_it_was_trained_on(
    zeros, autoencoder, fitted, monkeypatch
):
    fit = neural.fit
    monkeypatch.setattr(neural, "fit", lambda *given, **by: fit(*given, **by | {"lr": 1e-2}))
    scorer = fit_occnn(zeros[0], autoencoder, steps=300)
    head, features = fitted[0]
    assert torch.allclose(features.mean(1), torch.zeros(len(features)), atol=1e-5)
    assert torch.allclose(features.var(1, correction=0), torch.ones(len(features)), atol=1e-2)
    noise = 0.01 * torch.randn(200, 512, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        scores = torch.cat([scorer(zeros[0]), head(noise)])
    assert auroc(scores.numpy(), np.arange(len(scores)) >= len(features)) > 0.99


@pytest.mark.parametrize(("fit", "short"), [(fit_ocnn, dict(epochs=1)), (fit_occnn, dict(steps=2))])
def test_the_same_seed_gives_the_same_finite_score_an_image(fit, short, zeros, autoencoder):
    one, two = (fit(zeros[0], autoencoder, seed=5, **short)(zeros[1]) for _ in range(2))
    assert one.shape == (len(zeros[1]),)
    assert torch.isfinite(one).all()
    assert torch.equal(one, two)
    other = fit(zeros[0], autoencoder, seed=6, **short)(zeros[1])
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("fit", "short"), [(fit_ocnn, dict(epochs=1)), (fit_occnn, dict(steps=2))])
def test_bad_input_is_named_with_the_cure(fit, short, zeros, autoencoder):
    broken = zeros[0].float() / 255
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        fit(broken, autoencoder)
    with pytest.raises(NotApplicable, match="got 0 training"):
        fit(zeros[0][:0], autoencoder)
    scorer = fit(zeros[0], autoencoder, **short)
    with pytest.raises(ValueError, match="resize"):
        scorer(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("method", "fit", "reads", "values"),
    [
        (neural.ocnn, fit_ocnn, ("nu", "ocnn_epochs"), dict(nu=0.3, epochs=2)),
        (neural.occnn, fit_occnn, ("occnn_steps",), dict(steps=10)),
    ],
)
def test_as_methods_they_read_what_they_declare(method, fit, reads, values, zeros, autoencoder):
    config = make_config("digits", "CUR", profile="smoke", nu=0.3, seed=4)
    settings = Settings(config, reads, progress=False)
    split = SimpleNamespace(train=zeros[0])  # has nothing else to read
    scorer = method(split, settings, Trained(autoencoder, None))
    expected = fit(zeros[0], autoencoder, seed=4, **values)
    assert torch.equal(scorer(zeros[1]), expected(zeros[1]))
