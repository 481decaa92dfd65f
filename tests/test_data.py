"""Reading images: Parquet, folders and zips as made here, and each fault injected once."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from clad_lib import sources
from clad_lib.data import fingerprint, load_dataset, to_download
from clad_lib.sources import DataError


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write_parquet(folder, name, labels, *, size=28, blobs=None, paths=None, names=None):
    random = np.random.default_rng(len(labels))
    pixels = random.integers(0, 256, (len(labels), size, size), dtype=np.uint8)
    blobs = blobs or [png(image) for image in pixels]
    paths = paths or [f"{i}.png" for i in range(len(labels))]
    column = pa.array([{"bytes": b, "path": p} for b, p in zip(blobs, paths, strict=True)],
                      pa.struct([("bytes", pa.binary()), ("path", pa.string())]))  # fmt: skip
    table = pa.table({"image": column, "label": pa.array(labels, pa.int64())})
    if names:
        table = table.replace_schema_metadata({"class_names": json.dumps(names)})
    pq.write_table(table, folder / name)
    return pixels


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A folder with a tiny MNIST in Parquet, and CLAD_DATA pointing at it."""
    monkeypatch.setenv("CLAD_DATA", str(tmp_path))
    pixels = write_parquet(tmp_path, "mnist-train.parquet", [0, 1, 2], names=[str(k) for k in range(10)])
    write_parquet(tmp_path, "mnist-test.parquet", [3, 4], names=[str(k) for k in range(10)])
    return tmp_path, pixels


def test_parquet_gives_the_very_pixels(mnist):
    train, test = load_dataset("mnist")
    assert np.array_equal(train.images[:, 0], mnist[1])
    assert train.labels.tolist() == [0, 1, 2]
    assert test.labels.tolist() == [3, 4]
    assert train.class_names[9] == "9"


def test_the_second_load_decodes_nothing(mnist, monkeypatch):
    first, _ = load_dataset("mnist")
    monkeypatch.setattr(sources, "decode", lambda *a, **k: pytest.fail("decoded again"))
    second, _ = load_dataset("mnist")
    assert isinstance(second.images, np.memmap)
    assert fingerprint(first) == fingerprint(second)


def test_a_changed_source_is_decoded_again(mnist):
    before, _ = load_dataset("mnist")
    write_parquet(mnist[0], "mnist-train.parquet", [5, 6, 7, 8])
    after, _ = load_dataset("mnist")
    assert len(before.labels) == 3
    assert after.labels.tolist() == [5, 6, 7, 8]


def test_damaged_parquet_and_damaged_images(mnist, tmp_path):
    good = (tmp_path / "mnist-train.parquet").read_bytes()
    (tmp_path / "mnist-train.parquet").write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"mnist-train.parquet cannot be read as Parquet"):
        load_dataset("mnist")
    broken = [png(np.zeros((28, 28), np.uint8)), png(np.ones((28, 28), np.uint8))[:40]]
    write_parquet(tmp_path, "mnist-train.parquet", [0, 1], blobs=broken)
    with pytest.raises(DataError, match=r"row 1: not a readable image"):
        load_dataset("mnist")
    write_parquet(tmp_path, "mnist-train.parquet", [0, 1], size=27)
    with pytest.raises(DataError, match="27x27, expected 28x28"):
        load_dataset("mnist")
    write_parquet(tmp_path, "mnist-train.parquet", [0, 11], names=[str(k) for k in range(10)])
    with pytest.raises(DataError, match="labels 0 to 11 for 10 class names"):
        load_dataset("mnist")


def test_nothing_half_written_stays_in_the_cache(mnist, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def full(file, *arrays, **named):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match=r"No space left on device; set CLAD_CACHE"):
        load_dataset("mnist", cache=cache)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(mnist, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="cannot write the cache"):
        load_dataset("mnist", cache=tmp_path / "file" / "below")


def test_missing_parquet_and_unknown_names(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAD_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"cifar10-train.parquet is not there"):
        load_dataset("cifar10")
    with pytest.raises(DataError, match="unknown data set 'mnits'"):
        load_dataset("mnits")


def test_no_network_and_no_local_data_names_the_cure(tmp_path, monkeypatch):
    from torchvision import datasets

    def offline(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(datasets.MNIST, "download", offline)
    monkeypatch.setattr(sources.urllib.request, "urlopen", offline)
    for name in ("mnist", "tiny_imagenet"):
        with pytest.raises(DataError, match="set CLAD_DATA to a folder"):
            load_dataset(name, root=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_gtsrb_tracks_come_from_the_file_names(tmp_path):
    paths = ["00000_00000.ppm", "00000_00001.ppm", "00001_00000.ppm", "00000_00000.ppm"]
    tracks = sources.gtsrb_tracks(np.array([0, 0, 0, 1]), paths)
    assert tracks[0] == tracks[1]
    assert len(set(tracks)) == 3


def make_folder(root, sizes):
    for k, (name, size) in enumerate(sizes):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((size, size, 3), 20 * k, np.uint8)).save(root / name)


def test_folders_with_classes_and_flat(tmp_path):
    make_folder(tmp_path / "f", [(f"{c}/{i}.png", 8) for c in ("cat", "dog") for i in range(5)])
    train, test = load_dataset(str(tmp_path / "f"))
    assert train.class_names == ("cat", "dog")
    assert len(train.labels) == 8
    assert len(test.labels) == 2
    make_folder(tmp_path / "g", [(f"{i}.png", 8) for i in range(5)])
    assert load_dataset(f"folder:{tmp_path / 'g'}")[0].class_names == ("normal",)


def test_folders_with_train_and_test(tmp_path):
    make_folder(tmp_path / "f", [("train/good/1.png", 8), ("test/good/2.png", 8), ("test/bad/3.png", 8)])
    train, test = load_dataset(str(tmp_path / "f"))
    assert train.labels.tolist() == [0]
    assert sorted(test.class_names[k] for k in test.labels) == ["bad", "good"]


def test_bad_folders(tmp_path):
    make_folder(tmp_path / "mixed", [("a/1.png", 8), ("a/2.png", 12)])
    with pytest.raises(DataError, match=r"1.png is 8x8 and .*2.png is 12x12"):
        load_dataset(str(tmp_path / "mixed"))
    assert load_dataset(str(tmp_path / "mixed"), size=8)[0].images.shape[2:] == (8, 8)
    (tmp_path / "mixed" / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images"):
        load_dataset(str(tmp_path / "mixed"), size=8)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "1.png").write_text("not an image")
    with pytest.raises(DataError, match=r"1.png: not a readable image"):
        load_dataset(str(tmp_path / "text"))


def tiny_zip(path, extra=()):
    with zipfile.ZipFile(path, "w") as archive:
        picture = png(np.zeros((64, 64), np.uint8))
        for wnid in ("n02099601", "n02814533", "n00000000"):
            archive.writestr(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_0.JPEG", picture)
        archive.writestr("tiny-imagenet-200/val/images/val_0.JPEG", picture)
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "val_0.JPEG\tn02814533\t0\t0\t1\t1\n")
        for name in extra:
            archive.writestr(name, b"x")
    return path


def test_tiny_imagenet_zip(tmp_path):
    path = tiny_zip(tmp_path / "t.zip")
    train, test = sources.read_tiny_zip(path, True), sources.read_tiny_zip(path, False)
    assert train.labels.tolist() == [0, 39]
    assert test.labels.tolist() == [39]
    assert train.class_names[0] == "golden retriever"
    assert train.images.shape == (2, 3, 64, 64)


def test_odd_zips_are_refused(tmp_path):
    with pytest.raises(DataError, match="outside its folder"):
        sources.read_tiny_zip(tiny_zip(tmp_path / "t.zip", ["../../evil"]), True)
    (tmp_path / "cut.zip").write_bytes((tmp_path / "t.zip").read_bytes()[:300])
    with pytest.raises(DataError, match="damaged"):
        sources.read_tiny_zip(tmp_path / "cut.zip", True)


def test_a_wrong_checksum_is_not_kept(tmp_path):
    source = tiny_zip(tmp_path / "t.zip")
    with pytest.raises(DataError, match="checksum"):
        sources.fetch_tiny(tmp_path / "root", url=source.as_uri())
    assert list((tmp_path / "root").iterdir()) == []


def test_digits_are_scikit_learns_in_their_order():
    train, test = load_dataset("digits")
    raw = load_digits()
    assert np.array_equal(np.concatenate([train.labels, test.labels]), raw.target)
    means = np.concatenate([train.images, test.images]).mean((1, 2, 3)) / 255
    assert np.abs(means - raw.images.mean((1, 2)) / 16).max() < 0.03


def test_what_a_download_would_fetch(tmp_path, monkeypatch):
    places = dict(root=tmp_path / "root", cache=tmp_path / "cache")
    for name in sources.SHAPES:
        assert f"{name} is not on this machine" in to_download(name, **places)
    assert to_download("digits", **places) == to_download(str(tmp_path), **places) == ""
    monkeypatch.setenv("CLAD_DATA", str(tmp_path))
    assert to_download("mnist", **places) == ""
    assert not list(tmp_path.iterdir())


def test_what_was_fetched_or_decoded_before_is_here(tmp_path, monkeypatch):
    places = dict(root=tmp_path / "root", cache=tmp_path / "cache")
    (tmp_path / "root" / "gtsrb" / "GTSRB" / "Training").mkdir(parents=True)
    assert to_download("gtsrb", **places)  # half a download
    tiny_zip(tmp_path / "root" / "tiny-imagenet-200.zip")
    assert to_download("tiny_imagenet", **places) == ""
    load_dataset("tiny_imagenet", **places)
    (tmp_path / "root" / "tiny-imagenet-200.zip").unlink()
    monkeypatch.setattr(sources, "download", lambda *a: pytest.fail("fetched again"))
    assert to_download("tiny_imagenet", **places) == ""
    load_dataset("tiny_imagenet", **places)
