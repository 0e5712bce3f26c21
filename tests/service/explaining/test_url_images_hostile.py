"""Picture sites whose answers are slow, broken or too large.

The caller gets the right problem in time, no connection or task is left, and the
next good request is answered.
"""

import gzip
import socket
import time

import pytest
import trustme

from tests.support.fetching_app import PICTURE, FetchingApp, refused
from tests.support.hostile_sites import CHUNKED, SHORT, UNREACHABLE, secure
from tests.support.picture_sites import Script, answer, is_silent, sends, sends_forever
from tests.support.pictures import bomb

SINGLE_BYTES = b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
TOO_LARGE = (413, "url-too-large")
REFUSED = (422, "url-refused")


def announces(length: int) -> Script:
    """Announce a length, and send no byte of the body."""

    def script(connection: socket.socket) -> None:
        connection.sendall(answer(length=length))
        is_silent(connection)

    return script


def breaks_tls(connection: socket.socket) -> None:
    """Begin a good answer, and continue with bytes that are no TLS."""
    connection.sendall(answer(length=5000))
    with socket.socket(fileno=connection.detach()) as bare:
        bare.sendall(b"this is no record" * 99)


def resets(connection: socket.socket) -> None:
    connection.sendall(SHORT)
    linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(is_silent, id="silence"),
        pytest.param(sends_forever(OK + b"X: ", b"x", 0.05), id="slow head"),
        pytest.param(sends_forever(answer(length=200_000), b"x", 0.05), id="slow body"),
        pytest.param(sends_forever(CHUNKED, b"1\r\nx\r\n", 0.05), id="slow chunks"),
        pytest.param(sends_forever(CHUNKED + b"1;", b"x", 0.05), id="slow chunk size"),
        pytest.param(announces(200_000), id="no body"),
    ],
)
def test_a_server_that_takes_its_time_runs_out_of_it(
    impatient: FetchingApp, script: Script
) -> None:
    with impatient.site(script) as (url, _):
        began = time.monotonic()
        refused(impatient.explain_url(url), 504, "url-timeout")
        assert 2 <= time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(sends(), UNREACHABLE, id="nothing"),
        pytest.param(sends(b"\x16\x03\x01\x02\x00\r\n\r\n"), UNREACHABLE, id="garbage"),
        pytest.param(sends(PICTURE), UNREACHABLE, id="no head"),
        pytest.param(sends(b"HTTP/1.1 2000 OK\r\n\r\n"), UNREACHABLE, id="bad status"),
        pytest.param(sends(answer(X="x" * 200_000)), UNREACHABLE, id="huge header"),
        pytest.param(sends_forever(OK + b"X: ", b"x" * 999), UNREACHABLE, id="endless header"),
        pytest.param(sends_forever(OK, b"X: x\r\n"), UNREACHABLE, id="endless headers"),
        pytest.param(
            sends_forever(b"", b"HTTP/1.1 100 C\r\n\r\n"), UNREACHABLE, id="endless heads"
        ),
        pytest.param(sends(answer(PICTURE, Content_Length="5")), UNREACHABLE, id="two lengths"),
        pytest.param(sends(answer(length=-5)), UNREACHABLE, id="bad length"),
        pytest.param(sends(answer(length=10**30)), UNREACHABLE, id="odd length"),
        pytest.param(sends(SHORT), UNREACHABLE, id="closed early"),
        pytest.param(resets, UNREACHABLE, id="reset"),
        pytest.param(sends(CHUNKED + b"ff\r\nabc"), UNREACHABLE, id="open chunk"),
        pytest.param(sends(CHUNKED + b"zz\r\nabc"), UNREACHABLE, id="bad chunk"),
        pytest.param(
            sends_forever(CHUNKED + b"1;", b"x" * 999), UNREACHABLE, id="endless chunk size"
        ),
        pytest.param(sends(CHUNKED, SINGLE_BYTES), UNREACHABLE, id="single bytes"),
        pytest.param(sends(answer(PICTURE, Content_Encoding="gzip")), UNREACHABLE, id="compressed"),
        pytest.param(sends(answer(PICTURE, Transfer_Encoding="gzip")), UNREACHABLE, id="transfer"),
        pytest.param(sends(answer(status="204 None", length=-1)), UNREACHABLE, id="no content"),
        pytest.param(sends(answer(PICTURE, status="206 Part")), UNREACHABLE, id="a part"),
        pytest.param(
            sends(answer(status="101 Other", length=-1)), UNREACHABLE, id="other protocol"
        ),
        pytest.param(sends(answer(PICTURE, status="304 Same")), UNREACHABLE, id="not modified"),
        pytest.param(sends(answer(PICTURE, status="500 Oh")), UNREACHABLE, id="a failure"),
        pytest.param(sends(answer(PICTURE, status="401 No")), REFUSED, id="a refusal"),
        pytest.param(sends(answer(PICTURE, status="404 No")), REFUSED, id="not there"),
        pytest.param(sends_forever(answer(length=-1), b"x" * 9999), TOO_LARGE, id="endless body"),
        pytest.param(
            sends_forever(CHUNKED, b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
            TOO_LARGE,
            id="endless chunks",
        ),
        pytest.param(sends(answer(b"x" * 300_001)), TOO_LARGE, id="one byte too many"),
        pytest.param(announces(10**12), TOO_LARGE, id="large by its own account"),
    ],
)
def test_an_answer_that_is_no_good_is_a_problem_at_once(
    fetching: FetchingApp, script: Script, expected: tuple[int, str]
) -> None:
    with fetching.site(script) as (url, _):
        refused(fetching.explain_url(url), *expected)


def test_as_many_bytes_as_allowed_are_read(fetching: FetchingApp) -> None:
    with fetching.site(sends(answer(b"x" * 300_000))) as (url, _):
        refused(fetching.explain_url(url), 422, "image-decode-failed", "image")


def test_the_pictures_of_a_request_share_their_limit(fetching: FetchingApp) -> None:
    half = answer(PICTURE + b"\0" * 160_000)
    with fetching.site(sends(half)) as (url, _):
        assert fetching.explain_url(url).status_code == 200
        images = [{"url": f"{url}/{number}"} for number in range(2)]
        response = fetching.explain({"images": images, "prompts": ["a cat"]})
        assert response.json()["field"] in ("images.0.url", "images.1.url")
        refused(response, 413, "url-too-large", response.json()["field"])
        same = {"images": [{"url": url}] * 4, "prompts": ["a cat"]}
        assert fetching.explain(same).status_code == 200


def test_a_shorter_length_than_sent_cuts_the_picture(fetching: FetchingApp) -> None:
    with fetching.site(sends(answer(PICTURE, length=len(PICTURE) - 40))) as (url, _):
        refused(fetching.explain_url(url), 422, "image-decode-failed", "image")


@pytest.mark.parametrize(
    ("body", "headers", "status", "error", "field"),
    [
        (gzip.compress(bytes(10**8)), {}, 422, "image-decode-failed", "image"),
        (gzip.compress(bytes(10**8)), {"Content_Encoding": "gzip"}, *UNREACHABLE, "image.url"),
        (gzip.compress(bytes(10**8)), {"Content_Encoding": "x, br"}, *UNREACHABLE, "image.url"),
        (bomb(), {"Content_Type": "image/png"}, 413, "image-too-large", "image"),
        (b"", {}, 422, "image-decode-failed", "image"),
    ],
    ids=["gzip", "gzip by header", "others by header", "pixels", "empty"],
)
def test_a_bomb_is_not_unpacked(
    fetching: FetchingApp, body: bytes, headers: dict[str, str], status: int, error: str, field: str
) -> None:
    with fetching.site(sends(answer(body, "200 OK", None, **headers))) as (url, _):
        refused(fetching.explain_url(url), status, error, field)


def test_a_refused_connection_is_a_problem(fetching: FetchingApp) -> None:
    fetching.network.hosts["closed.example"] = ["8.8.8.8", "2606:4700::9"]
    refused(fetching.explain_url("http://closed.example/"), *UNREACHABLE)


def test_a_connection_that_leaves_tls_is_a_problem(
    fetching: FetchingApp, authority: trustme.CA
) -> None:
    with fetching.site(breaks_tls, **secure(authority)) as (url, _):
        refused(fetching.explain_url(url), *UNREACHABLE)


def test_a_handshake_that_never_comes_runs_out_of_time(
    impatient: FetchingApp, authority: trustme.CA
) -> None:
    with impatient.site(is_silent, **secure(authority) | {"tls": None}) as (url, _):
        refused(impatient.explain_url(url), 504, "url-timeout")
