"""Encoding of pictures, read back by Pillow."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.decoding import decode
from legrad_engine.images.encoding import (
    PICTURE_FORMATS,
    PictureFormat,
    encode_npy,
    encode_picture,
    encode_png,
)
from tests.support.paths import EXAMPLES

any_maps = arrays(
    np.float32,
    st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


def reopen(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    image.load()
    return image


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", PICTURE_FORMATS)
def test_a_picture_is_read_back_as_it_was(name: PictureFormat, mode: str) -> None:
    picture = decode(EXAMPLES / "cat.jpg").convert(mode)
    found = Image.open(io.BytesIO(encode_picture(picture, name)))
    assert found.format == name.upper()
    assert found.size == picture.size
    difference = np.abs(np.asarray(found.convert(mode), float) - np.asarray(picture, float))
    assert difference.mean() < 4
    assert name != "png" or not difference.any()


@pytest.mark.parametrize("name", PICTURE_FORMATS)
def test_a_fourth_byte_of_each_pixel_is_left_out(name: PictureFormat) -> None:
    pixels = np.asarray(decode(EXAMPLES / "cat.jpg"))
    padded = np.dstack([pixels, np.full(pixels.shape[:2], 77, np.uint8)])
    assert encode_picture(padded, name) == encode_picture(pixels, name)


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_less_quality_takes_fewer_bytes(name: PictureFormat) -> None:
    picture = decode(EXAMPLES / "cat.jpg")
    sizes = [len(encode_picture(picture, name, quality)) for quality in (30, 60, 90)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2


shapes = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(shapes, st.booleans(), st.data())
def test_pictures_survive_png(shape: tuple[int, int], color: bool, data: st.DataObject) -> None:
    picture = data.draw(arrays(np.uint8, (*shape, 3) if color else shape))
    reopened = reopen(encode_png(picture))
    assert reopened.mode == ("RGB" if color else "L")
    np.testing.assert_array_equal(np.asarray(reopened), picture)
    assert encode_png(Image.fromarray(picture)) == encode_png(picture)


def test_16_bit_png_keeps_all_65536_levels() -> None:
    levels = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    reopened = reopen(encode_png(levels))
    assert reopened.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(reopened), levels)


@pytest.mark.parametrize(("name", "longest"), [("jpeg", 65_500), ("webp", 16_383)])
def test_a_side_that_the_format_cannot_hold_is_refused(name: PictureFormat, longest: int) -> None:
    fits, too_long = (np.zeros((1, side), np.uint8) for side in (longest, longest + 1))
    assert Image.open(io.BytesIO(encode_picture(fits, name))).size == (longest, 1)
    with pytest.raises(InvalidOptionError, match=f"at most {longest} pixels") as caught:
        encode_picture(too_long, name)
    assert caught.value.field == "format"


def test_a_flipped_view_encodes_as_it_looks() -> None:
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)[::-1, ::-1]
    np.testing.assert_array_equal(np.asarray(reopen(encode_png(picture))), picture)


@given(any_maps)
def test_npy_keeps_every_value(maps: np.ndarray) -> None:
    loaded = np.load(io.BytesIO(encode_npy(maps)), allow_pickle=False)
    assert loaded.dtype == maps.dtype
    np.testing.assert_array_equal(loaded, maps)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, ">f4"])
@pytest.mark.parametrize("shape", [(7,), (14, 14), (2, 14, 10), (0, 3)])
def test_npy_files_are_those_of_numpy(shape: tuple[int, ...], dtype: str) -> None:
    array = np.ones(shape, dtype)
    expected = io.BytesIO()
    np.save(expected, array)
    assert encode_npy(array) == expected.getvalue()


def test_npy_keeps_the_order_of_a_transposed_view() -> None:
    view = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(np.load(io.BytesIO(encode_npy(view))), view)
