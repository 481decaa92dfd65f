"""The cache of decoded images: whole or not at all, and known by content."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from clad_lib.data import cache as module
from clad_lib.data.cache import cache_file, cache_folder, cached, cached_files
from clad_lib.data.pictures import DataError
from clad_lib.results_commands import cache


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAD_CACHE", str(tmp_path))


def test_what_was_made_once_is_found_again(tmp_path, make_data):
    path, data = cache_file("toy", [1]), make_data([0, 1], tracks=[5, 5])
    cached(path, lambda: data)
    found = cached(path, lambda: pytest.fail("made again"))
    for name in ("images", "labels", "tracks"):
        assert np.array_equal(getattr(found, name), getattr(data, name))
        assert getattr(found, name).dtype == getattr(data, name).dtype
    assert (found.class_names, found.notes) == (data.class_names, data.notes)


def test_small_files_are_known_by_content_and_large_ones_by_their_age(tmp_path, monkeypatch):
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    one.write_bytes(b"pixels")
    before = cache_file("toy", [one])
    shutil.copy(one, other)  # another name and time
    os.utime(one, ns=(1, 1))
    assert cache_file("toy", [one]) == cache_file("toy", [other]) == before
    times = one.stat().st_atime_ns, one.stat().st_mtime_ns
    one.write_bytes(b"pixelz")  # of the same length
    os.utime(one, ns=times)
    assert cache_file("toy", [one]) != before
    monkeypatch.setattr(module, "BY_CONTENT", 3)
    large = cache_file("toy", [one])
    assert cache_file("toy", [one]) == large
    os.utime(one, ns=(2, 2))
    assert cache_file("toy", [one]) != large


def test_names_of_any_kind_make_plain_file_names(tmp_path):
    name = cache_file("a/b: c" + os.fsdecode(b"\xff") + "x" * 300, []).name
    assert name.isascii()
    assert "/" not in name
    assert len(name) < 80


def test_nothing_half_written_stays(tmp_path, make_data, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match=r"No space left on device; set CLAD_CACHE"):
        cached(cache_file("toy", []), lambda: make_data([0]))

    def interrupted(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached(cache_file("toy", []), lambda: make_data([0]))
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path, make_data, monkeypatch):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("CLAD_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DataError, match="cannot write the cache"):
        cached(cache_file("toy", []), lambda: make_data([0]))


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_a_damaged_file_is_named(tmp_path, make_data, keep):
    path = cache_file("toy", [])
    cached(path, lambda: make_data([0, 1, 2]))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"the cache .*toy-.* cannot be read .*remove it"):
        cached(path, lambda: pytest.fail("made again"))


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_others_may_read_what_the_umask_lets_them(tmp_path, make_data):
    before = os.umask(0o022)
    try:
        path = cache_file("toy", [])
        cached(path, lambda: make_data([0]))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_lies_in_the_cache_is_shown_and_cleared(tmp_path, make_data):
    path = cache_file("toy", [])
    cached(path, lambda: make_data([0]))
    half = tmp_path / "old-0123456789abcdef.npy.part"  # of an older version
    half.write_bytes(b"half")
    mine = [tmp_path / "notes-1.npy", tmp_path / "downloads" / "x-0123456789abcdef.npz"]
    mine[1].parent.mkdir()
    for file in mine:
        file.write_bytes(b"mine")
    assert cached_files() == [half, path]
    cache(clear=False)
    assert half.is_file()
    assert path.is_file()
    cache(clear=True)
    assert cached_files() == []
    assert all(file.is_file() for file in mine)


def test_where_the_cache_lies(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CLAD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cached_files() == []
    assert cache_folder() == tmp_path / "x" / "clad"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "clad"
