"""Decoding for the model and for overlays: colours, and large pictures decoded smaller."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from legrad_engine.errors import ImageTooLargeError, InvalidOptionError
from legrad_engine.images.decoding import decode
from legrad_engine.images.fits import Fit
from legrad_engine.images.inputs import InputRules
from service.pictures.decoding import decode_picture
from service.settings.values import PictureRules
from tests.support import icc_profiles
from tests.support.paths import EXAMPLES
from tests.support.pictures import data_url, encoded, opened, picture
from tests.support.running_app import RunningApp

STORED = picture(80, 60)
# Shown to people, red and blue change places.
SWAPPED = encoded(STORED, icc_profile=icc_profiles.swapped())
PLAIN = encoded(STORED)
SHOWN = encoded(decode(SWAPPED))


def answer(running: RunningApp, image: bytes, **question: Any) -> tuple[np.ndarray, float]:
    """Return the overlay, nearly transparent, and the similarity of an answer."""
    body = {
        "image": data_url(image),
        "prompts": ["a cat"],
        "output": {"alpha": 0.0, "format": "png"},
        **question,
    }
    response = running.explain(body)
    assert response.status_code == 200, response.text
    (target,) = response.json()["images"][0]["targets"]
    return np.asarray(opened(target["overlay"])).astype(int), target["similarity"]


@pytest.mark.parametrize("srgb_for_model", [True, False])
def test_overlays_are_srgb_and_the_model_sees_what_the_setting_says(
    tiny_model: str, srgb_for_model: bool
) -> None:
    with RunningApp(tiny_model, srgb_for_model=srgb_for_model) as running:
        overlay, similarity = answer(running, SWAPPED)
        shown, shown_similarity = answer(running, SHOWN)
        plain, plain_similarity = answer(running, PLAIN)
        np.testing.assert_array_equal(overlay, shown)
        assert np.abs(overlay - plain[..., ::-1]).max() <= 4
        assert abs(shown_similarity - plain_similarity) > 1e-4
        seen = shown_similarity if srgb_for_model else plain_similarity
        assert similarity == pytest.approx(seen, abs=1e-6)
        # A target picture is seen by the model alone.
        target = [{"type": "image", "image": data_url(SWAPPED)}]
        _, of_target = answer(
            running, SHOWN if srgb_for_model else PLAIN, prompts=None, targets=target
        )
        assert of_target == pytest.approx(1, abs=1e-4)


def test_the_model_gets_stored_colours_while_overlays_are_srgb() -> None:
    rules = PictureRules(10_000, srgb_for_model=False)
    own = InputRules((80, 60), (20, 20), "squash", "bicubic")
    decoded = decode_picture(SWAPPED, rules, own, None, 80)
    assert decoded.prepared is not None
    assert decoded.canvas is not None
    np.testing.assert_array_equal(decoded.prepared.pixels, np.asarray(STORED))
    blue = np.asarray(decoded.canvas)[..., 0].astype(int)
    assert np.abs(blue - np.asarray(STORED)[..., 2]).max() <= 2


LARGE = decode(EXAMPLES / "cat.jpg").resize((1804, 1200), Image.Resampling.LANCZOS)
FAST = PictureRules(64_000_000, decoding="fast")
EXACT = PictureRules(64_000_000, decoding="exact")


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(LARGE, "JPEG", exif=exif, quality=95)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("fit", ["squash", "pad", "native"])
def test_a_picture_decoded_smaller_is_nearly_the_whole_one(orientation: int, fit: Fit) -> None:
    own = InputRules(112, (16, 16), fit, "bicubic")
    fast, exact = (
        decode_picture(turned(orientation), each, own, None, 300) for each in (FAST, EXACT)
    )
    assert fast.geometry == exact.geometry
    assert fast.geometry.image_size == ((1200, 1804) if orientation in (6, 8) else (1804, 1200))
    for one, other, within in (
        (fast.prepared and fast.prepared.pixels, exact.prepared and exact.prepared.pixels, 1.5),
        (fast.canvas, exact.canvas, 2.5),
    ):
        difference = np.asarray(one, float) - np.asarray(other, float)
        assert 0 < np.abs(difference).mean() < within


def test_the_model_s_input_does_not_depend_on_the_overlay() -> None:
    own = InputRules(112, (16, 16), "squash", "bicubic")
    found = [
        decode_picture(turned(6), FAST, own, None, max_side) for max_side in (None, 64, 700, 2000)
    ]
    for each in found:
        assert each.prepared is not None
        assert found[0].prepared is not None
        np.testing.assert_array_equal(each.prepared.pixels, found[0].prepared.pixels)
    assert [each.canvas and each.canvas.size for each in found] == [
        None, (43, 64), (466, 700), (1200, 1804),
    ]  # fmt: skip


def test_an_overlay_of_the_whole_size_shows_the_whole_picture() -> None:
    own = InputRules(112, (16, 16), "squash", "bicubic")
    data = turned(1)
    decoded = decode_picture(data, FAST, own, None, 4000)
    assert decoded.canvas is not None
    np.testing.assert_array_equal(np.asarray(decoded.canvas), np.asarray(decode(data)))


def test_exact_decoding_is_that_of_the_engine() -> None:
    data = turned(8)
    own = InputRules(112, (16, 16), "squash", "bicubic")
    decoded = decode_picture(data, EXACT, own, None, None)
    assert decoded.prepared is not None
    np.testing.assert_array_equal(decoded.prepared.pixels, own.prepare(decode(data)).pixels)


def test_single_pixels_are_taken_from_the_whole_picture() -> None:
    own = InputRules(112, (16, 16), "squash", "nearest")
    data = turned(1)
    decoded = decode_picture(data, FAST, own, None, None)
    assert decoded.prepared is not None
    np.testing.assert_array_equal(decoded.prepared.pixels, own.prepare(decode(data)).pixels)


def test_the_limit_of_pixels_is_that_of_the_whole_picture() -> None:
    own = InputRules(112, (16, 16), "squash", "bicubic")
    with pytest.raises(ImageTooLargeError, match="1804 x 1200"):
        decode_picture(turned(1), PictureRules(1_000_000), own, None, None)


def test_the_profile_of_a_picture_decoded_smaller_is_applied() -> None:
    data = encoded(LARGE, "JPEG", icc_profile=icc_profiles.swapped(), quality=95)
    own = InputRules(112, (16, 16), "squash", "bicubic")
    fast, exact = (decode_picture(data, each, own, None, None).prepared for each in (FAST, EXACT))
    assert fast is not None
    assert exact is not None
    assert np.abs(fast.pixels.astype(float) - exact.pixels).mean() < 1.5


def test_an_impossible_input_size_is_named() -> None:
    own = InputRules(100, (16, 16), "squash", "bicubic")
    with pytest.raises(InvalidOptionError, match="multiple of the model's patch"):
        decode_picture(turned(1), FAST, own, None, None)
