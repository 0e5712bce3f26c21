"""Answers as dataclasses: newer servers may add members, and everything else is checked."""

import base64
import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from legrad_client.parsing import JSON_NAME, parse
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Part:
    number: int
    share: float = field(metadata={JSON_NAME: "percentage"})


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    name: str | None
    since: datetime | None


WHOLE: dict[str, Any] = {
    "parts": [{"number": 1, "percentage": 2}],
    "name": None,
    "since": "2026-01-02T03:04:05Z",
    "added-by-a-newer-server": [1],
}


def test_objects_become_dataclasses() -> None:
    expected = Whole((Part(1, 2.0),), None, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert parse(Whole, WHOLE) == expected


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"parts": None}, TypeError),
        ({"parts": [{"number": 1}]}, KeyError),
        ({"parts": [{"number": True, "percentage": 2}]}, TypeError),
        ({"parts": [{"number": 1.5, "percentage": 2}]}, TypeError),
        ({"parts": [{"number": 1, "percentage": "2"}]}, TypeError),
        ({"name": 5}, TypeError),
        ({"since": "yesterday"}, ValueError),
    ],
)
def test_values_of_another_type_are_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        parse(Whole, {**WHOLE, **change})


def test_arrays_and_images_are_read_from_base64() -> None:
    written = io.BytesIO()
    np.save(written, np.eye(2, dtype=np.float32))
    array = parse(NDArray[np.float32], base64.b64encode(written.getvalue()).decode())
    np.testing.assert_array_equal(array, np.eye(2))
    drawn = io.BytesIO()
    Image.new("RGB", (3, 2)).save(drawn, "PNG")
    assert parse(Image.Image, base64.b64encode(drawn.getvalue()).decode()).size == (3, 2)
    for kind in (NDArray[np.float32], Image.Image):
        with pytest.raises((ValueError, OSError)):
            parse(kind, base64.b64encode(b"neither").decode())
