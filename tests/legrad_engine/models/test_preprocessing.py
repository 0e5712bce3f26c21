"""Preprocessing as configs describe it."""

from typing import Any

import pytest

from legrad_engine.errors import ModelLoadError
from legrad_engine.models.preprocessing import Preprocessing

NUMBERS: dict[str, Any] = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def read(**settings: Any) -> Preprocessing:
    return Preprocessing.of({**NUMBERS, **settings}, source="a test")


def test_a_config_of_numbers_alone_is_bicubic_and_padded_with_the_mean_colour() -> None:
    assert read() == Preprocessing(
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        interpolation="bicubic",
        resize_mode=None,
        fill_color=None,
        source="a test",
    )


@pytest.mark.parametrize(
    ("settings", "color"),
    [
        ({"resize_mode": "longest"}, (0, 0, 0)),
        ({"resize_mode": "longest", "fill_color": 127}, (127, 127, 127)),
        ({"resize_mode": "squash"}, None),
        ({"fill_color": 0}, (0, 0, 0)),
        ({"fill_color": [1, 2, 3]}, (1, 2, 3)),
    ],
    ids=str,
)
def test_the_colour_of_padding_is_the_config_s(
    settings: dict[str, Any], color: tuple[int, int, int] | None
) -> None:
    assert read(**settings).fill_color == color


def test_a_filter_drawn_at_random_in_training_is_bicubic() -> None:
    assert read(interpolation="random").interpolation == "bicubic"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mean": None}, "three numbers"),
        ({"mean": [0.1, 0.2]}, "three numbers"),
        ({"mean": "0.1"}, "three numbers"),
        ({"mean": [0.1, 0.2, float("nan")]}, "three numbers"),
        ({"std": [0.1, 0.2, 0.0]}, "no std of 0"),
        ({"interpolation": "cubic"}, "bilinear"),
        ({"interpolation": 3}, "bilinear"),
        ({"resize_mode": "crop"}, "shortest, squash, longest"),
        ({"fill_color": 256}, "0 to 255"),
        ({"fill_color": "black"}, "0 to 255"),
    ],
    ids=str,
)
def test_a_value_outside_its_range_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelLoadError, match=says) as refusal:
        read(**settings)
    assert refusal.value.field == "model"
