"""Encoding of pictures, read back by Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from legrad_engine.images.decoding import decode
from legrad_engine.images.encoding import PICTURE_FORMATS, PictureFormat, encode_picture
from tests.support.paths import EXAMPLES


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


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_less_quality_takes_fewer_bytes(name: PictureFormat) -> None:
    picture = decode(EXAMPLES / "cat.jpg")
    sizes = [len(encode_picture(picture, name, quality)) for quality in (30, 60, 90)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2
