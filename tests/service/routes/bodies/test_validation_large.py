"""Large JSON made to be slow is read, or refused, in a moment."""

import time

import pytest
from fastapi.exceptions import RequestValidationError

from service.errors import LimitExceededError, MalformedBodyError
from service.routes.bodies.validation import validated
from service.schemas.requests import ExplainRequest

LARGE = 20_000_000
REST = b'"image":"a","prompts":["a"]'

BODIES = {
    "deep lists": b"[" * LARGE,
    "deep lists below the limit of values": b'{"image":"a","prompts":' + b"[" * 90_000,
    "deep objects": b'{"a":' * (LARGE // 5),
    "a long whole number": b'{"options":{"size":' + b"1" * LARGE + b"}}",
    "a long fraction": b"{" + REST + b',"output":{"alpha":0.' + b"1" * LARGE + b"}}",
    "a long exponent": b"{" + REST + b',"output":{"alpha":1e' + b"1" * LARGE + b"}}",
    "a million small keys": b"{" + b",".join(b'"%d":1' % n for n in range(1_000_000)) + b"}",
    # Most work of all: pydantic reports an error for each key.
    "as many small keys as values": b"{" + b",".join(b'"%d":1' % n for n in range(99_000)) + b"}",
    "long keys": b"{" + b",".join(b'"%s%d":1' % (b"x" * 300, n) for n in range(50_000)) + b"}",
    "a long key": b'{"' + b"a" * LARGE + b'":1}',
    "wrong values": b'{"image":"a","prompts":[' + b",".join([b"1"] * 99_000) + b"]}",
    "wrong targets": b'{"image":"a","targets":[' + b",".join([b'{"a":1}'] * 33_000) + b"]}",
    "escapes": b'{"image":"' + b"\\u0041" * (LARGE // 6) + b'","prompts":["a"]}',
    "spaces": b"{" + b" " * LARGE + REST + b"}",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_made_to_be_slow_is_read_in_a_moment(name: str) -> None:
    began = time.thread_time()
    try:
        validated(BODIES[name], ExplainRequest)
        wrong = False
    except (RequestValidationError, LimitExceededError, MalformedBodyError):
        wrong = True
    assert time.thread_time() - began < (8 if name == "as many small keys as values" else 2)
    assert wrong is (name not in {"a long fraction", "escapes", "spaces"})
