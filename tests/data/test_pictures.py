"""One picture, many encodings: the same pixels, and a plain refusal of what is no picture."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from clad_lib.data.pictures import DataError, decode, highest_values, shown, to_bytes

GREY = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
GREY[0, :2] = 0, 255
COLOUR = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def read_image(source, **options):
    """The pixels alone; errors name the place."""
    where = "picture" if isinstance(source, bytes) else shown(source)
    return decode(source, where=where, **options)[0]


def encoded(pixels, kind="png", **options) -> bytes:
    stream = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(stream, kind, **options)
    return stream.getvalue()


DEEP = {
    "16 bits, little end first": (GREY.astype("<u2") * 257, "tiff"),
    "16 bits, big end first": (GREY.astype(">u2") * 257, "tiff"),
    "16 bits, PNG": (GREY.astype("<u2") * 257, "png"),
    "16 bits, PGM": (GREY.astype("<u2") * 257, "ppm"),
    "12 bits in 16": (np.rint(GREY * (4095 / 255)).astype("<u2"), "tiff"),
    "10 bits in 16": (np.rint(GREY * (1023 / 255)).astype("<u2"), "png"),
    "31 bits": (GREY.astype("<i4") * (2**31 // 255), "tiff"),
    "31 bits, big end first": (GREY.astype(">i4") * (2**31 // 255), "tiff"),
    "8 bits in 32": (GREY.astype("<i4"), "tiff"),
    "floats to 1": (GREY.astype("<f4") / np.float32(255), "tiff"),
    "floats to 1, big end first": (GREY.astype(">f4") / np.float32(255), "tiff"),
    "floats to 255": (GREY.astype("<f4"), "tiff"),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_pixels_are_scaled_and_never_clipped(name):
    assert np.array_equal(read_image(encoded(*DEEP[name])), GREY[None])


def test_a_dark_picture_of_a_deep_set_stays_dark():
    """By itself, a 16-bit picture of values up to 200 reads as 8 bits; in its set it is black."""
    bright, dark = encoded(GREY.astype("<u2") * 257), encoded((GREY // 2).astype("<u2"))
    highest = highest_values([bright, dark, b"no picture", encoded(GREY)])
    assert highest == {"u": 65535.0}
    assert np.array_equal(read_image(dark), GREY[None] // 2)
    assert read_image(dark, highest=highest).max() == 0
    assert np.array_equal(read_image(bright, highest=highest), GREY[None])


def white_is_zero(blob):
    """The same TIFF with PhotometricInterpretation 0, which Pillow does not write for deep pixels."""
    black, white = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    assert blob.count(black) == 1
    return blob.replace(black, white)


@pytest.mark.parametrize("name", ["16 bits, little end first", "12 bits in 16", "floats to 1"])
def test_where_zero_is_white_the_picture_is_turned_over(name):
    """TIFF 6.0, section 8, at every depth."""
    assert np.array_equal(read_image(white_is_zero(encoded(*DEEP[name]))), 255 - GREY[None])


def test_where_zero_is_white_in_8_bits_it_is_turned_over_once():
    assert np.array_equal(read_image(white_is_zero(encoded(GREY, "tiff"))), 255 - GREY[None])


def test_values_that_cannot_be_scaled_are_refused():
    for value in (np.nan, np.inf, -0.5):
        pixels = np.full((4, 4), 0.5, np.float32)
        pixels[1, 1] = value
        with pytest.raises(DataError, match="values out of range"):
            read_image(encoded(pixels, "tiff"))
    with pytest.raises(DataError, match=r"0 to 65535, expected 0 to 4095"):
        to_bytes(GREY.astype(np.uint16) * 257, highest=4000)


def test_one_is_white_for_floats_and_black_for_integers():
    assert to_bytes(np.array([0, 1], np.uint16)).tolist() == [0, 1]
    assert to_bytes(np.array([0, 1], np.float64)).tolist() == [0, 255]


@given(st.integers(8, 32), st.data())
def test_scaling_keeps_order_and_white(bits, data):
    white = 2**bits - 1
    values = data.draw(st.lists(st.integers(0, white), min_size=1, max_size=20))
    pixels = np.array(sorted([*values, white]), np.int64)
    scaled = to_bytes(pixels)
    assert scaled.dtype == np.uint8
    assert (np.diff(scaled.astype(int)) >= 0).all()
    level = min(w for w in (8, 10, 12, 14, 16, 24, 31, 32) if w >= bits)
    assert abs(scaled[-1] - 255 * white / (2**level - 1)) <= 0.5


STORED = {  # how a picture lies in the file that a viewer turns upright by this tag (EXIF 2.3)
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("tag", STORED)
@pytest.mark.parametrize("kind", ["png", "tiff", "webp", "16-bit tiff"])
def test_orientation_tags_are_applied(tag, kind):
    exif = Image.Exif()
    exif[274] = tag
    upright = COLOUR[:, :5] if kind != "16-bit tiff" else GREY[:, :5].astype(np.uint16) * 257
    options = {"lossless": True} if kind == "webp" else {}
    stored = np.ascontiguousarray(STORED[tag](upright))
    pixels = read_image(encoded(stored, kind.split()[-1], exif=exif, **options))
    expected = GREY[None, :, :5] if kind == "16-bit tiff" else upright.transpose(2, 0, 1)
    assert np.array_equal(pixels, expected)


def test_what_is_transparent_lies_on_white():
    pixels = np.zeros((1, 4, 4), np.uint8)
    pixels[0, :, 0] = 10
    pixels[0, :, 3] = 255, 0, 51, 102
    rgba = read_image(encoded(pixels))
    expected = [[10, 255, round(0.2 * 10 + 0.8 * 255), round(0.4 * 10 + 0.6 * 255)]]
    assert np.abs(rgba[0].astype(int) - expected).max() <= 1
    grey = np.stack([np.full((2, 2), 7, np.uint8), np.array([[0, 255], [255, 0]], np.uint8)], 2)
    assert read_image(encoded(Image.fromarray(grey, "LA"))).tolist() == [[[255, 7], [7, 255]]]


def test_a_colour_that_is_declared_transparent_lies_on_white():
    picture = Image.fromarray(np.array([[5, 9], [9, 5]], np.uint8))
    assert read_image(encoded(picture, transparency=5)).tolist() == [[[255, 9], [9, 255]]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_one_picture_in_many_modes(mode):
    pixels = read_image(encoded(Image.fromarray(GREY).convert(mode)))
    assert np.array_equal(pixels, GREY[None])  # grey is found by the pixels, not by the mode


def test_palettes_and_cmyk_become_colours():
    picture = Image.fromarray(COLOUR).quantize(64)
    wanted = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    for kind in ("png", "gif"):
        assert np.array_equal(read_image(encoded(picture, kind)), wanted)
    inks = np.zeros((4, 4, 4), np.uint8)
    inks[..., 1] = 255  # magenta alone
    magenta = read_image(encoded(Image.fromarray(inks, "CMYK"), "tiff"))
    assert magenta.reshape(3, -1).T.tolist() == [[255, 0, 255]] * 16


def test_black_and_white_is_0_and_255():
    picture = Image.fromarray(GREY > 127)
    assert np.array_equal(read_image(encoded(picture, "png"))[0], (GREY > 127) * np.uint8(255))


def test_channels_that_are_asked_for():
    assert read_image(encoded(GREY), channels=3).tolist() == np.stack([GREY] * 3).tolist()
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    grey = read_image(encoded(COLOUR), channels=1)[0]
    assert np.abs(grey - COLOUR @ weights).max() <= 1


def test_colour_profiles_are_not_applied():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain, tagged = encoded(COLOUR), encoded(COLOUR, icc_profile=profile)
    assert plain != tagged
    assert np.array_equal(read_image(plain), read_image(tagged))


def test_the_first_of_several_frames_is_read_and_remarked():
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for kind in ("tiff", "gif", "png", "webp"):
        options = {"lossless": True} if kind == "webp" else {}
        film = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        pixels, remarks = decode(film)
        assert np.array_equal(pixels, GREY[None]), kind
        assert remarks == ["first of several frames"]
    assert decode(encoded(GREY))[1] == []


def test_a_size_keeps_the_ratio_and_fills_up_with_the_border():
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[0], wide[-1] = (200, 0, 0), (0, 0, 200)
    pixels = read_image(encoded(wide), size=8)
    assert np.array_equal(pixels[:, 2:6], wide.transpose(2, 0, 1))
    assert (pixels[0, :2] == 200).all()
    assert (pixels[2, 6:] == 200).all()
    assert decode(encoded(wide), size=8, stretch=True)[0].shape == (3, 8, 8)
    assert not np.array_equal(decode(encoded(wide), size=8, stretch=True)[0], pixels)


def test_squares_are_resized_as_pillow_does():
    expected = Image.fromarray(COLOUR).resize((20, 20), Image.Resampling.BILINEAR)
    assert np.array_equal(
        read_image(encoded(COLOUR), size=20), np.asarray(expected).transpose(2, 0, 1)
    )


def test_lost_detail_is_remarked_beyond_four_times():
    assert decode(encoded(np.zeros((16, 64), np.uint8)), size=16)[1] == []
    assert decode(encoded(np.zeros((16, 65), np.uint8)), size=16)[1] == ["shrunk more than 4 times"]


@settings(max_examples=60, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"]),
    size=st.sampled_from([4, 16, 32]),
    channels=st.sampled_from([1, 3, None]),
)
def test_every_side_and_mode_gives_a_square(sides, mode, size, channels):
    level = {"I;16": 50_000, "I": 70_000, "F": 0.25}.get(mode, 100)
    whole = {"I;16": 65535, "I": 2**24 - 1, "F": 1.0}.get(mode, 255)
    picture = Image.new("L", sides, 100).convert(mode, dither=Image.Dither.NONE)
    picture = Image.new(mode, sides, level) if mode in ("I;16", "I", "F") else picture
    pixels = read_image(encoded(picture, "tiff"), size=size, channels=channels)
    assert pixels.shape == (channels or len(pixels), size, size)
    assert pixels.dtype == np.uint8
    shade = round(255 * level / whole) if mode != "1" else 0
    assert np.abs(pixels.astype(int) - shade).max() <= 1  # one shade fills up with itself


def test_enormous_pictures_are_refused_in_one_line(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(
        DataError, match=r"bomb.png: not a readable image \(.*400000000 pixels"
    ) as e:
        read_image(tmp_path / "bomb.png")
    assert "\n" not in str(e.value)


def test_thin_strips_need_no_memory():
    assert read_image(encoded(np.zeros((1, 60_000), np.uint8)), size=16).shape == (1, 16, 16)


@pytest.mark.parametrize(
    "blob", [b"", b"text, not pixels", encoded(COLOUR)[:60], encoded(COLOUR)[:9]]
)
def test_bytes_that_are_no_picture(blob):
    with pytest.raises(DataError, match="picture: not a readable image") as refusal:
        read_image(blob)
    assert "0x" not in str(refusal.value)


def test_files_that_run_other_programs_are_not_opened():
    with pytest.raises(DataError, match="of no known format"):
        read_image(encoded(COLOUR, "eps"))


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(
        ["png", "tiff", "gif", "bmp", "jpeg", "webp", "ppm", "tga", "jpeg2000", "ico"]
    ),
    seed=st.integers(0, 2**32),
)
def test_damaged_bytes_are_read_or_refused(kind, seed):
    """Nothing but DataError leaves, whatever Pillow's readers raise."""
    random = np.random.default_rng(seed)
    blob = bytearray(encoded(COLOUR, kind))
    for place in random.integers(0, len(blob), 5):
        blob[place] = random.integers(256)
    blob = bytes(blob[: random.integers(len(blob)) + 1])
    with warnings.catch_warnings(), contextlib.suppress(DataError):
        warnings.simplefilter("ignore")
        assert read_image(blob, size=8).shape[1:] == (8, 8)


def test_names_of_any_bytes_can_be_printed(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (tmp_path / name).write_bytes(b"no picture")
    except OSError:
        pytest.skip("this file system holds UTF-8 names alone")
    with pytest.raises(DataError, match=r"caf\\udce9.png: not a readable image") as refusal:
        read_image(tmp_path / name)
    str(refusal.value).encode("utf-8")
    assert shown(Path("naïve.png")) == "naïve.png"
