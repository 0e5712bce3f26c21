"""Helpers for the tests of all protocols."""

import base64
import io
from typing import Any

import numpy as np
from httpx import Response
from numpy.typing import NDArray

from tests.support.answers import check_against_contract
from tests.support.pictures import data_url
from tests.support.running_app import RunningApp

RAW_MAPS = {"heatmap": "npy", "overlay": False, "regions_threshold": None}


def map_of(target: dict[str, Any]) -> NDArray[np.float32]:
    """Return the raw patch grid in a target's answer."""
    array: NDArray[np.float32] = np.load(io.BytesIO(base64.b64decode(target["heatmap"])))
    return array


def explained(
    running: RunningApp, images: list[bytes], prompts: list[str], **options: Any
) -> list[dict[str, Any]]:
    """Return the answer of `/explain` about the pictures, uncached and with raw maps."""
    body = {
        "images": [data_url(image) for image in images],
        "prompts": prompts,
        "options": {"cache": False, **options},
        "output": RAW_MAPS,
    }
    response = running.explain(body)
    assert response.status_code == 200, response.text
    answer: list[dict[str, Any]] = response.json()["images"]
    return answer


def refused_as_kserve_does(response: Response, status: int, code: str, field: str | None) -> str:
    """Check that an answer is an error in KServe's form; return its message."""
    assert response.status_code == status, response.text
    # KServe's client accepts no other content type.
    assert response.headers["content-type"] == "application/json"
    error = response.json()
    check_against_contract(error, "ProtocolError")
    assert (error["code"], error.get("field")) == (code, field), error
    assert error["request_id"] == response.headers["x-request-id"]
    assert len(response.content) < 4000
    message: str = error["error"]
    return message
