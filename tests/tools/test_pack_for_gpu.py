"""A pack gives the very split that the data set itself gives, and fits through the door."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clad_lib.config import make_config
from clad_lib.data.reading import load_dataset
from clad_lib.data.scenarios import get_scenario, load_split, make_split, split_key

HOME = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HOME / "tools"), str(HOME / "benchmarks")]
import gpu  # noqa: E402
import pack_for_gpu  # noqa: E402


def from_pack(tmp_path: Path, wanted: str):
    path = pack_for_gpu.pack([wanted], tmp_path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "there")
    return gpu.unpacked(tmp_path / "there" / "data" / f"{wanted.partition(':')[0]}.npz")


def test_the_split_from_a_pack_is_the_split_of_the_data_set(tmp_path):
    (train, test), names, same = from_pack(tmp_path, "digits:MIX")
    assert names == ["MIX"]
    assert all(same)
    assert set(train.labels.tolist()) == {2, 5, 6, 9}  # what no scenario calls normal stays behind
    made = make_split(train, test, get_scenario("digits", "MIX"), seed=3)
    assert split_key(made) == split_key(load_split(make_config("digits", "MIX", seed=3)))
    code = {path.name for path in (tmp_path / "there").iterdir()}
    assert {"clad_lib", "benchmarks", "pack.json"} <= code


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """CLAD_DATA with a CIFAR-10 of a few JPEG pictures."""
    random, folder = np.random.default_rng(0), tmp_path / "parquet"
    folder.mkdir()
    for part, count in (("train", 40), ("test", 20)):
        cells = []
        for _ in range(count):
            file = io.BytesIO()
            noise = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(file, "JPEG", quality=50)
            cells.append({"bytes": file.getvalue(), "path": None})
        labels = np.arange(count) % 10
        pq.write_table(
            pa.table({"img": cells, "label": labels}), folder / f"cifar10-{part}.parquet"
        )
    monkeypatch.setenv("CLAD_DATA", str(folder))


def test_pictures_travel_as_they_came_where_that_is_smaller(tmp_path, photographs):
    (train, test), _, same = from_pack(tmp_path, "cifar10:THG")
    whole, tested = load_dataset("cifar10")
    np.testing.assert_array_equal(test.images, tested.images)
    np.testing.assert_array_equal(train.images, whole.images[np.isin(whole.labels, [0, 1, 8, 9])])
    assert all(same)
    with np.load(tmp_path / "there" / "data" / "cifar10.npz") as stored:
        assert len(stored["train_lengths"]) == len(train.images)  # one JPEG each


def test_a_pack_that_is_too_large_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_for_gpu, "MOST", 1000)
    with pytest.raises(ValueError, match="name fewer scenarios"):
        pack_for_gpu.pack(["digits:MIX"], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wanted", "named"), [("digit", "data set 'digit'"), ("digits:ODD", "ODD")]
)
def test_unknown_names_are_refused(wanted, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        pack_for_gpu.pack([wanted], tmp_path)


def test_what_does_not_fit_is_extrapolated_from_seconds_an_epoch(tmp_path):
    pack_for_gpu.pack(["digits:MIX"], tmp_path)
    with zipfile.ZipFile(tmp_path / "gpu-digits.zip") as archive:
        archive.extract("data/digits.npz", tmp_path)
    data = {"digits": gpu.unpacked(tmp_path / "data" / "digits.npz")}
    late = gpu.Sitting(data, torch.device("cpu"), deadline=0.0, tiny=False)
    late.rows = [
        dict(stage="autoencoder", dataset="digits", seconds_before=2.0, seconds_an_image=0.01),
        dict(stage="autoencoder", dataset="mnist", seconds_before=9.0, seconds_an_image=0.09),
        dict(stage="classifier", dataset="mnist", seconds_before=0.0, seconds_an_image=0.1),
    ]
    jobs = gpu.jobs_of(data, seeds=2)
    rows = [row for job in jobs for row in gpu.measured(late, tmp_path / "out", job)]
    assert {row["kind"] for row in rows} == {"extrapolated"}
    assert [row["method"] for row in rows] == ["Fused", "KNN", "DeepSVDD"] * 2
    count = len(late.study("digits", "MIX").split.train)
    classifier = 0.1 * 16**2 / 28**2  # by pixels, of another data set
    assert rows[1]["seconds"] == pytest.approx(2 + 100 * count * (0.01 + classifier))
    assert not (tmp_path / "out").exists()
