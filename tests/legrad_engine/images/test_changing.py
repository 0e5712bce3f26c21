"""Changed regions of model inputs."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.change_kinds import Change
from legrad_engine.images.changing import change_regions
from legrad_engine.images.inputs import InputRules, PreparedImage
from tests.support.pictures import picture


def prepared(fit: str = "squash") -> PreparedImage:
    rules = InputRules(64, (16, 16), fit, "bicubic")  # type: ignore[arg-type]
    return rules.prepare(picture(160, 80, seed=4).convert("RGB"))


@pytest.mark.parametrize("change", ["blur", "mean"])
@pytest.mark.parametrize("fit", ["squash", "pad", "native"])
def test_only_the_regions_change(change: Change, fit: str) -> None:
    before = prepared(fit)
    changed = change_regions(before, [(0, 0, 40, 40), (80, 40, 160, 80)], change)
    height, width = before.pixels.shape[:2]
    inside = np.zeros((height, width), bool)
    inside[: height // 2, : width // 4] = True
    inside[height // 2 :, width // 2 :] = True
    assert changed.geometry == before.geometry
    assert (changed.pixels[~inside] == before.pixels[~inside]).all()
    assert (changed.pixels[inside] != before.pixels[inside]).mean() > 0.5


def test_the_mean_is_that_of_the_whole_picture() -> None:
    before = prepared()
    changed = change_regions(before, [(0, 0, 40, 40)], "mean").pixels
    assert (changed[:32, :16] == before.pixels.mean((0, 1)).round()).all()


def test_a_blur_leaves_no_detail() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    rules = InputRules(64, (16, 16), "squash", "bicubic")
    before = rules.prepare(Image.fromarray(noise))
    changed = change_regions(before, [(0, 0, 64, 64)], "blur").pixels
    assert changed.std() < before.pixels.std() / 5


def test_the_input_itself_is_left_alone() -> None:
    before = prepared()
    kept = before.pixels.copy()
    change_regions(before, [(0, 0, 160, 80)], "mean")
    assert (before.pixels == kept).all()


def test_an_input_that_is_normalised_already_is_refused() -> None:
    normalised = PreparedImage(np.zeros((3, 64, 64), np.float32), prepared().geometry)
    with pytest.raises(InvalidOptionError, match="normalised"):
        change_regions(normalised, [(0, 0, 40, 40)], "mean")


@pytest.mark.parametrize("change", ["BLUR", "black", None])
def test_an_unknown_change_is_refused(change: Any) -> None:
    with pytest.raises(InvalidOptionError, match="use one of blur, mean") as refusal:
        change_regions(prepared(), [(0, 0, 40, 40)], change)
    assert refusal.value.field == "change"
