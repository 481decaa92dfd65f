"""t-SNE: structure kept, the same bits for the same seed, and inputs that crash it refused first."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clad_lib.clad import latent_map as module
from clad_lib.clad.latent_map import latent_map, tsne
from clad_lib.clad.networks import ConvAutoencoder, Trained
from clad_lib.clad.training import infer
from clad_lib.config import Settings, make_config


@pytest.fixture(scope="module")
def blobs():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    return (random.normal(size=(120, 8)) + 12 * np.eye(8)[labels]).astype(np.float32), labels


@pytest.fixture(scope="module")
def drawn(blobs):
    return tsne(blobs[0], seed=3)


def test_groups_stay_together(blobs, drawn):
    labels = blobs[1]
    far = np.where(np.eye(120), np.inf, 0)
    distance = np.linalg.norm(drawn.points[:, None] - drawn.points[None], axis=2) + far
    assert (labels[distance.argmin(1)] == labels).all()
    assert drawn.points.dtype == np.float32
    assert np.allclose(drawn.points.mean(0), 0, atol=1e-3)


def test_the_same_seed_gives_the_same_bits_whatever_the_number_of_jobs(blobs, drawn):
    again = tsne(blobs[0], seed=3, jobs=1)
    assert np.array_equal(drawn.points, again.points)
    assert drawn.backend == again.backend
    other = tsne(blobs[0], seed=4)
    assert other.seed == 4
    if drawn.backend == "multicore":  # openTSNE from two main components draws nothing at random
        assert not np.array_equal(drawn.points, other.points)


def test_openTSNE_draws_many_points_and_where_the_other_is_missing(blobs, monkeypatch):
    monkeypatch.setattr(module, "MANY", 119)
    many = tsne(blobs[0], iterations=60)
    assert many.backend == "opentsne"
    monkeypatch.setattr(module, "MANY", 120)
    monkeypatch.setitem(sys.modules, "MulticoreTSNE", None)
    with pytest.warns(UserWarning, match="openTSNE draws the map"):
        missing = tsne(blobs[0], iterations=60)
    assert np.array_equal(many.points, missing.points)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(blobs, bad):
    points = blobs[0].copy()
    points[3, 2] = bad
    with pytest.raises(ValueError, match="expected finite numbers"):
        tsne(points)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_points_are_refused(blobs, count):
    with pytest.raises(ValueError, match="expected"):
        tsne(blobs[0][:count])


def test_points_that_are_all_the_same_or_too_large_are_refused(blobs):
    with pytest.raises(ValueError, match="all the same"):
        tsne(np.ones((20, 3)))
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="too large"):
        tsne(blobs[0].astype(np.float64) * 1e200)


@pytest.mark.parametrize(
    "wrong",
    [{"perplexity": 0}, {"perplexity": np.inf}, {"iterations": 0}, {"jobs": 0}, {"seed": 2**31}],
)
def test_settings_out_of_range_are_refused(blobs, wrong):
    with pytest.raises(ValueError, match="expected 1 or more of each"):
        tsne(blobs[0], **wrong)


def test_perplexity_shrinks_with_few_points(blobs):
    assert tsne(blobs[0][::12], iterations=20).perplexity == 3  # a third of nine neighbours


def test_the_library_was_built_to_use_several_cores():
    """CMake 4 builds it without OpenMP and only warns: then `jobs` does nothing."""
    multicore = pytest.importorskip("MulticoreTSNE")
    library = next(Path(multicore.__file__).parent.glob("libtsne*.so")).read_bytes()
    assert b"GOMP_parallel" in library or b"__kmpc_fork_call" in library


def test_the_stage_draws_a_random_part_of_the_training_images():
    images = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8)
    model = ConvAutoencoder(1, 8, latent=4).eval()
    split = SimpleNamespace(train=images)
    settings = Settings(make_config("digits", "CUR", seed=5), [], progress=False)
    found = latent_map(split, settings, Trained(model, np.zeros(1)), limit=20)
    assert len(np.unique(found.rows)) == 20
    assert (np.diff(found.rows) > 0).all()
    latents = infer(model, images, function=model.encode).numpy()[found.rows]
    assert np.array_equal(found.points, tsne(latents, seed=5).points)
