"""Four distances from points to remembered ones, on any device."""

from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST = 1e-9  # distance whose logarithm is still taken
SHRINKAGE = 0.1  # of a covariance towards a multiple of the identity
NEAREST, LOCAL = 5, 20  # neighbours of the mean distance, and of the local density
SCORES = ("nearest neighbours", "local density", "Mahalanobis", "Mahalanobis of a cluster")


class Memory(NamedTuple):
    """Points that were learned from, and what their distances need: n points of D numbers."""

    points: Tensor  # (n, D)
    reach: Tensor  # (n,) distance to the LOCAL-th neighbour
    density: Tensor  # (n,) local reachability density
    factors: Tensor  # (2, D, D) Cholesky factors of the shrunk covariance, whole and in clusters
    centres: Tensor  # (2, clusters, D) the mean, as often as there are clusters; their centres


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """|a - b|^2 for all rows a of (N, D) and b of (M, D): (N, M), never negative."""
    squares = one.square().sum(1, keepdim=True) + other.square().sum(1)
    return squares.addmm_(one, other.T, alpha=-2).clamp_min_(0)


def remember(points: Tensor, groups: Tensor, *, clusters: int, seed: int) -> tuple[Memory, Tensor]:
    """Points (n, D) as a Memory, and their own scores (n, 4), each as if its group were left out.

    `groups` (n,) numbers, from 0, points that are no evidence for each other. With fewer than
    NEAREST points outside the largest group, each point is its own group.
    """
    if len(points) - int(groups.bincount().max()) < NEAREST:
        groups = torch.arange(len(points), device=points.device)
    k = min(LOCAL, len(points) - int(groups.bincount().max()))
    found = neighbours(points, points, k=k, apart=(groups, groups))
    centres = k_means(points, clusters, seed=seed)
    own = squared_distances(points, centres).argmin(1)
    whole = points.mean(0).expand_as(centres)
    residuals = points - whole[0], points - centres[own]
    factors, reach = torch.stack([*map(_shrunk_factor, residuals)]), found[0][:, -1].contiguous()
    middles, density = torch.stack([whole, centres]), density_of(*found, reach)
    memory = Memory(points, reach, density, factors, middles)
    return memory, _scores(memory, points, found, groups)


def distances(memory: Memory, points: Tensor) -> Tensor:
    """The four scores of points (N, D), in the order of SCORES: (N, 4).

    Mean distance to the NEAREST points; local outlier factor (Breunig et al. 2000); squared
    Mahalanobis distance to the mean, and to the nearest cluster with the covariance in clusters.
    """
    found = neighbours(points, memory.points, k=min(LOCAL, len(memory.points)))
    return _scores(memory, points, found)


def with_cluster(memory: Memory, points: Tensor) -> Tensor:
    """The four `distances` of points (N, D), and the number of the nearest cluster: (N, 5)."""
    cluster = squared_distances(points, memory.centres[1]).argmin(1, keepdim=True)
    return torch.cat([distances(memory, points), cluster], 1)


def _scores(memory, points, found, groups=None) -> Tensor:
    near, places = found
    local = memory.density[places].mean(1) / density_of(near, places, memory.reach)
    scores = [near[:, :NEAREST].mean(1), local]
    for factor, centres in zip(memory.factors, memory.centres, strict=True):
        both = torch.cat([points, centres])
        white = torch.linalg.solve_triangular(factor, both.T, upper=False).T
        white, corners = white.split([len(points), len(centres)])
        residuals = white - corners[squared_distances(white, corners).argmin(1)]
        scores.append(residuals.square().sum(1) if groups is None else _left_out(residuals, groups))
    return torch.stack(scores, 1)


def neighbours(
    points: Tensor, others: Tensor, *, k: int, apart: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Distances to the k nearest of `others` and their places, both (N, k), nearest first.

    `apart` are the group numbers of both: members of one group are not each other's neighbours.
    """
    step, lengths, found = max(1, 2**22 // len(others)), others.square().sum(1), []
    for start in range(0, len(points), step):
        some = points[start : start + step]
        gaps = torch.addmm(lengths, some, others.T, alpha=-2)  # squared distances less |x|^2
        if apart is not None:
            gaps.masked_fill_(apart[0][start : start + step, None] == apart[1], torch.inf)
        least, places = gaps.topk(k, largest=False)
        least += some.square().sum(1, keepdim=True)
        found.append((least.clamp_min_(0).sqrt_(), places))
    return torch.cat([least for least, _ in found]), torch.cat([places for _, places in found])


def k_means(points: Tensor, count: int, *, seed: int) -> Tensor:
    """Centroids (K, D) of points (N, D) by 15 of Lloyd's rounds, from K of the points at random."""
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    centroids = points[order[:count].to(points.device)]
    for _ in range(15):
        gaps = torch.addmm(centroids.square().sum(1), points, centroids.T, alpha=-2)
        nearest = gaps.argmin(1)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        sizes = nearest.bincount(minlength=len(centroids))[:, None]
        centroids = torch.where(sizes > 0, sums / sizes.clamp_min(1), centroids)
    return centroids


def density_of(near: Tensor, places: Tensor, reach: Tensor) -> Tensor:
    """One over the mean reachability distance to the neighbours, (N,)."""
    return 1 / torch.maximum(near, reach[places]).mean(1).clamp_min(1e-10)


def _shrunk_factor(residuals: Tensor) -> Tensor:
    """L with L L^T = (1 - a) S + a tr(S) / D I, S the residuals' covariance (N, D) -> (D, D)."""
    covariance = residuals.T @ residuals / len(residuals)
    target = SHRINKAGE * covariance.diagonal().mean() + 1e-12
    covariance.mul_(1 - SHRINKAGE).diagonal().add_(target)
    return torch.linalg.cholesky(covariance)


def _left_out(white: Tensor, groups: Tensor) -> Tensor:
    """Squared lengths (N,) of whitened residuals, had the group of each not been in S.

    Of one group's residuals w (g, D), M = w w^T becomes M (I - c M)^-1 with c = (1 - a) / N.
    """
    share, lengths = (1 - SHRINKAGE) / len(white), white.square().sum(1)
    order, sizes = groups.argsort(stable=True), groups.bincount()[groups]
    lengths /= 1 - share * lengths  # what it is for groups of one
    for size in sizes[sizes > 1].unique().tolist():
        rows = order[sizes[order] == size].view(-1, size)  # a group a row
        gram = white[rows] @ white[rows].mT
        rest = torch.eye(size, device=gram.device) - share * gram
        lengths[rows] = torch.linalg.solve(rest, gram).diagonal(dim1=1, dim2=2)
    return lengths
