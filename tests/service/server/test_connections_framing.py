"""Unusual ways to send a body or to offer another protocol."""

import json

import pytest

from tests.support.pictures import request_of
from tests.support.raw_connections import closed, connect, is_closed
from tests.support.raw_requests import HEAD
from tests.support.running_app import RunningApp


def test_a_body_in_tiny_chunks_is_read(running: RunningApp) -> None:
    content = json.dumps(request_of(output={"heatmap": "none", "overlay": False})).encode()
    content += b" " * 200_000
    with connect(running) as connection:
        connection.sendall(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"".join(b"1\r\n%c\r\n" % each for each in content) + b"0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "in-parts"])
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with-length"])
def test_a_request_that_offers_another_protocol_keeps_its_body(
    running: RunningApp, at_once: bool, chunked: bool
) -> None:
    content = json.dumps(request_of(output={"heatmap": "none", "overlay": False})).encode()
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    framing, body = b"Content-Length: %d\r\n\r\n" % len(content), content
    if chunked:
        framing = b"Transfer-Encoding: chunked\r\n\r\n"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    following = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with connect(running) as connection:
        connection.sendall(HEAD + offer + framing + (body + following if at_once else b""))
        if not at_once:
            connection.sendall(body[:10])
            connection.sendall(body[10:] + following)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"similarity"' in answer
    assert answer.endswith(b'{"status":"alive"}')


def test_offers_of_another_protocol_without_end_are_given_up(running: RunningApp) -> None:
    offer = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    before = closed(running, "too-many")
    with connect(running) as connection:
        connection.sendall(offer * 2000)
        assert is_closed(connection)
    assert closed(running, "too-many") == before + 1


def test_a_length_with_many_zeros_is_a_length(running: RunningApp) -> None:
    content = json.dumps(request_of(output={"heatmap": "none", "overlay": False})).encode()
    with connect(running) as connection:
        length = b"Connection: close\r\nContent-Length: " + b"0" * 5000 + b"%d\r\n\r\n"
        connection.sendall(HEAD + length % len(content) + content)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
