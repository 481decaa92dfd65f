"""A text file appears whole or not at all."""

import os

import pytest

from clad_lib.whole import write_whole


def test_a_file_is_replaced_and_others_may_read_it(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_whole(path, "one\n")
    write_whole(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    assert path.stat().st_mode & 0o044 == 0o044
    assert os.listdir(path.parent) == ["a.json"]


def test_a_move_that_fails_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_whole(path, "old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]
