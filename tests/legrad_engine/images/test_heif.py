"""HEIC pictures of phones: their pixels, orientation and limits, and the lack of the extra."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from pillow_heif import HeifFile

from legrad_engine.errors import ImageDecodeError, ImageTooLargeError
from legrad_engine.images.decoding import decode
from tests.support.pictures import encoded, heic, picture

UPRIGHT = np.asarray(picture(64, 48))


def exif(orientation: int) -> bytes:
    metadata = Image.Exif()
    metadata[0x0112] = orientation
    return metadata.tobytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_every_mode_is_read(mode: str) -> None:
    image = picture(64, 48).convert(mode)
    found = np.asarray(decode(heic(image, quality=100))).astype(int)
    assert np.abs(found - np.asarray(image.convert("RGB"))).mean() < 8


def test_transparency_shows_white() -> None:
    image = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    assert np.asarray(decode(heic(image))).min() >= 254


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_once(orientation: int) -> None:
    # As a camera stores it: the JPEG with this tag shows the same picture.
    stored = picture(64, 48)
    twin = np.asarray(decode(encoded(stored, "JPEG", exif=exif(orientation), quality=95)))
    found = np.asarray(decode(heic(stored, exif=exif(orientation), quality=90)))
    assert found.shape == twin.shape
    assert np.abs(found.astype(int) - twin).mean() < 8


def test_the_limit_of_pixels_is_checked_before_decoding() -> None:
    data = heic(picture(128, 64))
    assert decode(data, max_pixels=128 * 64).size == (128, 64)
    with pytest.raises(ImageTooLargeError, match="128 x 64 pixels; the limit is 8191"):
        decode(data, max_pixels=128 * 64 - 1)


def test_a_picture_is_limited_before_it_is_cropped() -> None:
    # The coder's smallest picture is 64 pixels wide, and the file crops it.
    data = heic(picture(8, 6))
    assert decode(data, max_pixels=64 * 64).size == (8, 6)
    with pytest.raises(ImageTooLargeError, match="parts of 64 x 64 pixels; the limit is 4095"):
        decode(data, max_pixels=64 * 64 - 1)


def test_the_primary_picture_of_several_is_read() -> None:
    pictures = HeifFile()  # type: ignore[no-untyped-call]
    for colour in ("red", "lime", "blue"):
        pictures.add_from_pillow(Image.new("RGB", (32, 32), colour))
    buffer = io.BytesIO()
    pictures.save(buffer, primary_index=1)
    assert np.asarray(decode(buffer.getvalue())).mean((0, 1)) == pytest.approx((0, 255, 0), abs=6)


def test_an_overlay_of_pictures_is_refused_before_they_are_decoded() -> None:
    data = heic(picture(64, 64))
    entry = data.index(b"hvc1", data.index(b"infe"))
    overlay = data[:entry] + b"iovl" + data[entry + 4 :]
    with pytest.raises(ImageDecodeError, match="overlay of other images, which is not supported"):
        decode(overlay)


def test_half_a_file_is_damaged() -> None:
    data = heic(picture(64, 48), quality=90)
    for length in (len(data) // 2, len(data) - 8, 40):
        with pytest.raises(ImageDecodeError, match="truncated or damaged"):
            decode(data[:length])


def test_without_the_extra_the_refusal_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_pillow_heif", None)
    with pytest.raises(ImageDecodeError, match=r"HEIC or HEIF.*legrad-service\[heif\]") as caught:
        decode(heic(picture(16, 16)))
    assert caught.value.field == "image"
