"""Multipart answers give the same results as JSON, and are read in linear time."""

import asyncio
import dataclasses
import json
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from legrad_client import AsyncLegradClient, Explanation, LegradClient
from legrad_client.multipart import content_of

from tests.support.pictures import picture
from tests.support.running_app import RunningApp

PICTURES = [picture(90, 60, seed=seed) for seed in (3, 4)]
PROMPTS = ["a cat", 'a "dog"', ""]
BOUNDARY = "b"


def response(
    body: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}"
) -> httpx.Response:
    return httpx.Response(200, content=body, headers={"Content-Type": kind})


def body_of(*parts: tuple[str, bytes]) -> bytes:
    written = b""
    for name, content in parts:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        written += head.encode() + content + b"\r\n"
    return written + f"--{BOUNDARY}--\r\n".encode()


def assert_same(found: list[Explanation], expected: list[Explanation]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [target.target for target in one] == [target.target for target in other]
        for target, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(target.map, same.map)
            assert target.encoded_overlay == same.encoded_overlay
            assert target.overlay_type == same.overlay_type == "image/jpeg"
            np.testing.assert_array_equal(np.asarray(target.overlay), np.asarray(same.overlay))
            assert target.statistics == same.statistics


@pytest.fixture
def running(tiny_model: str) -> Iterator[RunningApp]:
    # Pictures that share a batch or not, as it happens, give maps that differ in the last bits.
    with RunningApp(tiny_model, max_batch_images=1) as started:
        yield started


def test_both_clients_give_the_same_results_from_parts(running: RunningApp) -> None:
    url = f"http://{running.host}:{running.port}"
    with LegradClient(url) as plain, LegradClient(url, multipart=True) as client:
        expected = plain.explain_all(PICTURES, PROMPTS[:2])
        assert_same(client.explain_all(PICTURES, PROMPTS[:2]), expected)
        (model,) = client.models()
        assert dataclasses.replace(model, last_used=None)

    async def ask() -> list[Explanation]:
        async with AsyncLegradClient(url, multipart=True) as awaited:
            return await awaited.explain_all(PICTURES, PROMPTS[:2])

    assert_same(asyncio.run(ask()), expected)


def test_pictures_are_bytes_in_their_places() -> None:
    answer = {"images": [{"targets": [{"overlay": None}, {"overlay": None}]}]}
    overlay = b"\r\n--c\r\n\x00\r\n\r\n--"
    body = body_of(("answer", json.dumps(answer).encode()), ("images.0.targets.1.overlay", overlay))
    for kind in ("multipart/form-data; boundary=b", 'Multipart/Mixed; charset=x; boundary="b"'):
        (image,) = content_of(response(body, kind))["images"]
        assert image["targets"] == [{"overlay": None}, {"overlay": overlay}]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--\r\n",
        body_of(("other", b"{}")),
        body_of(("answer", b"{")),
        body_of(("answer", b"{}"), ("images.0.overlay", b"")),
        body_of(("answer", b'{"images": []}'), ("images.0.overlay", b"")),
        body_of(("answer", b'{"images": "text"}'), ("images.overlay.x", b"")),
        body_of(("answer", b"{}"))[:-6],
        b"before " + body_of(("answer", b"{}")),
        b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b--",
    ],
)
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        content_of(response(body))
    with pytest.raises(ValueError, match="boundary"):
        content_of(response(body, "multipart/form-data"))


@pytest.mark.parametrize("piece", [b"\r\n--", b"\r\n--b", b"\r\n", b"\n", b"-"])
def test_long_answers_are_read_in_linear_time(piece: bytes) -> None:
    body = body_of(("answer", b"{}"), ("overlay", piece * 1_000_000))
    began = time.thread_time()
    if piece.endswith(b"b"):
        with pytest.raises(ValueError, match="no name"):
            content_of(response(body))
    else:
        assert content_of(response(body))["overlay"] == piece * 1_000_000
    assert time.thread_time() - began < 2
