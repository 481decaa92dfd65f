"""Artefacts are written whole or not at all, read back as they were, and never unpickled."""

import json
import os
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from torch import Tensor, nn

from clad_lib.clad import networks
from clad_lib.study import artefacts, store
from clad_lib.study.store import RECORD, StoreError, atomic_folder, write_atomically


class Inner(NamedTuple):
    values: np.ndarray
    half: Tensor


class Artefact(NamedTuple):
    inner: Inner
    table: pd.DataFrame
    name: str
    pair: tuple[float, ...]
    nothing: np.ndarray | None
    model: nn.Module


class Toy(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.shape = {"width": width}
        self.layer = nn.Linear(2, width)


@pytest.fixture
def artefact(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "Toy", Toy)
    inner = Inner(np.arange(6).reshape(2, 3), torch.tensor([1.5, 2.5], dtype=torch.float16))
    return Artefact(inner, pd.DataFrame({"a": [1, 2]}), "x", (1.0, 2.0), None, Toy(3))


def test_an_artefact_comes_back_as_it_was(tmp_path, artefact):
    artefacts.save_artefact(tmp_path, artefact)
    back = artefacts.load_artefact(tmp_path, Artefact)
    np.testing.assert_array_equal(back.inner.values, artefact.inner.values)
    assert back.inner.half.dtype == torch.float16
    assert torch.equal(back.inner.half, artefact.inner.half)
    pd.testing.assert_frame_equal(back.table, artefact.table)
    assert (back.name, back.pair, back.nothing) == ("x", (1.0, 2.0), None)
    assert torch.equal(back.model.layer.weight, artefact.model.layer.weight)
    assert not back.model.training


@pytest.mark.parametrize("name", [artefacts.TENSORS, artefacts.PLAIN, "table.parquet"])
def test_a_damaged_file_is_never_taken_for_a_whole_one(tmp_path, artefact, name):
    artefacts.save_artefact(tmp_path, artefact)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    with pytest.raises(Exception, match=r"."):
        artefacts.load_artefact(tmp_path, Artefact)


def test_nothing_is_pickled(tmp_path, artefact):
    """Every file opens by a reader that knows no Python objects."""
    artefacts.save_artefact(tmp_path, artefact)
    tensors = safetensors.numpy.load_file(tmp_path / artefacts.TENSORS)
    assert set(tensors) == {"inner.values", "inner.half", "model/layer.weight", "model/layer.bias"}
    assert set(json.loads((tmp_path / artefacts.PLAIN).read_text(encoding="utf-8"))) == {
        *("name", "pair", "nothing", "model")
    }
    assert len(list(tmp_path.iterdir())) == 3


def test_a_text_is_whole_or_absent(tmp_path, monkeypatch):
    target = tmp_path / "deep" / "file.txt"
    write_atomically(target, "grün")
    assert target.read_bytes() == "grün".encode()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        write_atomically(target, "other")
    assert target.read_bytes() == "grün".encode()
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_files_have_the_rights_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "text", "a")
        with atomic_folder(tmp_path / "folder") as draft:
            (draft / RECORD).write_text("{}", encoding="utf-8")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "text").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def fill(final: Path, text: str) -> None:
    with atomic_folder(final) as draft:
        (draft / RECORD).write_text(json.dumps(text), encoding="utf-8")


def read(final: Path) -> str:
    return json.loads((final / RECORD).read_text(encoding="utf-8"))


def test_a_failed_block_leaves_nothing(tmp_path):
    def fails():
        with atomic_folder(tmp_path / "a") as draft:
            (draft / "half").write_text("x", encoding="utf-8")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_that_finish_is_kept(tmp_path):
    with atomic_folder(tmp_path / "a") as draft:
        (draft / RECORD).write_text('"late"', encoding="utf-8")
        fill(tmp_path / "a", "early")
    assert read(tmp_path / "a") == "early"


def test_a_folder_without_a_record_is_repaired(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "weights").write_text("half", encoding="utf-8")
    fill(tmp_path / "a", "whole")
    assert read(tmp_path / "a") == "whole"
    assert not (tmp_path / "a" / "weights").exists()


def test_a_rename_that_fails_for_another_reason_is_an_error(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(StoreError, match="Permission denied"):
        fill(tmp_path / "a", "lost")


def test_the_commit_is_that_of_this_package_alone(tmp_path, monkeypatch):
    place = tmp_path / "site-packages" / "clad_lib" / "study" / "store.py"
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(store, "__file__", str(place))
    assert store._commit().startswith("version ")


def test_a_stamp_says_where_and_with_what():
    found = store.stamp()
    assert set(found) == {"commit", "versions", "machine"}
    assert found["versions"]["numpy"] == np.__version__
    assert found["machine"]["cores"] == os.cpu_count()


def test_names_become_folders():
    assert store.folder_name("mnist") == "mnist"
    assert store.folder_name("0+3+8") == "0+3+8"
    one, other = store.folder_name("/a/my images"), store.folder_name("/b/my images")
    assert one.startswith("my-images-")
    assert one != other
    assert store.folder_name("\udcff").startswith("-") or store.folder_name("\udcff")
