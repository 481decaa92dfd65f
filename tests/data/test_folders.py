"""Which files of a folder are pictures, and what is said of the others."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from clad_lib.data.folders import Skipped, image_files, in_words, read_folder, stream_folder
from clad_lib.data.pictures import DataError


def paint(path, width=8, height=8, shade=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width, 3), shade, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def reasons(skipped):
    return {each.path.name: each.reason for each in skipped}


def test_rubbish_is_left_out_and_counted(tmp_path):
    good = [paint(tmp_path / name) for name in ("a/1.png", "b c+d/2.BMP", "b c+d/deep/3.jpg")]
    for name in (".hidden.png", "a/._1.png", "__MACOSX/1.png", "@eaDir/1.jpg"):
        paint(tmp_path / name)
    paint(tmp_path / ".ipynb_checkpoints" / "1.png")
    (tmp_path / "Thumbs.db").write_bytes(b"not a picture")
    (tmp_path / "notes.txt").write_text("text", encoding="utf-8")
    (tmp_path / "nothing.png").write_bytes(b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "never")
    os.mkfifo(tmp_path / "pipe.png")  # opened, it would wait for ever
    (tmp_path / "empty" / "below").mkdir(parents=True)
    files, skipped = image_files(tmp_path)
    assert files == sorted(good)
    alien = "hidden or of another program"
    assert reasons(skipped) == {
        **dict.fromkeys([".hidden.png", "._1.png", "__MACOSX", "@eaDir", "Thumbs.db"], alien),
        ".ipynb_checkpoints": alien,
        "notes.txt": "no picture by its name",
        "nothing.png": "zero bytes",
        **dict.fromkeys(["gone.png", "pipe.png"], "a link to nowhere or no regular file"),
        **dict.fromkeys(["empty", "below"], "a folder without pictures"),
    }
    assert "2 a folder without pictures (such as " in in_words(skipped)
    assert not any(each.used for each in skipped)


def test_strict_reading_refuses_what_would_be_left_out(tmp_path):
    paint(tmp_path / "1.png")
    assert len(image_files(tmp_path, strict=True)[0]) == 1
    (tmp_path / "2.png").write_text("text", encoding="utf-8")
    with pytest.raises(DataError, match=r"2.png: not a readable image"):
        read_folder(tmp_path, strict=True)
    with pytest.raises(DataError, match=r"2.png: not a readable image"):
        list(stream_folder(tmp_path, size=8, channels=1, strict=True))
    (tmp_path / "3.txt").write_text("text", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"expected nothing but pictures, got 1 no picture by its name"
    ):
        image_files(tmp_path, strict=True)


def test_links_are_followed_and_loops_end(tmp_path):
    paint(tmp_path / "far" / "1.png")
    inside = tmp_path / "set"
    paint(inside / "z" / "2.png")
    (inside / "a").symlink_to(tmp_path / "far")
    (inside / "aa").symlink_to(tmp_path / "far")
    (inside / "b").symlink_to(inside / "z")
    (inside / "z" / "up").symlink_to(inside)
    (tmp_path / "far" / "round").symlink_to(tmp_path / "far")
    (inside / "self").symlink_to(inside / "self")
    files, skipped = image_files(inside)
    assert [file.relative_to(inside).as_posix() for file in files] == ["a/1.png", "z/2.png"]
    again = "a link to a folder that was read already"
    assert reasons(skipped) == {
        **dict.fromkeys(["aa", "b", "up", "round"], again),
        "self": "a link to nowhere or no regular file",
    }


def test_every_format_of_pillow_has_its_names(tmp_path):
    picture = Image.new("RGB", (8, 8), (10, 20, 30))
    names = ["a.avif", "b.jp2", "c.qoi", "d.tga", "e.sgi", "f.pcx", "g.ico", "h.webp", "i.dds"]
    for name in names:
        picture.save(tmp_path / name)
    images, files, skipped = read_folder(tmp_path)
    assert [file.name for file in files] == names
    assert not skipped
    assert np.abs(images.astype(int) - np.array([10, 20, 30])[:, None, None]).max() <= 12  # lossy


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_folders_without_permission(tmp_path):
    paint(tmp_path / "1.png")
    paint(tmp_path / "closed" / "2.png")
    (tmp_path / "closed").chmod(0)
    files, skipped = image_files(tmp_path)
    (tmp_path / "closed").chmod(0o700)
    assert len(files) == 1
    assert reasons(skipped) == {"closed": "a folder that cannot be read (Permission denied)"}


def test_folders_with_no_picture_at_all(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"a: expected pictures, got 1 a folder without pictures"):
        image_files(tmp_path / "a")
    with pytest.raises(DataError, match=r"none: expected pictures"):
        image_files(tmp_path / "none")
    for name in ("1.png", "2.png"):
        (tmp_path / "a" / name).write_text("text", encoding="utf-8")
    for read in (read_folder, lambda folder: list(stream_folder(folder, size=8, channels=1))):
        with pytest.raises(DataError, match=r"no picture could be read: 2 not a readable image"):
            read(tmp_path / "a")


def test_unreadable_pictures_are_counted_with_their_reason(tmp_path):
    paint(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:50])
    (tmp_path / "3.png").write_text("text", encoding="utf-8")
    images, files, skipped = read_folder(tmp_path)
    assert images.shape == (1, 1, 8, 8)
    assert [file.name for file in files] == ["1.png"]
    assert in_words(skipped) == f"2 not a readable image (such as {tmp_path / '2.png'})"
    assert skipped[1].reason == "not a readable image (of no known format)"


def test_other_sides_are_refused_with_the_setting_that_helps(tmp_path):
    for sides in ((8, 12), (10, 10), (260, 260)):
        folder = tmp_path / "{}x{}".format(*sides)
        paint(folder / "1.png", *sides)
        with pytest.raises(DataError, match=r"1.png is {}x{}: .* --size 64".format(*sides)):
            read_folder(folder)
        assert read_folder(folder, size=8)[0].shape == (1, 1, 8, 8)
    mixed = tmp_path / "mixed"
    paint(mixed / "1.png")
    paint(mixed / "2.png", 12, 12)
    with pytest.raises(DataError, match=r"1.png is 8x8 and .*2.png is 12x12"):
        read_folder(mixed)
    for size in (0, 2, 30, -4):
        with pytest.raises(DataError, match=f"size is {size}: expected a multiple of 4"):
            read_folder(mixed, size=size)
        with pytest.raises(DataError, match=f"size is {size}: expected a multiple of 4"):
            list(stream_folder(mixed, size=size, channels=3))


def test_grey_among_colour_and_lost_detail(tmp_path):
    Image.new("L", (8, 8), 50).save(tmp_path / "1.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "2.png")
    Image.new("RGB", (80, 80), (1, 2, 3)).save(tmp_path / "3.png")
    images, files, remarks = read_folder(tmp_path, size=8)
    assert images.shape == (3, 3, 8, 8)
    assert (images[0] == 50).all()
    assert remarks == [Skipped(files[2], "shrunk more than 4 times", used=True)]
    assert read_folder(tmp_path, size=8, channels=1)[0].shape == (3, 1, 8, 8)


def test_one_set_of_twelve_bits_is_scaled_as_a_whole(tmp_path):
    for name, shade in (("dark", 100), ("light", 4095)):
        Image.fromarray(np.full((8, 8), shade, np.uint16)).save(tmp_path / f"{name}.tiff")
    images, _, _ = read_folder(tmp_path)
    assert images[:, 0, 0, 0].tolist() == [round(100 * 255 / 4095), 255]
    streamed = [batch for _, batch, _ in stream_folder(tmp_path, size=8, channels=1, batch=1)]
    assert np.array_equal(np.concatenate(streamed), images)
    brighter, _, _ = read_folder(tmp_path, highest={"u": 65535.0})
    assert brighter[:, 0, 0, 0].tolist() == [0, 16]
    files = [tmp_path / "dark.tiff"]
    assert read_folder(files, highest={"u": 4095.0})[0][0, 0, 0, 0] == 6
    with pytest.raises(DataError, match="no picture could be read: 1 values out of range"):
        read_folder([tmp_path / "light.tiff"], highest={"u": 900.0})


def test_streams_give_what_reading_gives_in_batches(tmp_path):
    for number in range(7):
        paint(tmp_path / f"{number}.png", shade=30 * number)
    (tmp_path / "7.png").write_text("text", encoding="utf-8")
    images, files, skipped = read_folder(tmp_path)
    batches = list(stream_folder(tmp_path, size=8, channels=1, batch=3))
    assert [len(paths) for paths, _, _ in batches] == [3, 3, 1]
    assert [path for paths, _, _ in batches for path in paths] == files
    assert np.array_equal(np.concatenate([batch for _, batch, _ in batches]), images)
    assert batches[-1][2] == skipped


def test_the_memory_of_a_stream_does_not_grow(tmp_path):
    paint(tmp_path / "0.png", 64, 64)
    for number in range(1, 400):
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    peaks = []
    for limit in (40, 400):
        tracemalloc.start()
        for seen, (_, batch, _) in enumerate(
            stream_folder(tmp_path, size=64, channels=3, batch=20)
        ):
            assert len(batch) == 20
            if 20 * (seen + 1) == limit:
                break
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 20 * 3 * 64 * 64  # less than one batch


def test_bars_are_shown_unless_they_are_switched_off(tmp_path, capsys):
    paint(tmp_path / "1.png")
    for read in (
        lambda **more: read_folder(tmp_path, **more),
        lambda **more: list(stream_folder(tmp_path, size=8, channels=1, **more)),
    ):
        read()
        assert "decoding" in capsys.readouterr().err
        read(progress=False)
        assert capsys.readouterr() == ("", "")


def test_names_of_any_bytes(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system holds UTF-8 names alone")
    paint(folder / os.fsdecode(b"\xff.png"))
    (folder / os.fsdecode(b"\xfe.png")).write_text("text", encoding="utf-8")
    images, files, skipped = read_folder(tmp_path)
    assert len(images) == len(files) == len(skipped) == 1
    assert in_words(skipped).endswith(r"caf\udce9/\udcfe.png)")
