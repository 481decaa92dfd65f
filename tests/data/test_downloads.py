"""Official downloads, with the network replaced by files made here."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import threading
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image

from clad_lib.data import downloads, reading
from clad_lib.data.downloads import read_tiny_zip
from clad_lib.data.pictures import DataError
from clad_lib.data.reading import load_dataset


def tiny_zip(path):
    stream = io.BytesIO()
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(stream, "png")
    with zipfile.ZipFile(path, "w") as archive:
        for wnid in ("n02099601", "n02814533", "n00000000"):
            archive.writestr(
                f"tiny-imagenet-200/train/{wnid}/images/{wnid}_0.JPEG", stream.getvalue()
            )
            archive.writestr(f"tiny-imagenet-200/train/{wnid}/{wnid}_boxes.txt", "boxes")
        archive.writestr("tiny-imagenet-200/val/images/val_0.JPEG", stream.getvalue())
        table = "val_0.JPEG\tn02814533\t0\t0\t1\t1\nval_1.JPEG\tn00000000\t0\t0\t1\t1\n"
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", table)
    return path


def test_tiny_imagenet_zip(tmp_path):
    path = tiny_zip(tmp_path / "t.zip")
    blobs, labels, paths, names = read_tiny_zip(path, "train")
    assert labels.tolist() == [0, 39]
    assert read_tiny_zip(path, "test")[1].tolist() == [39]
    assert (names[0], len(names)) == ("golden retriever", 40)
    assert len(blobs) == len(paths) == 2


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A small zip at the official address, under its own checksum."""
    source = tiny_zip(tmp_path / "served.zip")
    monkeypatch.setattr(downloads, "TINY_MD5", hashlib.md5(source.read_bytes()).hexdigest())
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/served.zip"
        monkeypatch.setattr(downloads, "TINY_URL", address)
        monkeypatch.setenv("CLAD_CACHE", str(tmp_path / "cache"))
        yield tmp_path / "cache"
        server.shutdown()


def test_what_was_fetched_or_decoded_before_is_not_fetched_again(served, monkeypatch):
    train, test = load_dataset("tiny_imagenet")
    assert train.images.shape == (2, 3, 64, 64)
    assert (train.images == 9).all()
    assert test.labels.tolist() == [39]
    zipped = served / "downloads" / "tiny-imagenet-200.zip"
    for path in served.glob("*.npz"):
        path.unlink()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("fetched again"))
    load_dataset("tiny_imagenet")  # the zip is here
    zipped.unlink()
    monkeypatch.setattr(reading, "download", lambda *a: pytest.fail("fetched again"))
    load_dataset("tiny_imagenet")  # the images are here


def test_a_wrong_checksum_is_never_read(served, monkeypatch):
    monkeypatch.setattr(downloads, "TINY_MD5", "0" * 32)
    monkeypatch.setattr(downloads, "read_tiny_zip", lambda *a: pytest.fail("read"))
    for _ in range(2):  # what was left by the first is not taken for whole
        with pytest.raises(DataError, match=r"tiny_imagenet could not be downloaded .*corrupted"):
            load_dataset("tiny_imagenet")


def test_no_network_and_no_local_data_names_the_cure(tmp_path, monkeypatch):
    from torchvision import datasets

    def offline(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setenv("CLAD_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.MNIST, "download", offline)
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    for name in ("mnist", "tiny_imagenet"):
        with pytest.raises(DataError, match="set CLAD_DATA to a folder"):
            load_dataset(name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_what_torchvision_stores_becomes_channels_first(tmp_path, monkeypatch, name):
    from torchvision import datasets

    shape = (5, 28, 28) if name == "mnist" else (5, 32, 32, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def official(self, root, *, train, download):
        self.data, self.targets = pixels + (not train), [4, 3, 2, 1, 0]

    monkeypatch.setattr(getattr(datasets, name.upper()), "__init__", official)
    train, test = load_dataset(name)
    flat = pixels[:, None] if name == "mnist" else pixels.transpose(0, 3, 1, 2)
    assert np.array_equal(train.images, flat)
    assert np.array_equal(test.images, flat + np.uint8(1))
    assert train.labels.tolist() == [4, 3, 2, 1, 0]
    assert train.class_names[3] == ("3" if name == "mnist" else "cat")


def test_gtsrb_is_stretched_to_squares_as_published(tmp_path, monkeypatch):
    from torchvision import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)
    for name in ("00000_00000.ppm", "00000_00001.ppm"):
        Image.fromarray(pixels).save(tmp_path / name)

    def official(self, root, *, split, download):
        self._samples = [(str(path), 7) for path in sorted(tmp_path.glob("*.ppm"))]

    monkeypatch.setattr(datasets.GTSRB, "__init__", official)
    train, _ = load_dataset("gtsrb")
    expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(train.images[1], np.asarray(expected).transpose(2, 0, 1))
    assert train.tracks.tolist() == [0, 0]
    assert train.class_names[7] == "Speed limit 100"


def test_a_data_set_without_a_download_names_the_folder(tmp_path, monkeypatch):
    table = '[toy]\ntitle = "T"\nchannels = 1\nsize = 8\nclasses = ["a"]\n'
    (tmp_path / "datasets.toml").write_text(table, encoding="utf-8")
    monkeypatch.setenv("CLAD_DATA", str(tmp_path))
    known = reading.datasets()
    monkeypatch.delenv("CLAD_DATA")
    for module in (reading, downloads):
        monkeypatch.setattr(module, "datasets", lambda: known)
    with pytest.raises(DataError, match=r"set CLAD_DATA to a folder with toy-train.parquet"):
        load_dataset("toy")
