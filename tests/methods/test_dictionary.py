"""Dictionaries of patches against a plain loop, and what whitening leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from clad_lib.methods.dictionary import encode, learn_dictionary


def digits(*classes: int, size: int = 16) -> torch.Tensor:
    """scikit-learn's digits of some classes as (N, 1, size, size) uint8, writers shuffled."""
    data = load_digits()
    rows = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(data.target, classes)))
    images = torch.from_numpy(data.images[rows] * 255 / 16).float()
    images = torch.nn.functional.interpolate(images[:, None], size=size, mode="bilinear")
    return images.round().to(torch.uint8)


def plain_features(images: torch.Tensor, dictionary, side: int, stride: int, cells: int):
    """The same features patch by patch in float64, as they are written in the paper."""
    whitening = dictionary.whitening[:, :-1].double().numpy()
    offset = dictionary.offset[:-1].double().numpy()
    centroids = -dictionary.filters[:-1].T.double().numpy() / 2
    places = (images.shape[-1] - side) // stride + 1
    features = np.zeros((len(images), cells, cells, len(centroids)))
    counts = np.zeros((cells, cells, 1))
    for row in range(places):
        for column in range(places):
            top, left = row * stride, column * stride
            cell = row * cells // places, column * cells // places
            counts[cell] += 1
            for number, image in enumerate(images.double().numpy()):
                patch = image[:, top : top + side, left : left + side].ravel()
                patch = (patch - patch.mean()) / np.sqrt(patch.var() + 10)
                gaps = np.linalg.norm(patch @ whitening + offset - centroids, axis=1)
                features[(number, *cell)] += np.maximum(0, gaps.mean() - gaps)
    return (features / counts).reshape(len(images), -1)


@pytest.mark.parametrize(("channels", "side", "stride", "cells"), [(1, 4, 1, 4), (3, 6, 2, 2)])
def test_features_are_those_of_a_plain_loop(channels, side, stride, cells):
    images = digits(0, 1, 2)[:50].repeat(1, channels, 1, 1)
    images[:, -1] = images[:, -1].flip(2)
    dictionary = learn_dictionary(
        images, side=side, stride=stride, cells=cells, centroids=12, seed=0
    )
    plain = plain_features(images, dictionary, side, stride, cells)
    found = encode(images, dictionary).numpy()
    apart = np.linalg.norm(found - plain, axis=1) / np.linalg.norm(plain, axis=1)
    assert apart.max() < 1e-3  # of the length of an image's features
    np.testing.assert_allclose(found, plain, rtol=1e-3, atol=1e-3)


def test_whitened_patches_have_the_covariance_that_the_floor_leaves():
    images = digits(0, 1, 2, 3)
    dictionary = learn_dictionary(images, side=4, stride=1, cells=2, centroids=8, seed=0)
    windows = images.unfold(2, 4, 1).unfold(3, 4, 1).reshape(-1, 16).double()
    rows = windows - windows.mean(1, keepdim=True)
    rows /= (rows.square().mean(1, keepdim=True) + 10).sqrt()
    before = torch.linalg.eigvalsh(torch.cov(rows.T))
    after = torch.linalg.eigvalsh(torch.cov((rows @ dictionary.whitening[:, :-1].double()).T))
    torch.testing.assert_close(after, before / (before + 0.1), atol=0.05, rtol=0)
