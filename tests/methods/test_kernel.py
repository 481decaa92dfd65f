"""OCSVM and SVDD against scikit-learn, a directly solved problem, and their own identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from sklearn.svm import OneClassSVM

from clad_lib.config import Settings, make_config
from clad_lib.data.reading import load_dataset
from clad_lib.methods.kernel import fit_boundary, ocsvm, svdd
from clad_lib.methods.scorers import NotApplicable


def fit_ocsvm(images, *, nu=0.1, gamma="scale", **more):
    return fit_boundary(images, nu=nu, gamma=gamma, scale=nu * len(images), **more)


fit_svdd = fit_boundary
FITS = (fit_ocsvm, fit_svdd)


@pytest.fixture(scope="module")
def zeros():
    """Training images of the digit 0, and test images of all digits."""
    train, test = load_dataset("digits")
    return torch.from_numpy(train.images[train.labels == 0]), torch.from_numpy(test.images)


def small_images(count=14, seed=0):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def rbf(one, other, gamma):
    return np.exp(-gamma * ((one[:, None] - other[None]) ** 2).sum(2))


def test_ocsvm_is_scikit_learns(zeros):
    train, test = zeros
    rows, tested = (part.flatten(1).double().numpy() / 255 for part in (train, test))
    other = OneClassSVM(nu=0.2, gamma=0.05).fit(rows)
    ours = fit_ocsvm(train, nu=0.2, gamma=0.05)
    assert ours.method == "exact"
    assert np.allclose(ours.supports, other.support_vectors_)
    assert np.allclose(ours(test), -other.decision_function(tested), atol=1e-6)


def test_svdd_is_the_distance_to_the_centre_of_a_directly_solved_qp():
    """max_a sum a_i k_ii - sum_ij a_i a_j k_ij, 0 <= a_i <= C, sum a_i = 1 (Tax & Duin, eq. 14)."""
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
    assert np.allclose(fit_svdd(images, nu=nu, gamma=gamma)(new), expected, atol=2e-3)


def test_svdd_and_ocsvm_rank_alike_at_one_width(zeros):
    train, test = zeros
    one, other = (fit(train, nu=0.1, gamma=0.03)(test) for fit in FITS)
    assert spearmanr(one, other).statistic > 1 - 1e-12


@pytest.mark.parametrize("fit", FITS)
def test_at_most_nu_of_the_training_images_lie_outside(fit, zeros):
    scores = fit(zeros[0], nu=0.25)(zeros[0])
    assert 0.15 < (scores > 1e-6).double().mean() <= 0.25


def test_above_the_limit_nystroem_ranks_as_the_exact_solution(zeros):
    train, test = zeros
    exact, near = fit_ocsvm(train), fit_ocsvm(train, exact_up_to=10, landmarks=100)
    assert (exact.method, near.method, len(near.supports)) == ("exact", "nystroem", 100)
    assert spearmanr(exact(test), near(test)).statistic > 0.97


def test_widths_by_hand():
    images = small_images(40)
    rows = images.flatten(1).double().numpy()
    distances = ((rows[:, None] - rows[None]) ** 2).sum(2)[np.triu_indices(40, 1)]
    assert np.isclose(fit_ocsvm(images, gamma="scale").gamma, 1 / (16 * rows.var()))
    middle = np.sort(distances)[(len(distances) - 1) // 2]  # torch's median is the lower of the two
    assert np.isclose(fit_svdd(images).gamma, 1 / (2 * middle))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("exact_up_to", [10_000, 20])
def test_the_same_seed_gives_the_same_finite_score_an_image(fit, exact_up_to, zeros):
    train, test = zeros
    settings = dict(exact_up_to=exact_up_to, landmarks=30, seed=5)
    one, two = (fit(train, **settings)(test) for _ in range(2))
    assert one.shape == (len(test),)
    assert torch.isfinite(one).all()
    assert torch.equal(one, two)


@pytest.mark.parametrize("fit", FITS)
def test_bad_input_is_named_with_the_cure(fit, zeros):
    train, _ = zeros
    broken = train.float() / 255
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        fit(broken)
    with pytest.raises(ValueError, match="gamma"):
        fit(train, gamma=-1)
    with pytest.raises(NotApplicable, match="got 0 training"):
        fit(train[:0])
    with pytest.raises(ValueError, match=r"expected \(N, C, H, W\)"):
        fit(train[0])
    with pytest.raises(ValueError, match="resize"):
        fit(train)(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("fit", FITS)
def test_images_all_alike_and_one_image_have_an_answer(fit):
    same = torch.full((5, 1, 4, 4), 0.5)
    assert torch.isfinite(fit(same)(small_images(3))).all()
    assert torch.isfinite(fit(same[:1])(small_images(3))).all()


@pytest.mark.parametrize(("method", "fit"), [(ocsvm, fit_ocsvm), (svdd, fit_svdd)])
def test_as_methods_they_read_nu_alone(method, fit, zeros):
    split = type("Split", (), {"train": zeros[0]})
    settings = Settings(make_config("digits", "CUR", nu=0.3, seed=4), ("nu",))
    assert torch.equal(method(split, settings)(zeros[1]), fit(zeros[0], nu=0.3, seed=4)(zeros[1]))
