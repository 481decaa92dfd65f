"""The five one-class methods against a direct solution, another library, their own optimality conditions, and faults."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from sklearn.svm import OneClassSVM

from clad_lib import baselines, deep_svdd
from clad_lib.data import load_dataset
from clad_lib.evaluation import auroc
from clad_lib.models import ConvAutoencoder, channel_statistics
from clad_lib.training import TrainingError, infer, seeded


@pytest.fixture(scope="module")
def zeros():
    """Digit 0 of the embedded data: training images, test images, and which of these are another digit."""
    train, test = load_dataset("digits")
    images = [torch.from_numpy(part.images) for part in (train, test)]
    return images[0][torch.from_numpy(train.labels == 0)], images[1], test.labels != 0


@pytest.fixture(scope="module")
def autoencoder(zeros):
    with seeded(0):
        mean, std = channel_statistics(zeros[0])
        return ConvAutoencoder(1, 16, latent=4, mean=mean, std=std).eval()


def small_images(count=14, seed=0):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def rbf(one, other, gamma):
    return np.exp(-gamma * ((one[:, None] - other[None]) ** 2).sum(2))


def test_ocsvm_is_scikit_learns(zeros):
    train, test, _ = zeros
    rows, tested = (part.flatten(1).double().numpy() / 255 for part in (train, test))
    other = OneClassSVM(nu=0.2, gamma=0.05).fit(rows)
    ours = baselines.fit_ocsvm(train, nu=0.2, gamma=0.05)
    assert ours.method == "exact"
    assert np.allclose(ours(test), -other.decision_function(tested), atol=1e-6)


def test_svdd_is_the_distance_to_the_centre_of_a_directly_solved_qp():
    """max_a sum a_i k_ii - sum_ij a_i a_j k_ij, 0 <= a_i <= C, sum a_i = 1 (Tax & Duin 2004, eq. 14), by SLSQP."""
    images, gamma, nu = small_images(), 0.7, 0.3
    rows = images.flatten(1).double().numpy()
    count, upper = len(rows), 1 / (nu * len(rows))
    kernel = rbf(rows, rows, gamma)
    solved = minimize(
        lambda a: a @ kernel @ a - a.sum(),
        np.full(count, 1 / count),
        jac=lambda a: 2 * kernel @ a - 1,
        bounds=[(0, upper)] * count,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": lambda a: np.ones(count)},
        options={"ftol": 1e-15, "maxiter": 2000},
    )
    a = solved.x
    on_sphere = np.flatnonzero((a > 1e-4) & (a < upper - 1e-4))
    assert len(on_sphere)

    def distance(points):
        return 1 - 2 * rbf(points, rows, gamma) @ a + a @ kernel @ a

    radius = distance(rows[on_sphere]).mean()
    new = small_images(30, seed=1)
    expected = distance(new.flatten(1).double().numpy()) - radius
    assert np.allclose(baselines.fit_svdd(images, nu=nu, gamma=gamma)(new), expected, atol=2e-3)


def test_svdd_and_ocsvm_rank_alike_at_one_width(zeros):
    train, test, _ = zeros
    one, other = (fit(train, nu=0.1, gamma=0.03)(test) for fit in (baselines.fit_ocsvm, baselines.fit_svdd))
    assert spearmanr(one, other).statistic > 1 - 1e-12


def test_at_most_nu_of_the_training_images_lie_outside(zeros):
    for fit in (baselines.fit_ocsvm, baselines.fit_svdd):
        scores = fit(zeros[0], nu=0.25)(zeros[0])
        assert (scores > 1e-6).double().mean() <= 0.25


def test_above_the_limit_nystroem_ranks_as_the_exact_solution(zeros):
    train, test, _ = zeros
    exact, near = baselines.fit_ocsvm(train), baselines.fit_ocsvm(train, exact_up_to=10, landmarks=100)
    assert (exact.method, near.method) == ("exact", "nystroem")
    assert spearmanr(exact(test), near(test)).statistic > 0.97


def test_widths_by_hand():
    images = small_images(40)
    rows = images.flatten(1).double().numpy()
    distances = ((rows[:, None] - rows[None]) ** 2).sum(2)[np.triu_indices(40, 1)]
    assert np.isclose(baselines.fit_ocsvm(images, gamma="scale").gamma, 1 / (16 * rows.var()))
    middle = np.sort(distances)[(len(distances) - 1) // 2]  # torch's median is the lower of the two
    assert np.isclose(baselines.fit_svdd(images).gamma, 1 / (2 * middle))


def test_ocnn_ends_with_r_as_the_quantile_of_its_responses(zeros, autoencoder):
    scorer = baselines.fit_ocnn(zeros[0], autoencoder, nu=0.2, epochs=5, progress=False)
    scores = scorer(zeros[0])
    assert abs(float((scores > 0).double().mean()) - 0.2) <= 1 / len(scores) + 1e-6


def test_ocnn_lowers_its_objective(zeros, autoencoder):
    """Equation 3 of the paper, computed here from the scorer's parts."""

    def objective(epochs):
        head = baselines.fit_ocnn(zeros[0], autoencoder, nu=0.1, epochs=epochs, seed=3, progress=False).network[1]
        features = infer(baselines.EncoderFeatures(autoencoder), zeros[0])
        x = features / features.square().sum(1).mean().sqrt()
        response = torch.sigmoid(x @ head.hidden.weight.T) @ head.output.weight[0]
        r = torch.quantile(response, 0.1)
        weights = head.hidden.weight.square().sum() + head.output.weight.square().sum()
        return float((weights / 2 + (r - response).clamp_min(0).mean() / 0.1 - r).detach())

    assert objective(30) < objective(1)


def test_occnn_tells_features_from_the_noise_that_it_was_trained_on(zeros, autoencoder):
    scorer = baselines.fit_occnn(zeros[0], autoencoder, steps=300, lr=1e-2, progress=False)
    extractor, head = scorer.network
    with torch.no_grad():
        known = head(infer(extractor, zeros[0]))
        noise = head.logits(0.01 * torch.randn(200, 512, generator=torch.Generator().manual_seed(9)))
    assert auroc(torch.cat([known, noise]).numpy(), np.arange(len(known) + 200) >= len(known)) > 0.99


FAST = dict(pretraining=(15, 5), training=(15, 5), lr=1e-3, progress=False)


@pytest.fixture(scope="module")
def hard(zeros):
    return baselines.fit_deep_svdd(zeros[0], objective="hard", **FAST)


def test_deep_svdd_finds_other_digits(zeros, hard):
    assert auroc(hard(zeros[1]).numpy(), zeros[2]) > 0.9


def test_deep_svdd_has_no_bias_and_a_centre_away_from_zero(hard):
    names = [name for name, _ in hard.network.named_parameters()]
    assert names
    assert not [name for name in names if "bias" in name]
    assert (hard.network.centre.abs() >= 0.1 - 1e-6).all()


def test_deep_svdd_scores_are_distances_to_the_centre(zeros, hard):
    with torch.no_grad():
        outputs = hard.network.embed(zeros[1].float() / 255)
    assert np.allclose(hard(zeros[1]), (outputs - hard.network.centre).square().sum(1), rtol=1e-3, atol=1e-5)


def test_the_soft_radius_is_the_quantile_of_the_distances(zeros):
    scorer = baselines.fit_deep_svdd(zeros[0], objective="soft", nu=0.2, **FAST)
    assert abs(float((scorer(zeros[0]) > 0).double().mean()) - 0.2) <= 1 / len(zeros[0]) + 1e-6
    assert scorer.network.squared_radius > 0


def test_a_centre_near_zero_is_moved_away_with_its_sign():
    outputs = torch.tensor([[0.05, -0.01, 0.0, 2.0], [0.01, -0.05, 0.0, 1.0]])
    assert torch.allclose(deep_svdd.centre_of(outputs), torch.tensor([0.1, -0.1, 0.1, 1.5]))


def test_a_collapsed_sphere_is_an_error_and_not_a_result():
    with pytest.raises(TrainingError, match="collapsed"):
        deep_svdd.check_spread(torch.ones(50, 8), torch.ones(8))
    same = torch.full((60, 1, 8, 8), 100, dtype=torch.uint8)
    with pytest.raises(TrainingError, match="collapsed"):
        baselines.fit_deep_svdd(same, pretraining=(1, 0), training=(1, 0), progress=False)


def test_contrast_is_normalised_to_mean_absolute_deviation_one():
    images = deep_svdd.contrast_normalise(small_images(5))
    assert torch.allclose(images.mean((1, 2, 3)), torch.zeros(5), atol=1e-6)
    assert torch.allclose(images.abs().mean((1, 2, 3)), torch.ones(5), atol=1e-5)


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_every_baseline_gives_one_finite_score_an_image_and_the_same_for_the_same_seed(name, zeros, autoencoder):
    settings = {"OCNN": dict(epochs=1), "OCCNN": dict(steps=2), "DeepSVDD": dict(pretraining=(1, 0), training=(1, 0))}
    options = dict(seed=5, device="cpu", autoencoder=autoencoder, progress=False) | settings.get(name, {})
    one, two = (baselines.BASELINES[name](zeros[0], **options)(zeros[1]) for _ in range(2))
    assert one.shape == (len(zeros[1]),)
    assert torch.isfinite(one).all()
    assert torch.equal(one, two)


def test_bad_input_is_named_with_the_cure(zeros, autoencoder):
    train, _, _ = zeros
    broken = train.float() / 255
    broken[0, 0, 0, 0] = float("nan")
    for fit in (baselines.fit_ocsvm, baselines.fit_svdd):
        with pytest.raises(ValueError, match="NaN"):
            fit(broken)
        with pytest.raises(ValueError, match=r"nu is 1\.5"):
            fit(train, nu=1.5)
        with pytest.raises(ValueError, match="gamma is -1"):
            fit(train, gamma=-1)
        with pytest.raises(ValueError, match="N > 0"):
            fit(train[:0])
        with pytest.raises(ValueError, match="resize"):
            fit(train)(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="run notebook 02 first"):
        baselines.BASELINES["OCNN"](train, seed=0)
    with pytest.raises(ValueError, match="expected 'encoder', 'alexnet' or 'vgg16'"):
        baselines.fit_occnn(train, autoencoder, features="resnet")
    with pytest.raises(ValueError, match="'soft' or 'hard'"):
        baselines.fit_deep_svdd(train, objective="medium")
    with pytest.raises(ValueError, match="multiple of 4"):
        baselines.fit_deep_svdd(torch.zeros(9, 1, 18, 18))
    with pytest.raises(ValueError, match="N > 1"):
        baselines.fit_deep_svdd(train[:1])


def test_pretrained_features_that_cannot_be_had_say_what_to_do(zeros, monkeypatch):
    def offline(name, weights):
        raise OSError("no route to host")

    monkeypatch.setattr(baselines.torchvision.models, "get_model", offline)
    with pytest.raises(RuntimeError, match="use features='encoder'"):
        baselines.fit_occnn(zeros[0], None, features="alexnet")


def test_images_all_alike_and_one_image_have_an_answer():
    same = torch.full((5, 1, 4, 4), 0.5)
    for fit in (baselines.fit_ocsvm, baselines.fit_svdd):
        assert torch.isfinite(fit(same)(small_images(3))).all()
        assert torch.isfinite(fit(same[:1])(small_images(3))).all()
