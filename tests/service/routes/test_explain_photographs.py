"""Real photographs through the whole service with a full-size ViT-B/16."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from legrad_engine import Explainer
from tests.support.paths import EXAMPLES
from tests.support.pictures import base64_of, opened
from tests.support.running_app import RunningApp
from tests.support.tiny_model import FULL_SIZE, save_model

PROMPTS = ["a cat", "a rocket"]

UPRIGHT_SIZES = {
    "astronaut.jpg": (360, 512),
    "cat.jpg": (451, 300),
    "coffee-cut-out.png": (322, 280),
    "coffee.webp": (600, 400),
    "galaxies.gif": (640, 214),
    "photographer.png": (384, 384),
    "rocket.jpg": (640, 427),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), "full-size", FULL_SIZE)


@pytest.fixture(scope="module")
def serving(reference: str) -> Iterator[RunningApp]:
    with RunningApp(reference, request_timeout_seconds=120, decoding="exact") as started:
        yield started


@pytest.fixture(scope="module")
def explainer(serving: RunningApp) -> Explainer:
    return serving.model.explainer


def explained(serving: RunningApp, name: str, fit: str, **output: Any) -> dict[str, Any]:
    body = {
        "image": base64_of((EXAMPLES / name).read_bytes()),
        "prompts": PROMPTS,
        "options": {"fit": fit},
        "output": output,
    }
    response = serving.explain(body)
    assert response.status_code == 200, response.text
    image: dict[str, Any] = response.json()["images"][0]
    return image


@pytest.mark.parametrize("fit", ["squash", "pad", "native"])
@pytest.mark.parametrize("name", ["astronaut.jpg", "galaxies.gif"])
def test_served_maps_are_the_engines_own(
    serving: RunningApp, explainer: Explainer, name: str, fit: Any
) -> None:
    image = explained(serving, name, fit, heatmap="npy", overlay=False)
    (expected,) = explainer.explain(EXAMPLES / name, PROMPTS, fit=fit)
    assert (image["grid"]["rows"], image["grid"]["columns"]) == expected.grid
    for row, target in enumerate(image["targets"]):
        served = np.load(io.BytesIO(base64.b64decode(target["heatmap"])))
        np.testing.assert_allclose(served, expected.maps[row], rtol=1e-3, atol=1e-7)
        assert target["similarity"] == pytest.approx(float(expected.similarities[row]), abs=1e-5)


@pytest.mark.parametrize("name", UPRIGHT_SIZES)
def test_overlays_and_regions_lie_in_the_upright_original(serving: RunningApp, name: str) -> None:
    """Every region covers hot pixels of the served heatmap, which has the original's size."""
    width, height = UPRIGHT_SIZES[name]
    fit = "native" if name == "galaxies.gif" else "pad"
    image = explained(serving, name, fit, alpha=0.0, regions_threshold=0.5)
    assert image["size"] == {"width": width, "height": height}
    for target in image["targets"]:
        heatmap = np.asarray(opened(target["heatmap"])) / 255
        assert opened(target["overlay"]).size == (width, height)
        assert heatmap.shape == (height, width)
        assert target["regions"]
        inside = np.zeros(heatmap.shape, bool)
        for region in target["regions"]:
            box, peak = region["box"], region["peak_position"]
            assert 0 <= box["left"] <= peak["x"] < box["right"] <= width
            assert 0 <= box["top"] <= peak["y"] < box["bottom"] <= height
            assert heatmap[peak["y"], peak["x"]] == pytest.approx(region["peak"], abs=0.06)
            inside[box["top"] : box["bottom"], box["left"] : box["right"]] = True
        if len(target["regions"]) < 32:
            assert heatmap[~inside].max(initial=0) < 0.56
        assert sum(region["area"] for region in target["regions"]) <= 1


def test_an_overlay_is_drawn_over_the_upright_photograph(serving: RunningApp) -> None:
    """The astronaut's file is stored sideways."""
    image = explained(serving, "astronaut.jpg", "squash", alpha=0.0, heatmap="none", format="png")
    with Image.open(EXAMPLES / "astronaut.jpg") as stored:
        assert stored.size == (512, 360)
        upright = np.asarray(stored.convert("RGB").transpose(Image.Transpose.ROTATE_270))
    drawn = np.asarray(opened(image["targets"][0]["overlay"]))
    assert np.array_equal(drawn, upright)


def test_a_smaller_drawing_keeps_the_shape_and_regions_keep_the_scale(serving: RunningApp) -> None:
    full = explained(serving, "galaxies.gif", "native")
    small = explained(serving, "galaxies.gif", "native", max_side=64)
    for large_target, small_target in zip(full["targets"], small["targets"], strict=True):
        assert opened(small_target["overlay"]).size == (64, 21)
        assert small_target["regions"] == large_target["regions"]
