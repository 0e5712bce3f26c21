"""Multipart bodies are split as RFC 2046 says, in a time linear in their bytes."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import MalformedBodyError
from service.routes.bodies.multipart import FormRules, read_form
from service.routes.bodies.splitting import read_head, split_parts

RULES = FormRules(("image",), ("prompts",), most_pictures=4, most_texts=8, text_bytes=1_000_000)
NAMED = b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
LARGE = 30_000_000


def contents(body: bytes, boundary: bytes = b"x") -> list[bytes]:
    return [body[part.start : part.stop] for part in split_parts(body, boundary)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"--x\r\nA: b\r\n\r\nabc\r\n--x--\r\n", [b"abc"]),
        (b"--x\r\nA: b\r\n\r\n\r\n--x--", [b""]),
        (b"--x\r\n\r\na\r\n--x\r\n\r\nb\r\n--x--", [b"a", b"b"]),
        (b"\r\n--x \t\r\n\r\na\r\n--x\t\r\n\r\nb\r\n--x--epilogue", [b"a", b"b"]),
        (b"--x\r\n\r\na\r\n--xy\r\n--x z\r\n--\r\n-\r\n--x--", [b"a\r\n--xy\r\n--x z\r\n--\r\n-"]),
        (b"--x\r\n\r\n\r\n\r\n\r\n--x--", [b"\r\n\r\n"]),
        (b"--x\r\n\r\n\n--x--\r\r\n--x--", [b"\n--x--\r"]),
        (b"--x--", []),
    ],
)
def test_a_body_is_split_at_its_delimiters(body: bytes, expected: list[bytes]) -> None:
    assert contents(body) == expected


@pytest.mark.parametrize("boundary", [b".*", b"a+(b)?", b"----WebKitFormBoundary7MA4"])
def test_a_boundary_is_no_pattern(boundary: bytes) -> None:
    body = b"--" + boundary + b"\r\n\r\nabc\r\n--" + boundary + b"--"
    assert contents(body, boundary) == [b"abc"]


@given(st.lists(st.binary(max_size=40)), st.binary(max_size=20))
def test_parts_come_back_as_they_were_sent(sent: list[bytes], epilogue: bytes) -> None:
    parts = b"".join(b"--boundary\r\nA: b\r\n\r\n" + each + b"\r\n" for each in sent)
    assert contents(parts + b"--boundary--" + epilogue, b"boundary") == sent


def test_headers_are_read_by_their_names() -> None:
    (part,) = split_parts(b"--x\r\nCONTENT-Type:  image/png \r\nb:\r\n\r\n\r\n--x--", b"x")
    assert read_head(part.head) == {b"content-type": b"image/png", b"b": b""}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"a--x\r\n", "begin with the boundary"),
        (b"--x\r\nA: b", "ends within the headers"),
        (b"--x\r\nA: b\r\n\r\nabc", "ends before its last boundary"),
        (b"--x\r\nA: " + b"b" * 5_000 + b"\r\n\r\n", "more than 4096 bytes"),
        (b"--x\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(9)) + b"\r\n", "more than 8"),
        (b"--x\r\nA: b\r\na: c\r\n\r\n", "header a twice"),
        (b"--x\r\nno header\r\n\r\n", "line that is no header"),
        (b"--x\r\n folded: b\r\n\r\n", "line that is no header"),
    ],
)
def test_a_mistake_is_named(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contents(body)


def form_of(content: bytes, boundary: bytes) -> tuple[bytes, str]:
    """A body with one picture, and its content type."""
    begin = b"--" + boundary + b"\r\n" + NAMED
    body = begin + content + b"\r\n--" + boundary + b"--\r\n"
    return body, f"multipart/form-data; boundary={boundary.decode()}"


@pytest.mark.parametrize("boundary", [b"B", b"b" * 70, b"-" * 70], ids=["B", "b70", "dashes"])
@pytest.mark.parametrize("almost", [b"\r", b"\r\n", b"\r\n-", b"\r\n--"])
def test_a_body_of_beginnings_of_boundaries_takes_a_moment(boundary: bytes, almost: bytes) -> None:
    filling = almost * (LARGE // len(almost))
    began = time.thread_time()
    form = read_form(*form_of(filling, boundary), RULES)
    assert time.thread_time() - began < 2
    assert form.pictures == [filling]


LOOK_ALIKES = [b"\r\n--%b.", b"\r\n--%b z", b"\r\n--%b-"]


@pytest.mark.parametrize("boundary", [b"B", b"b" * 70], ids=["B", "b70"])
@pytest.mark.parametrize("almost", LOOK_ALIKES)
def test_a_body_of_boundaries_that_go_on_is_refused_at_once(boundary: bytes, almost: bytes) -> None:
    filling = almost.replace(b"%b", boundary)
    body = form_of(filling * (LARGE // len(filling)), boundary)
    began = time.thread_time()
    with pytest.raises(MalformedBodyError, match="choose another boundary"):
        read_form(*body, RULES)
    assert time.thread_time() - began < 0.1


@pytest.mark.parametrize("almost", LOOK_ALIKES)
def test_some_boundaries_that_go_on_are_content(almost: bytes) -> None:
    filling = almost.replace(b"%b", b"B") * 20
    assert read_form(*form_of(filling, b"B"), RULES).pictures == [filling]


@pytest.mark.parametrize("repeated", [b"\r\n", b"--B\r\n\r\n\r\n", b"--B\r\n" + NAMED + b"\r\n"])
def test_a_body_of_nothing_but_parts_is_refused_at_once(repeated: bytes) -> None:
    began = time.thread_time()
    with pytest.raises(MalformedBodyError):
        read_form(repeated * 1_000_000, "multipart/form-data; boundary=B", RULES)
    assert time.thread_time() - began < 0.5


def test_a_part_in_base64_with_spaces_takes_a_moment() -> None:
    encoded = b"Content-Transfer-Encoding: base64\r\n" + NAMED
    body = b"--B\r\n" + encoded + b"A " * 4_000_000 + b"\r\n--B--"
    began = time.thread_time()
    form = read_form(body, "multipart/form-data; boundary=B", RULES)
    assert form.pictures == [bytes(3_000_000)]
    assert time.thread_time() - began < 0.5
