"""Base64 and data URLs in every spelling that clients use, in all picture fields."""

import base64
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legrad_engine.errors import ImageDecodeError
from legrad_engine.targets import EmbeddingTarget as EngineTarget
from service.routes.bodies.base64_text import decode_base64, decode_strictly
from service.routes.bodies.reading import image_bytes
from service.routes.bodies.targets import read_question
from service.schemas.base import EncodedImage
from service.schemas.targets import EmbeddingTarget, EncodedEmbedding
from tests.support.pictures import base64_of, request_of
from tests.support.running_app import RunningApp

# Every remainder of the length, and the characters in which the alphabets differ.
CONTENTS = [b"\xfb\xff\xfe", b"\xfb\xff\xfe\xfb", b"\xfb\xff\xfe\xfb\xef", bytes(range(256))]


@pytest.mark.parametrize("content", CONTENTS, ids=len)
@pytest.mark.parametrize("prefix", [
    "", "data:image/png;base64,", "DATA:image/png;BASE64,", "Data:Image/PNG;Base64,",
    "data:;base64,", "data:image/png;name=a.png;charset=utf-8;base64,", "data:image/png; base64,",
    "\n data:image/jpeg;base64, ",
])  # fmt: skip
def test_every_spelling_is_the_same_picture(content: bytes, prefix: str) -> None:
    usual = base64_of(content)
    for_urls = base64.urlsafe_b64encode(content).decode()
    lines = "\r\n".join(usual[start : start + 3] for start in range(0, len(usual), 3))
    for text in (usual, for_urls, usual.rstrip("="), for_urls.rstrip("="), f" {lines}\n"):
        assert image_bytes(prefix + text, "image") == content
        assert image_bytes(EncodedImage(b64=prefix + text), "image") == content


def test_escapes_of_a_data_url_are_decoded() -> None:
    content = CONTENTS[1]
    escaped = base64_of(content).replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
    assert image_bytes(f"data:image/png;base64,{escaped}", "image") == content


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("AAAAA", "not valid base64"),
        ("AA=A", "not valid base64"),
        ("picture.png", "not its name"),
        ("AAAA%41%41", "not valid base64"),
        ("data:image/png;base64,pic.png", "not valid base64"),
        ("DATA:image/png,AAAA", "The data URL is not base64"),
        ("data:image/png;base64", "The data URL is not base64"),
        ("HTTPS://example.org/cat.png", '{"url"'),
    ],
)
def test_other_text_is_refused(text: str, mention: str) -> None:
    with pytest.raises(ImageDecodeError, match=mention) as caught:
        image_bytes(text, "images.1")
    assert caught.value.field == "images.1"


def test_embeddings_may_be_unpadded_too() -> None:
    # The bytes of these values need the characters in which the alphabets differ.
    vector = np.frombuffer(b"\xfb\xff\xfe\x3f" * 4, "<f4")
    text = base64.urlsafe_b64encode(vector.tobytes()).decode().rstrip("=")
    assert "-" in text or "_" in text
    target = EmbeddingTarget(type="embedding", embedding=EncodedEmbedding(b64=text))
    (read,) = read_question((), (target,), None, image_bytes).targets
    assert isinstance(read, EngineTarget)
    np.testing.assert_array_equal(np.asarray(read.embedding), vector)


def test_a_server_takes_what_a_browser_or_a_library_sends(running: RunningApp) -> None:
    plain = request_of()["image"].partition(",")[2]
    for_urls = plain.replace("+", "-").replace("/", "_").rstrip("=")
    expected = running.explain(request_of()).json()
    for image in (f"DATA:image/png;BASE64,{plain}", for_urls, {"b64": for_urls}):
        answer = running.explain(request_of(image=image))
        assert answer.status_code == 200, answer.text
        assert answer.json()["images"][0]["targets"] == expected["images"][0]["targets"]


def outcome(decode: Callable[[bytes], bytes], text: bytes) -> bytes | str:
    try:
        return decode(text)
    except ValueError as error:
        return str(error)


# Few characters, so that padding in all places and almost valid texts are frequent.
@given(st.text("AQ/+-_=\n ", max_size=12).map(str.encode))
@settings(max_examples=500)
def test_exactly_the_same_is_accepted_and_refused_as_by_the_standard_library(text: bytes) -> None:
    def strictly(encoded: bytes) -> bytes:
        return base64.b64decode(encoded, validate=True)

    def tolerantly(encoded: bytes) -> bytes:
        encoded = b"".join(encoded.split()).replace(b"-", b"+").replace(b"_", b"/")
        return strictly(encoded if encoded.endswith(b"=") else _padded(encoded))

    assert outcome(decode_strictly, text) == outcome(strictly, text)
    assert outcome(decode_base64, text) == outcome(tolerantly, text)


def _padded(encoded: bytes) -> bytes:
    return encoded + b"=" * (-len(encoded) % 4)
