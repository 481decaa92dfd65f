"""Shared by the tests: one thread a worker, a private cache, the embedded data set only."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch, request):
    """No test reads or writes the user's cache; only tests marked slow see CLAD_DATA."""
    monkeypatch.setenv("CLAD_CACHE", str(tmp_path_factory.mktemp("cache")))
    if "slow" not in request.keywords:
        monkeypatch.delenv("CLAD_DATA", raising=False)


@pytest.fixture
def make_data():
    """A small data set of random images: `make_data(labels, tracks=None)`."""

    from clad_lib.data.reading import ImageData

    def make(labels, *, tracks=None, channels=1, size=8, seed=0) -> ImageData:
        labels = np.asarray(labels, dtype=np.int64)
        images = np.random.default_rng(seed).integers(
            0, 256, (len(labels), channels, size, size), dtype=np.uint8
        )
        tracks = np.arange(len(labels)) if tracks is None else np.asarray(tracks, dtype=np.int64)
        return ImageData(images, labels, tracks, tuple(f"c{k}" for k in range(10)))

    return make
