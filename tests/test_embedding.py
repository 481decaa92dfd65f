"""t-SNE: structure kept, the same bits for the same seed, and inputs that crash MulticoreTSNE refused first."""

from pathlib import Path

import numpy as np
import pytest

from clad_lib import embedding


@pytest.fixture(scope="module")
def blobs():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    return (random.normal(size=(120, 8)) + 12 * np.eye(8)[labels]).astype(np.float32), labels


def test_groups_stay_together(blobs):
    points, labels = blobs
    drawn = embedding.tsne(points, seed=0).points
    distance = np.linalg.norm(drawn[:, None] - drawn[None], axis=2) + np.where(np.eye(120), np.inf, 0)
    assert (labels[distance.argmin(1)] == labels).all()


def test_same_seed_same_bits(blobs):
    first, again, other = (embedding.tsne(blobs[0], seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.points, again.points)
    assert first.backend == again.backend
    assert other.seed == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(blobs, bad):
    points = blobs[0].copy()
    points[3, 2] = bad
    with pytest.raises(ValueError, match=r"NaN|finite"):
        embedding.tsne(points, seed=0)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_points_are_refused(blobs, count):
    with pytest.raises(ValueError, match="expected"):
        embedding.tsne(blobs[0][:count], seed=0)


def test_the_library_was_built_to_use_several_cores():
    """CMake 4 builds it without OpenMP and only warns: then `jobs` does nothing."""
    pytest.importorskip("MulticoreTSNE")
    _, library = embedding._multicore_library()
    assert b"GOMP_parallel" in Path(library._name).read_bytes() or b"__kmpc_fork_call" in Path(library._name).read_bytes()


def test_the_same_bits_with_one_job_and_with_two(blobs):
    one, two = (embedding.tsne(blobs[0], seed=0, jobs=jobs).points for jobs in (1, 2))
    assert np.array_equal(one, two)


def test_many_points_are_left_to_the_faster_one(monkeypatch):
    monkeypatch.setattr(embedding, "MANY", 50)
    assert embedding._backend("auto", 51)[1] == "opentsne"
    assert embedding._backend("auto", 50)[1] == embedding._backend("auto", 4)[1]
