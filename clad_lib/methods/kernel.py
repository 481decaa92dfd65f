"""One-class SVM and support vector data description: one boundary, an RBF kernel on pixels."""

from dataclasses import dataclass
from typing import Literal

import torch
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import SGDOneClassSVM
from sklearn.svm import OneClassSVM
from torch import Tensor

from clad_lib.config import Settings
from clad_lib.data.split import Split
from clad_lib.methods.distances import squared_distances
from clad_lib.methods.scorers import check_shape, check_training, pixels, some

Gamma = float | Literal["scale", "median"]

MEDIAN_IMAGES = 2000  # the median distance comes from at most this many images
SGD_EPOCHS = 20  # with 1,000 landmarks of 17,905 MNIST images the ranks are the exact ones (.999)


@dataclass(frozen=True)
class KernelScorer:
    """A boundary: score(x) = scale (offset - sum_j weights_j exp(-gamma |x - supports_j|^2)).

    Images (N, C, H, W), uint8 or float32 in [0, 1] -> float64 (N,); above 0 is outside. `method`,
    which stands in the metrics of a run, says whether the supports are the support vectors of the
    exact solution or the landmarks of a Nystroem approximation.
    """

    method: Literal["exact", "nystroem"]
    shape: tuple[int, ...]  # (C, H, W) of the training images
    supports: Tensor  # (M, C H W) float64
    weights: Tensor  # (M,) float64
    offset: float
    gamma: float
    scale: float

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> anomaly scores (N,). ValueError for another shape."""
        check_shape(images, self.shape)
        rows = (pixels(batch).cpu().double() for batch in images.split(1024))
        kernels = (torch.exp(-self.gamma * squared_distances(x, self.supports)) for x in rows)
        return torch.cat([self.scale * (self.offset - each @ self.weights) for each in kernels])


def ocsvm(split: Split, settings: Settings) -> KernelScorer:
    """One-class SVM with an RBF kernel on pixels (Schoelkopf et al. 2001, equations 3 to 10).

    min_{w, xi, rho} |w|^2 / 2 + sum_i xi_i / (nu n) - rho  with  <w, phi(x_i)> >= rho - xi_i
    score = nu n (rho - <w, phi(x)>), which is minus scikit-learn's decision function

    At most a share `nu` of the training images scores above 0. Reads nu.

    Deviations: `fit_boundary` tells of large sets. The paper gives no settings; nu and gamma are
    fixed, where Ruff et al. (2018, section 4.1) search both with test labels.
    """
    nu, scale = settings.nu, settings.nu * len(split.train)
    return fit_boundary(split.train, nu=nu, gamma="scale", scale=scale, seed=settings.seed)


def svdd(split: Split, settings: Settings) -> KernelScorer:
    """Support vector data description with an RBF kernel on pixels (Tax & Duin 2004, equation 14).

    min_{a, R, xi} R^2 + C sum_i xi_i  with  |phi(x_i) - a|^2 <= R^2 + xi_i
    score = |phi(x) - a|^2 - R^2

    k(x, x) is constant, so the dual is that of the one-class SVM with nu = 1 / (n C), and the score
    is 2 (rho - <w, phi(x)>) with sum_i alpha_i = 1: with equal settings the two rank alike. What
    differs is gamma, about half that of `ocsvm`: a wider and rounder boundary. Reads nu.

    Deviations: the paper's SVDD row for MNIST is from Ruff et al. (2018), who normalise contrast,
    keep 95 % of the variance, and choose gamma and nu with test labels. Here the pixels are plain:
    both preparations lowered the AUROC of held-out normals against turned and shifted ones.
    `fit_boundary` tells of large sets.
    """
    return fit_boundary(split.train, nu=settings.nu, seed=settings.seed)


def fit_boundary(
    images: Tensor,
    *,
    nu: float = 0.1,
    gamma: Gamma = "median",
    scale: float = 2.0,
    exact_up_to: int = 10_000,
    landmarks: int = 1000,
    seed: int = 0,
) -> KernelScorer:
    """`svdd`, or with the scale nu n `ocsvm`, of images (N, C, H, W), uint8 or float in [0, 1].

    The score is `scale` (rho - <w, phi(x)>), with sum_i alpha_i = 1. `gamma` is
    1 / (D Var[pixels]) for `scale`, 1 / (2 median |x - x'|^2) for `median`, or a number. Above
    `exact_up_to` images, Nystroem features of `landmarks` random images and averaged stochastic
    gradient descent replace the exact solution.

    Raises ValueError for NaN, NotApplicable without images.
    """
    check_training(images)
    rows, shape = pixels(images).cpu().double(), tuple(images.shape[1:])
    width = _bandwidth(rows, gamma, seed)
    if len(rows) <= exact_up_to:
        svm = OneClassSVM(nu=nu, gamma=width).fit(rows.numpy())
        unit = nu * len(rows)  # libsvm scales the dual to sum_i alpha_i = nu n
        supports, weights = map(torch.from_numpy, (svm.support_vectors_, svm.dual_coef_[0]))
        rho = -float(svm.intercept_[0]) / unit
        return KernelScorer("exact", shape, supports, weights / unit, rho, width, scale)
    lift = Nystroem(gamma=width, n_components=min(landmarks, len(rows)), random_state=seed)
    features = lift.fit_transform(rows.numpy())  # (N, landmarks), <phi(x), phi(x')> ~ k(x, x')
    sgd = SGDOneClassSVM(nu=nu, average=True, max_iter=SGD_EPOCHS, tol=None, random_state=seed)
    weights = lift.normalization_.T @ sgd.fit(features).coef_  # of k(x, landmarks)
    supports, weights = map(torch.from_numpy, (lift.components_, weights))
    return KernelScorer("nystroem", shape, supports, weights, float(sgd.offset_[0]), width, scale)


def _bandwidth(rows: Tensor, gamma: Gamma, seed: int) -> float:
    if gamma == "scale":
        width = rows.shape[1] * float(rows.var(correction=0))
    elif gamma == "median":
        sample = rows[some(len(rows), MEDIAN_IMAGES, seed=seed)]
        pairs = torch.triu_indices(len(sample), len(sample), offset=1)
        squared = squared_distances(sample, sample)[*pairs]
        width = 2 * float(squared.median()) if len(squared) else 0.0
    else:
        return float(gamma)
    return 1 / width if width > 0 else 1.0  # images all alike have no width; scikit-learn takes 1
