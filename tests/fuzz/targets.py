"""Fuzz targets: each takes any bytes and raises on a behaviour that no caller may see."""

import asyncio
import resource
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from fastapi import Request

from legrad_engine.errors import LegradError
from legrad_engine.images.decoding import decode
from service.app import create_app
from service.http.problems import INTERNAL_ERROR, describe
from service.routes.bodies.reading import JSON, MULTIPART, image_bytes, read_request
from service.settings import Settings
from tests.fuzz import corpus, mutators
from tests.fuzz.mutators import Mutate

MAX_PIXELS = 250_000
# Several copies of the pixels in several modes, and the memory of a codec.
_MOST_BYTES = 100_000_000
# It is never served, so that no model is loaded.
_APPLICATION = create_app(Settings(_env_file=None, url_hosts="public"))
_loop = asyncio.new_event_loop()


@dataclass(frozen=True, slots=True)
class Target:
    """One entry point for untrusted input.

    Attributes:
        run: handles one input; raises if it has found a bug.
        seeds: valid inputs to begin with.
        mutate: changes the structure of an input; None leaves all changes to the fuzzer.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    mutate: Mutate | None = None


def decode_picture(data: bytes) -> None:
    """Check that a picture becomes upright RGB within the limit, or a typed error."""
    before = _peak_bytes()
    try:
        picture = decode(data, max_pixels=MAX_PIXELS)
    except LegradError:
        pass
    else:
        assert picture.mode == "RGB"
        assert 0 < picture.width * picture.height <= MAX_PIXELS
    assert _peak_bytes() - before < _MOST_BYTES, "more memory than the limit of pixels needs"


def read_text(data: bytes) -> None:
    """Check that base64 or a data URL becomes bytes, or a typed error."""
    with suppress(LegradError):
        image_bytes(data.decode("utf-8", "replace"), "image")


def read_json(data: bytes) -> None:
    """Check that a JSON body becomes a request, or a problem with a status below 500."""
    _read(JSON, data)


def read_multipart(data: bytes) -> None:
    """Check that a multipart body becomes a request, or a problem with a status below 500."""
    parameters, _, body = data.partition(b"\n")
    _read(f"{MULTIPART}; {parameters.decode('latin-1')}", body)


def _read(content_type: str, body: bytes) -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", content_type.encode("latin-1"))]
    scope = {"type": "http", "method": "POST", "headers": headers, "app": _APPLICATION}
    request = Request(scope, receive)
    try:
        _loop.run_until_complete(read_request(request))
    except Exception as error:
        problem = describe(error)
        if problem is None or problem.status >= INTERNAL_ERROR.status:
            raise


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


TARGETS = {
    "decode": Target(decode_picture, corpus.pictures),
    "avif": Target(decode_picture, corpus.of_kinds("AVIF"), mutators.avif),
    "gif": Target(decode_picture, corpus.of_kinds("GIF"), mutators.gif),
    "tiff": Target(decode_picture, corpus.of_kinds("TIFF"), mutators.tiff),
    "bmp": Target(decode_picture, corpus.of_kinds("BMP"), mutators.bmp),
    "text": Target(read_text, corpus.texts),
    "json": Target(read_json, corpus.json_bodies),
    "multipart": Target(read_multipart, corpus.multipart_bodies),
}
