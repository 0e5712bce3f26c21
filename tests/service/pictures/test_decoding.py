"""Colours of pictures with an ICC profile: overlays are sRGB, and the model's are a setting."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from legrad_engine.images.decoding import decode
from service.pictures.decoding import decode_versions
from service.settings.values import PictureRules
from tests.support import icc_profiles
from tests.support.pictures import data_url, encoded, opened, picture
from tests.support.running_app import RunningApp

STORED = picture(80, 60)
# Shown to people, red and blue change places.
SWAPPED = encoded(STORED, icc_profile=icc_profiles.swapped())
PLAIN = encoded(STORED)
SHOWN = encoded(decode(SWAPPED))


def answer(running: RunningApp, image: bytes, **question: Any) -> tuple[np.ndarray, float]:
    """Return the overlay, nearly transparent, and the similarity of an answer."""
    body = {"image": data_url(image), "prompts": ["a cat"], "output": {"alpha": 0.0}, **question}
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


def test_a_picture_is_converted_once_for_both() -> None:
    versions = decode_versions(SWAPPED, PictureRules(10_000))
    assert versions.for_model is versions.for_overlay
    versions = decode_versions(PLAIN, PictureRules(10_000, srgb_for_model=False))
    assert versions.for_model is versions.for_overlay
    versions = decode_versions(SWAPPED, PictureRules(10_000, srgb_for_model=False))
    np.testing.assert_array_equal(np.asarray(versions.for_model), np.asarray(STORED))
    assert isinstance(versions.for_overlay, Image.Image)
    assert np.abs(np.asarray(versions.for_overlay)[..., 0].astype(int)
                  - np.asarray(STORED)[..., 2]).max() <= 2  # fmt: skip
