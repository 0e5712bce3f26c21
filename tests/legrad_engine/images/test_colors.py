"""ICC profiles: pictures become sRGB, and no profile of any kind fails one."""

import contextlib
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.errors import LegradError
from legrad_engine.images.decoding import decode, decode_versions
from tests.support import icc_profiles
from tests.support.pictures import encoded, heic, picture

P3 = icc_profiles.display_p3()
MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB",
         "HSV", "I", "I;16", "I;16B", "F"]  # fmt: skip
PROFILES = {
    "Display P3": P3,
    "sRGB": icc_profiles.SRGB,
    "grey": icc_profiles.grey(1.8),
    "CMYK": icc_profiles.cmyk(),
    "Lab": icc_profiles.profile(b"Lab ", {}),
    "device link": icc_profiles.rgb_profile({}, icc_profiles.gamma(2))[:12] + b"link" + P3[16:],
    "without tags": icc_profiles.profile(b"RGB ", {}),
    "cut": P3[:200],
    "header only": P3[:128],
    "text": b"no profile at all",
    "empty": b"",
    "large": P3 + bytes(5_000_000),
    "processing elements": icc_profiles.elements(50),
}


def p3_to_srgb(colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """Convert by the published matrix (CSS Color 4)."""
    values = np.array(colour) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = linear @ np.array(
        [
            [1.2249401762, -0.0420569547, -0.0196375546],
            [-0.2249401762, 1.0420569547, -0.0786360455],
            [0.0, 0.0, 1.0982736001],
        ]
    )
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    result: NDArray[np.float64] = encoded * 255
    return result


def centre(data: bytes | Image.Image) -> tuple[float, ...]:
    image = decode(data)
    pixel = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    return pixel


def in_mode(mode: str) -> Image.Image:
    """Return a picture of a mode that Pillow may hold."""
    if mode == "La":
        return Image.new("LA", (8, 6), (90, 200)).convert("La")
    if mode == "LAB":
        return Image.new("LAB", (8, 6), (90, 20, 30))
    if mode.startswith("I;16"):
        return Image.frombytes(mode, (8, 6), np.arange(48, dtype="<u2").tobytes())
    return picture(8, 6).convert("RGBA" if mode in ("PA", "RGBa") else "RGB").convert(mode)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIF"])
@pytest.mark.parametrize("colour", [(200, 60, 40), (40, 170, 60), (60, 90, 200), (120, 120, 120)])
def test_a_wide_gamut_becomes_srgb_in_every_format(kind: str, colour: tuple[int, int, int]) -> None:
    image = Image.new("RGB", (16, 16), colour)
    if kind == "HEIF":
        data = heic(image, icc_profile=P3, quality=100)
    else:
        lossless: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        lossless |= {"quality": 100} if kind in ("JPEG", "AVIF") else {}
        data = encoded(image, kind, icc_profile=P3, **lossless)
    assert centre(data) == pytest.approx(p3_to_srgb(colour), abs=4)
    assert max(abs(p3_to_srgb(colour) - colour)) > 5 or len(set(colour)) == 1


def test_colours_are_those_of_the_profile_and_the_stored_ones_can_be_had() -> None:
    image = Image.new("RGB", (4, 2), (255, 0, 0))
    image.putpixel((0, 0), (0, 0, 255))
    data = encoded(image, icc_profile=icc_profiles.swapped())
    versions = decode_versions(data, with_stored=True)
    srgb, stored = versions.srgb, versions.stored
    assert np.abs(np.asarray(srgb).astype(int) - np.asarray(stored)[..., ::-1]).max() <= 2
    np.testing.assert_array_equal(np.asarray(stored), np.asarray(image))
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(srgb))


def test_both_versions_are_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = picture(30, 20)
    data = encoded(image, icc_profile=icc_profiles.swapped(), exif=exif)
    versions = decode_versions(data, with_stored=True)
    srgb, stored = versions.srgb, versions.stored
    np.testing.assert_array_equal(np.asarray(stored), np.rot90(np.asarray(image), -1))
    assert srgb.size == stored.size == (20, 30)
    assert not srgb.info
    assert not stored.info


def test_a_profile_of_srgb_changes_no_bit() -> None:
    image = picture(40, 30)
    for data in (encoded(image, icc_profile=icc_profiles.SRGB), encoded(image)):
        versions = decode_versions(data, with_stored=True)
        srgb, stored = versions.srgb, versions.stored
        assert srgb is stored
        np.testing.assert_array_equal(np.asarray(srgb), np.asarray(image))


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (4, 4), 128),
        Image.new("LA", (4, 4), (128, 255)),
        Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)),
    ],
    ids=["L", "LA", "I;16"],
)
def test_grey_with_a_profile_of_grey_becomes_srgb(image: Image.Image) -> None:
    # Linear light of one half is 188 in sRGB.
    data = encoded(image, icc_profile=icc_profiles.grey(1.0))
    assert centre(data) == pytest.approx((188, 188, 188), abs=1)
    assert centre(encoded(image, icc_profile=P3)) == pytest.approx((128, 128, 128), abs=1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_have_the_colours_of_their_printer(kind: str) -> None:
    data = encoded(
        Image.new("CMYK", (16, 16), (255, 0, 0, 0)), kind, icc_profile=icc_profiles.cmyk()
    )
    # Without the profile cyan is (0, 255, 255).
    assert centre(data) == pytest.approx((0, 195, 170), abs=6)
    paper = encoded(Image.new("CMYK", (16, 16)), kind, icc_profile=icc_profiles.cmyk())
    assert centre(paper) == pytest.approx((255, 255, 255), abs=2)


def test_transparency_is_white_in_any_profile() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 255, 0))
    image.putpixel((1, 0), (0, 0, 255, 255))
    decoded = decode(encoded(image, icc_profile=icc_profiles.swapped()))
    assert decoded.getpixel((0, 0)) == pytest.approx((255, 255, 255), abs=2)
    assert decoded.getpixel((1, 0)) == pytest.approx((255, 0, 0), abs=2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROFILES)
def test_no_profile_fails_a_picture_of_any_mode(name: str, mode: str) -> None:
    image = in_mode(mode)
    without = np.asarray(decode(image)).astype(int)
    image.info["icc_profile"] = PROFILES[name]
    decoded = decode(image)
    assert (decoded.mode, decoded.size) == ("RGB", (8, 6))
    difference = np.abs(np.asarray(decoded).astype(int) - without).max()
    colours = {"Display P3": mode not in ("CMYK", "LAB"), "CMYK": mode == "CMYK"}
    colours["grey"] = mode in ("1", "L", "LA", "La", "I", "I;16", "I;16B", "F")
    if not colours.get(name, False):
        assert difference == 0
    elif mode in ("L", "LA", "La") and name == "grey":
        assert difference > 2


# A transform of a printer's profile takes a tenth of a second.
@settings(max_examples=50)
@given(st.sampled_from(["Display P3", "grey", "CMYK"]), st.data())
def test_damaged_profiles_are_ignored_or_applied(name: str, data: st.DataObject) -> None:
    profile = bytearray(PROFILES[name])
    for _ in range(data.draw(st.integers(1, 6))):
        profile[data.draw(st.integers(0, len(profile) - 1))] = data.draw(st.integers(0, 255))
    image = in_mode({"Display P3": "RGB", "grey": "L", "CMYK": "CMYK"}[name])
    image.info["icc_profile"] = bytes(profile)
    with contextlib.suppress(LegradError):
        assert decode(image).size == (8, 6)


def test_a_profile_of_endless_work_is_not_evaluated() -> None:
    profile = icc_profiles.elements(200_000)
    data = encoded(picture(8, 6), icc_profile=profile)
    began = time.thread_time()
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(picture(8, 6)))
    # Evaluated, it takes minutes.
    assert time.thread_time() - began < 1
