"""One-class SVM and support vector data description: RBF kernels on pixels, exact or by Nystroem landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import SGDOneClassSVM
from sklearn.svm import OneClassSVM
from torch import Tensor

from clad_lib.training import as_unit

Method = Literal["exact", "nystroem"]
Gamma = float | Literal["scale", "median"]

MEDIAN_IMAGES = 2000  # the median distance comes from at most this many images
SGD_EPOCHS = 20  # averaged SGD on 1,000 landmarks of 17,905 MNIST images then ranks as the exact solution (rho 0.999)


@dataclass(frozen=True)
class KernelScorer:
    """A fitted RBF boundary: score(x) = scale (offset - sum_j weights_j exp(-gamma |x - supports_j|^2)).

    Images (N, C, H, W), uint8 or float32 in [0, 1] -> float64 (N,); above 0 is outside the boundary. `method` says
    whether the supports are the support vectors of the exact solution or the landmarks of a Nystroem approximation.
    """

    method: Method
    shape: tuple[int, ...]  # (C, H, W) of the training images
    supports: Tensor  # (M, C H W) float64
    weights: Tensor  # (M,) float64
    offset: float
    scale: float
    gamma: float
    batch_size: int = 1024

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> anomaly scores (N,). ValueError for another shape than the training images'."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"images are {tuple(images.shape)}: expected (N, *{self.shape}) as in training; resize them")
        return torch.cat([self._score(_rows(batch)) for batch in images.split(self.batch_size)])

    def _score(self, rows: Tensor) -> Tensor:
        kernel = torch.exp(-self.gamma * squared_distances(rows, self.supports))  # (n, M)
        return self.scale * (self.offset - kernel @ self.weights)


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """|a - b|^2 for all rows a of (N, D) and b of (M, D): (N, M), never negative."""
    squares = one.square().sum(1, keepdim=True) + other.square().sum(1)
    return squares.addmm_(one, other.T, alpha=-2).clamp_min_(0)


def fit_ocsvm(
    images: Tensor,
    *,
    nu: float = 0.1,
    gamma: Gamma = "scale",
    exact_up_to: int = 10_000,
    landmarks: int = 1000,
    seed: int = 0,
) -> KernelScorer:
    """One-class SVM with an RBF kernel on pixels in [0, 1] (Schoelkopf et al. 2001, eqs. 3 to 10).

    min_{w, xi, rho} |w|^2 / 2 + sum_i xi_i / (nu n) - rho  with  <w, phi(x_i)> >= rho - xi_i;  score = rho - <w, phi(x)>
    times nu n, libsvm's unit, so that the exact score is minus scikit-learn's decision function.

    At most a share `nu` of the training images scores above 0. `gamma` is 1 / (D Var[pixels]) for `scale`,
    1 / (2 median |x - x'|^2) for `median`, or a number: nothing comes from labels or anomalies.

    Deviations: above `exact_up_to` images, Nystroem features of `landmarks` random images with averaged stochastic
    gradient descent replace the exact solution, and `method` of the result says so. The study's paper gives no
    settings; nu and gamma are fixed here, where Ruff et al. (2018, section 4.1) search both with test labels.

    images (N, C, H, W), uint8 or float32 in [0, 1]. ValueError for NaN, no images, or nu outside (0, 1].
    """
    rows = _checked_rows(images, nu)
    found = _solve(rows, nu, _bandwidth(rows, gamma, seed), exact_up_to, landmarks, seed)
    return _scorer(found, images, nu * len(rows))


def fit_svdd(
    images: Tensor,
    *,
    nu: float = 0.1,
    gamma: Gamma = "median",
    exact_up_to: int = 10_000,
    landmarks: int = 1000,
    seed: int = 0,
) -> KernelScorer:
    """Support vector data description with an RBF kernel on pixels in [0, 1] (Tax & Duin 2004, eqs. 3, 14 and 15).

    min_{a, R, xi} R^2 + C sum_i xi_i  with  |phi(x_i) - a|^2 <= R^2 + xi_i;  score = |phi(x) - a|^2 - R^2

    k(x, x) is constant, so the dual is that of the one-class SVM with nu = 1 / (n C), and the score is
    2 (rho - <w, phi(x)>) with sum_i alpha_i = 1: given equal settings the two rank all images alike. What differs is
    the width: 1 / (2 median |x - x'|^2), about half of `fit_ocsvm`'s gamma, hence a wider and rounder boundary.

    Deviations: the study's SVDD row for MNIST is the OC-SVM/SVDD row of Ruff et al. (2018), who normalise contrast,
    keep 95 % of the variance by principal axes, and choose gamma and nu with test labels. Here plain pixels and fixed
    values: on normal images alone (MNIST, held-out normals against rotated, flipped and shifted ones) both of their
    preparations lowered the mean AUROC. Large sets, images, result and errors as for `fit_ocsvm`.
    """
    rows = _checked_rows(images, nu)
    found = _solve(rows, nu, _bandwidth(rows, gamma, seed), exact_up_to, landmarks, seed)
    return _scorer(found, images, 2.0)


class Boundary(NamedTuple):
    """<w, phi(x)> = sum_j weights_j k(x, supports_j), and rho, both in the unit sum_i alpha_i = 1."""

    method: Method
    supports: Tensor  # (M, D)
    weights: Tensor  # (M,)
    rho: float
    gamma: float


def _solve(rows: Tensor, nu: float, gamma: float, exact_up_to: int, landmarks: int, seed: int) -> Boundary:
    if len(rows) <= exact_up_to:
        svm = OneClassSVM(nu=nu, gamma=gamma).fit(rows.numpy())
        unit = nu * len(rows)  # libsvm scales the dual to sum_i alpha_i = nu n
        weights = torch.from_numpy(svm.dual_coef_[0]) / unit
        return Boundary("exact", torch.from_numpy(svm.support_vectors_), weights, -float(svm.intercept_[0]) / unit, gamma)
    lift = Nystroem(gamma=gamma, n_components=min(landmarks, len(rows)), random_state=seed)
    features = lift.fit_transform(rows.numpy())  # (N, landmarks), <phi(x), phi(x')> ~ k(x, x')
    sgd = SGDOneClassSVM(nu=nu, average=True, max_iter=SGD_EPOCHS, tol=None, random_state=seed).fit(features)
    weights = torch.from_numpy(lift.normalization_.T @ sgd.coef_)  # <w, phi(x)> = k(x, landmarks) @ weights
    return Boundary("nystroem", torch.from_numpy(lift.components_), weights, float(sgd.offset_[0]), gamma)


def _scorer(found: Boundary, images: Tensor, scale: float) -> KernelScorer:
    shape = tuple(images.shape[1:])
    return KernelScorer(found.method, shape, found.supports, found.weights, found.rho, scale, found.gamma)


def _bandwidth(rows: Tensor, gamma: Gamma, seed: int) -> float:
    if gamma == "scale":
        width = rows.shape[1] * float(rows.var(correction=0))
    elif gamma == "median":
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        sample = rows[order[:MEDIAN_IMAGES]]
        first, second = torch.triu_indices(len(sample), len(sample), offset=1)
        width = 2 * float(squared_distances(sample, sample)[first, second].median()) if len(sample) > 1 else 0.0
    elif isinstance(gamma, (int, float)) and 0 < gamma < float("inf"):
        return float(gamma)
    else:
        raise ValueError(f"gamma is {gamma!r}: expected 'scale', 'median' or a number above 0")
    return 1 / width if width > 0 else 1.0  # images all alike have no width; scikit-learn takes 1 too


def _checked_rows(images: Tensor, nu: float) -> Tensor:
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images are {tuple(images.shape)}: expected (N, C, H, W) with N > 0")
    if images.is_floating_point() and not torch.isfinite(images).all():
        raise ValueError("images hold NaN or infinite values: expected finite pixels; check how they were read")
    if not 0 < nu <= 1:
        raise ValueError(f"nu is {nu!r}: expected a share of the training images in (0, 1], such as 0.1")
    return _rows(images)


def _rows(images: Tensor) -> Tensor:
    return as_unit(images.cpu()).flatten(1).double()  # (N, C H W)
