"""Pictures given as NumPy arrays."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.errors import ImageDecodeError
from legrad_engine.images.decoding import decode

RGBA: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (RGBA[:, :, 0], "L"),
        (RGBA[:, :, :1], "L"),
        (RGBA[:, :, :3], "RGB"),
        (RGBA, "RGBA"),
        (RGBA[::-1, ::2, :3], "RGB"),
    ],
    ids=["grey", "one channel", "RGB", "RGBA", "a view"],
)
def test_an_array_is_read_as_the_picture_that_it_holds(array: NDArray[Any], mode: str) -> None:
    pixels = np.ascontiguousarray(array[:, :, 0] if array.shape[2:] == (1,) else array)
    picture = Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    assert np.array_equal(np.asarray(decode(array)), np.asarray(decode(picture)))


def test_a_decoded_array_does_not_change_with_it() -> None:
    array = RGBA[:, :, :3].copy()
    before = np.asarray(decode(array)).copy()
    decoded = decode(array)
    array[:] = 0
    assert np.array_equal(np.asarray(decoded), before)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (RGBA / 255, "float64"),
        (RGBA.astype(np.int64), "astype"),
        (RGBA > 3, "bool"),
        (np.zeros((4, 5), np.uint16), "uint16"),
        (RGBA[:, :, :3].transpose(2, 0, 1), "channels first"),
        (RGBA[None], r"list\(array\)"),
        (RGBA[:, :, :2], r"\[5, 7, 2\]"),
        (RGBA[0, 0], r"\[4\]"),
        (RGBA[:0], "no pixels"),
        (np.array(["cat.jpg"]), "array holds"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.shape),
)
def test_an_array_whose_meaning_would_be_a_guess_is_refused(array: NDArray[Any], says: str) -> None:
    with pytest.raises(ImageDecodeError, match=says) as refusal:
        decode(array)
    assert refusal.value.field == "image"
