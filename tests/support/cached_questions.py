"""Requests that are sent twice, and the work that each costs."""

import base64
import io
from typing import Any

import numpy as np
import pytest

from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_app import RunningApp, samples

MODEL = "tiny-tiny"


class Counted:
    """The work of an application since this object was made, from the application's metrics."""

    _SAMPLES = {  # noqa: RUF012
        "decodes": f'legrad_compute_seconds_count{{model="{MODEL}",stage="decode"}}',
        "batches forward": f'legrad_compute_seconds_count{{model="{MODEL}",stage="forward"}}',
        "misses": 'legrad_cache_misses_total{cache="traces"}',
        "hits": 'legrad_cache_hits_total{cache="traces"}',
    }

    def __init__(self, running: RunningApp) -> None:
        self._running = running
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        found = samples(self._running.client.get("/metrics").text)
        return {name: found[sample] for name, sample in self._SAMPLES.items()}

    @property
    def work(self) -> dict[str, float]:
        now = self._now()
        return {name: now[name] - self._before[name] for name in now}


def image_url(seed: int, width: int = 80, height: int = 60) -> str:
    return data_url(encoded(picture(width, height, seed=seed)))


def body_of(seed: int, prompts: list[str] | None = None, **options: Any) -> dict[str, Any]:
    """Return a request that is answered without drawings."""
    return request_of(
        image=image_url(seed),
        prompts=prompts or ["a cat"],
        options=options,
        output={"heatmap": "npy", "overlay": False},
    )


def maps_of(image: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.stack(
        [np.load(io.BytesIO(base64.b64decode(each["heatmap"]))) for each in image["targets"]]
    )


def assert_same(image: dict[str, Any], expected: dict[str, Any]) -> None:
    np.testing.assert_allclose(maps_of(image), maps_of(expected), rtol=1e-5, atol=1e-9)
    for one, other in zip(image["targets"], expected["targets"], strict=True):
        assert one["prompt"] == other["prompt"]
        assert one["similarity"] == pytest.approx(other["similarity"], abs=1e-6)
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)
    for field in ("size", "input_size", "grid"):
        assert image[field] == expected[field]


def answer_to(running: RunningApp, body: dict[str, Any]) -> dict[str, Any]:
    response = running.explain(body)
    assert response.status_code == 200, response.text
    image: dict[str, Any] = response.json()["images"][0]
    return image
