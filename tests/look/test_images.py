"""Pictures of images, read back from the figures pixel by pixel."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from clad_lib.look import images as module
from clad_lib.look.images import as_bytes, as_uri, montage


def alt_text(figure):
    return figure.layout.meta["alt"]


def pixels(uri):
    """The picture of a data URI, as an array."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def sheet_of(figure):
    return pixels(figure.data[0].source)


def numbered(count, *, channels=1, size=8):
    """Images of one value each: the first 0, the second 1."""
    values = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(values, (count, channels, size, size)).copy()


def shown(figure, *, size=8):
    """The value of each cell in the rows of a figure of `numbered` images; white where there is none."""
    return sheet_of(figure)[size // 2 :: size + 1, size // 2 :: size + 1].tolist()


def test_rows_stand_under_each_other_in_order():
    rows = {"first": numbered(3), "second": numbered(2) + 10}
    figure = module.image_rows(rows, title="t", note="n")
    assert shown(figure) == [[0, 1, 2], [10, 11, 255]]
    assert list(figure.layout.yaxis.ticktext) == ["first", "second"]
    centres = np.array(figure.layout.yaxis.tickvals)
    assert np.allclose(centres, [3.5, 12.5], atol=0.8)  # of the images, in pixels of the sheet
    assert figure.layout.width is None
    assert figure.data[0].type == "image"  # whose pixels plotly keeps square
    assert "first; second" in alt_text(figure)


def test_names_are_text_and_may_have_two_lines():
    figure = module.image_rows({"a <b>\nc": numbered(1)}, title="t")
    assert figure.layout.yaxis.ticktext[0] == "a &lt;b&gt;<br>c"
    assert "a <b> c" in alt_text(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_montage_holds_every_image(channels):
    random = np.random.default_rng(0)
    rows = [random.integers(0, 255, (n, channels, 28, 20), dtype=np.uint8) for n in (2, 3)]
    sheet = montage(rows)
    assert sheet.shape == ((2 * 30, 3 * 22) if channels == 1 else (2 * 30, 3 * 22, 3))
    sheet = sheet.reshape(60, 66, channels)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            place = sheet[30 * i : 30 * i + 28, 22 * j : 22 * j + 20]
            assert np.array_equal(place, image.transpose(1, 2, 0))
    gaps = np.ones((60, 66), dtype=bool)
    for i, n in enumerate((2, 3)):
        for j in range(n):
            gaps[30 * i : 30 * i + 28, 22 * j : 22 * j + 20] = False
    assert (sheet[gaps] == 255).all()


def test_images_of_one_pixel_and_of_different_sizes():
    assert montage([numbered(2, size=1)])[0, ::2].tolist() == [0, 1]
    with pytest.raises(ValueError, match="shape"):
        montage([numbered(2, size=8), numbered(2, size=9)])


def test_bytes_from_floats():
    assert as_bytes(np.full((1, 1, 1, 3), [0, 0.5, 2.0])).ravel().tolist() == [0, 128, 255]
    same = numbered(2)
    assert as_bytes(same) is same


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 2, 8, 8), (2, 8, 8)])
def test_other_shapes_are_refused_with_what_was_got(shape):
    with pytest.raises(ValueError, match=r"got images \(.*expected \(N, C, H, W\)"):
        as_bytes(np.zeros(shape, dtype=np.uint8))


def test_pixels_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="pixels"):
        as_bytes(np.full((1, 1, 2, 2), np.nan))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (1, 1, 1)])
def test_a_data_uri_gives_the_picture_back(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    uri = as_uri(image)
    assert uri.startswith("data:image/png;base64,")
    assert np.array_equal(pixels(uri), image[..., 0] if shape[-1] == 1 else image)


def test_a_class_grid_shows_normal_classes_on_top():
    labels = np.array([2, 0, 1, 2, 0, 2])
    figure = module.class_grid(numbered(6), labels, names=["a", "b", "c"], normal=[2, 1])
    assert list(figure.layout.yaxis.ticktext) == ["b · normal", "c · normal", "a · anomalous"]
    assert shown(figure) == [[2, 255, 255], [0, 3, 5], [1, 4, 255]]
    assert "a · anomalous" in alt_text(figure)
    many = module.class_grid(numbered(20), np.zeros(20, int), names=["a"], normal=[0])
    assert shown(many) == [[*range(12)]]


def test_photographs_take_less_room_than_their_pixels():
    random = np.random.default_rng(0)
    figure = module.image_rows({"a": random.random((12, 3, 32, 32))}, title="t")
    assert figure.data[0].source.startswith("data:image/jpeg")
    assert len(figure.data[0].source) < 12 * 3 * 32 * 32


def test_reconstructions_tell_their_error():
    before = numbered(2)
    after = before + np.uint8(51)  # 0.2
    figure = module.reconstructions(before, after / 255)
    assert shown(figure) == [[0, 1], [51, 52], [51, 51]]
    assert "squared error of these: 0.0400" in figure.layout.title.subtitle.text.replace(
        "<br>", " "
    )
    assert "0.0400" in alt_text(figure)
    with pytest.raises(ValueError, match="shape"):
        module.reconstructions(before, after[:, :, :4])


def test_the_most_wrong_images_come_first():
    scores = np.array([0.5, -2.0, 3.0, 1.0, 0.0, 2.0])
    anomaly = np.array([1, 1, 1, 0, 0, 0], dtype=bool)
    figure = module.extreme_images(numbered(6), scores, anomaly)
    assert shown(figure) == [[1, 0, 2], [5, 3, 4]]
    assert list(figure.layout.yaxis.ticktext) == [
        "anomalies that look normal<br>(-2 to 3)",
        "normals that look odd<br>(2 to 0)",
    ]
    assert "(-2 to 3)" in alt_text(figure)
    only = module.extreme_images(numbered(6), scores, np.zeros(6, dtype=bool))
    assert shown(only) == [[2, 5, 3, 0, 4, 1]]
    many = module.extreme_images(numbered(20), np.arange(20.0), np.arange(20) < 15)
    assert shown(many) == [[*range(12)], [*range(19, 14, -1), *[255] * 7]]
    with pytest.raises(ValueError, match="scores"):
        module.extreme_images(numbered(2), np.array([0.0, np.nan]), np.zeros(2, dtype=bool))


def test_a_dictionary_shows_each_filter_on_its_own_scale():
    filters = np.zeros((27, 1, 8, 8))
    filters[1], filters[2], filters[3] = 2.0, -0.001, 0.0
    filters[26, :, :4] = -1
    filters[26, :, 4:] = 0.5
    figure = module.patch_dictionary(filters)
    assert shown(figure) == [[128, 255, 0, *[128] * 22], [128, 191, *[255] * 23]]
    assert list(figure.layout.yaxis.ticktext) == ["0", "25"]
    assert "27 centroids" in alt_text(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_map_stands_beside_its_image(channels):
    image = np.random.default_rng(0).integers(0, 256, (channels, 8, 8), dtype=np.uint8)
    scores = np.zeros((4, 3))
    scores[2, 1] = 7
    figure = module.score_map(image, scores)
    assert np.array_equal(figure.data[0].z, scores)
    drawn = pixels(figure.layout.images[0].source).reshape(64, 64, channels)
    assert np.array_equal(drawn[4::8, 4::8], image.transpose(1, 2, 0))
    place = figure.layout.images[0]
    assert place.x + place.sizex < -0.5  # left of the map, of the same size
    assert (place.sizex, place.sizey) == (3, 4)
    assert figure.layout.xaxis.range[0] == place.x
    assert figure.layout.coloraxis.colorbar.title.text == "squared distance in the cell"
    assert "row 3, column 2" in alt_text(figure)
