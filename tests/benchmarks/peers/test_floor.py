"""The floor answers the outputs that it is measured with."""

import asyncio
import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import workload
from benchmarks.load import multipart_request
from benchmarks.peers.floor import Floor


def answer(size: tuple[int, int], **output: object) -> list[dict[str, Any]]:
    """Ask for two prompts; return the answer's targets."""
    options = {
        "heatmap": "none",
        "overlay": False,
        "regions_threshold": None,
        "max_side": 1024,
        "quality": 85,
    } | output
    request = multipart_request(workload.jpeg(*size, 0), ["a", "b"], json.dumps(options))
    head, _, body = request.partition(b"\r\n\r\n")
    (content_type,) = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Type")]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", content_type.partition(b": ")[2])],
    }
    asyncio.run(Floor()(scope, receive, send))
    assert sent[0]["status"] == 200
    (image,) = json.loads(sent[1]["body"])["images"]
    targets: list[dict[str, Any]] = image["targets"]
    return targets


def picture(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_numbers_alone_draw_nothing() -> None:
    found = answer((256, 256), regions_threshold=0.5)
    assert [each["target"] for each in found] == ["a", "b"]
    assert all(each["regions"] and not {"heatmap", "overlay"} & set(each) for each in found)


@pytest.mark.parametrize(("size", "drawn"), [((1600, 1200), (1024, 768)), ((300, 200), (300, 200))])
@pytest.mark.parametrize("format", ["jpeg", "webp", "png"])
def test_overlays_and_heatmaps_have_the_size_and_format_of_the_service(
    size: tuple[int, int], drawn: tuple[int, int], format: str
) -> None:
    for target in answer(size, heatmap="png", overlay=True, format=format):
        overlay, heatmap = picture(target["overlay"]), picture(target["heatmap"])
        assert (overlay.format, overlay.mode, overlay.size) == (format.upper(), "RGB", drawn)
        assert (heatmap.format, heatmap.mode, heatmap.size) == ("PNG", "L", drawn)


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_overlays_have_the_quality_that_is_asked_for(format: str) -> None:
    coarse, fine = (
        len(answer((300, 200), overlay=True, format=format, quality=quality)[0]["overlay"])
        for quality in (30, 95)
    )
    assert coarse < fine / 2


def test_overlays_show_the_picture_where_the_map_is_low() -> None:
    (target, _) = answer((300, 200), heatmap="png", overlay=True, format="png")
    levels = np.asarray(picture(target["heatmap"]), int)
    whole = Image.open(io.BytesIO(workload.jpeg(300, 200, 0))).convert("RGB")
    changes = np.abs(np.asarray(picture(target["overlay"]), int) - np.asarray(whole, int))
    assert changes[levels < 3].max() <= 3
    assert changes[levels > 200].mean() > 20
