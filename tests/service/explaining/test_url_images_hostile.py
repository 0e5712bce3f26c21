"""Servers that would hurt the one that fetches from them, and names that lead astray.

Whatever they do, the caller gets the right problem in time, no connection or task is left, and the
next good request is answered.
"""

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import trustme

from tests.support.fetching_app import PICTURE, FetchingApp, refused, tls_for, trusting
from tests.support.picture_sites import Script, answer, is_silent, redirects, sends, sends_forever
from tests.support.pictures import bomb, data_url, encoded, picture, request_of

SHORT = answer(PICTURE, length=len(PICTURE) + 9)
CHUNKED = answer(length=-1, Transfer_Encoding="chunked")
SINGLE_BYTES = b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CANCELLED = 'legrad_url_fetches_total{outcome="cancelled"}'
UNREACHABLE = (502, "url-unreachable")
TOO_LARGE = (413, "url-too-large")
REFUSED = (422, "url-refused")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def shared(tiny_model: str, authority: trustme.CA) -> Iterator[FetchingApp]:
    with trusting(authority), FetchingApp(tiny_model, max_image_pixels=4_000_000) as started:
        yield started


@pytest.fixture
def fetching(shared: FetchingApp) -> Iterator[FetchingApp]:
    with shared.site(sends(answer(PICTURE)), "good.example", address="9.9.9.9") as (url, _):
        assert shared.explain_url(url).status_code == 200
        loop = shared.network.loop
        assert loop is not None
        before = len(asyncio.all_tasks(loop))
        yield shared
        assert shared.explain_url(url).status_code == 200
        shared.eventually(lambda: len(asyncio.all_tasks(loop)) <= before)


def announces(length: int) -> Script:
    """Claims a length, and sends nothing of it."""

    def script(connection: socket.socket) -> None:
        connection.sendall(answer(length=length))
        is_silent(connection)

    return script


def breaks_tls(connection: socket.socket) -> None:
    """Begins well, and goes on with bytes that are no TLS."""
    connection.sendall(answer(length=5000))
    with socket.socket(fileno=connection.detach()) as bare:
        bare.sendall(b"this is no record" * 99)


def secure(authority: trustme.CA) -> dict[str, Any]:
    """A place for a site behind TLS."""
    tls = tls_for(authority, "secure.example")
    return {"host": "secure.example", "address": "1.0.0.1", "port": 443, "tls": tls}


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
def test_a_server_that_takes_its_time_runs_out_of_it(fetching: FetchingApp, script: Script) -> None:
    with fetching.site(script) as (url, _):
        began = time.monotonic()
        refused(fetching.explain_url(url), 504, "url-timeout")
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
    with fetching.site(sends(answer(body, **headers))) as (url, _):
        refused(fetching.explain_url(url), status, error, field)


def test_nobody_listening_is_a_problem(fetching: FetchingApp) -> None:
    fetching.network.hosts["closed.example"] = ["8.8.8.8", "2606:4700::9"]
    refused(fetching.explain_url("http://closed.example/"), *UNREACHABLE)


PRIVATE = [
    "http://127.0.0.1/",
    "http://127.0.0.1:8000/metrics",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/",
    "http://private.example/",
    "http://mixed.example/",
    "http://missing.example/",
    "//private.example/",
    "http://pictures.example:8080/",
]
FOREIGN = [
    "",
    "file:///etc/passwd",
    "ftp://pictures.example/",
    "data:image/png;base64,AAAA",
    "http://user:secret@pictures.example/",
    "http://2130706433/",
    "http://0x7f.0.0.1/",
    "http://pictures.example\\@127.0.0.1/",
    "/a b",
    "http://[::1",
    "http://pictures.example:port/",
    "/" + "x" * 5000,
    "http://\ufffd/",
]


@pytest.mark.parametrize(
    ("location", "status", "error"),
    [
        *((each, 403, "url-not-allowed") for each in PRIVATE),
        *((each, *UNREACHABLE) for each in FOREIGN),
        ("/picture", *UNREACHABLE),
        ("http://other.example/picture", *UNREACHABLE),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_redirect_leads_nowhere_that_an_address_would_not(
    fetching: FetchingApp, location: str, status: int, error: str
) -> None:
    fetching.network.hosts["private.example"] = ["10.0.0.1"]
    fetching.network.hosts["mixed.example"] = ["8.8.8.8", "fe80::1%eth0"]
    script = sends(answer(status="302 Found", Location=location))
    with (
        fetching.site(script) as (url, _),
        fetching.site(redirects(url), "other.example", address="8.8.8.8"),
    ):
        before = len(fetching.network.connected)
        detail = refused(fetching.explain_url(url), status, error)
        hops = fetching.network.connected[before:]
    assert set(hops) <= {("8.8.4.4", 80), ("8.8.8.8", 80)}
    # What cannot be followed is not; the two loops end after as many redirects as are allowed.
    assert len(hops) == (3 if location.endswith("/picture") else 1)
    assert "private" not in detail
    assert "10.0.0.1" not in detail


@pytest.mark.parametrize(
    "addresses",
    [
        [],
        ["127.0.0.1"],
        ["10.0.0.1", "8.8.4.4"],
        ["8.8.4.4", "10.0.0.1"],
        ["8.8.4.4", "::ffff:8.8.4.4"],
        ["8.8.4.4", "fe80::1%eth0"],
        ["100.64.0.1"],
        ["64:ff9b::7f00:1"],
        ["no address"],
    ],
    ids=str,
)
def test_every_address_of_a_host_must_be_public(
    fetching: FetchingApp, addresses: Sequence[str]
) -> None:
    """A host without any is refused in the same words, so that nobody learns which names exist."""
    with fetching.site(sends(answer(PICTURE))) as (url, site):
        fetching.network.hosts["pictures.example"] = addresses
        before = list(fetching.network.connected)
        detail = refused(fetching.explain_url(url), 403, "url-not-allowed")
        assert fetching.network.connected == before
        assert site.heads == []
    assert detail == "'pictures.example' has no public address."


def test_a_name_that_changes_its_address_is_held_to_the_checked_one(fetching: FetchingApp) -> None:
    answers = iter([["8.8.4.4"], ["127.0.0.1"], ["8.8.4.4"], ["127.0.0.1"]])
    with fetching.site(sends(answer(PICTURE))) as (url, _):
        fetching.network.hosts["pictures.example"] = lambda: next(answers)
        before = len(fetching.network.connected)
        assert fetching.explain_url(url).status_code == 200
        refused(fetching.explain_url(url), 403, "url-not-allowed")
    with fetching.site(redirects("/again")) as (url, _):
        fetching.network.hosts["pictures.example"] = lambda: next(answers)
        refused(fetching.explain_url(url), 403, "url-not-allowed")
    assert fetching.network.connected[before:] == [("8.8.4.4", 80)] * 2


def test_a_redirect_from_https_to_http_is_refused(
    fetching: FetchingApp, authority: trustme.CA
) -> None:
    with (
        fetching.site(sends(answer(PICTURE))) as (end, site),
        fetching.site(redirects(end), **secure(authority)) as (url, _),
    ):
        refused(fetching.explain_url(url), 403, "url-not-allowed")
        assert site.heads == []


def test_a_connection_that_leaves_tls_is_a_problem(
    fetching: FetchingApp, authority: trustme.CA
) -> None:
    with fetching.site(breaks_tls, **secure(authority)) as (url, _):
        refused(fetching.explain_url(url), *UNREACHABLE)


def test_a_handshake_that_never_comes_runs_out_of_time(
    fetching: FetchingApp, authority: trustme.CA
) -> None:
    with fetching.site(is_silent, **secure(authority) | {"tls": None}) as (url, _):
        refused(fetching.explain_url(url), 504, "url-timeout")


def test_a_resolver_that_fails_is_a_problem(fetching: FetchingApp) -> None:
    def fails() -> Sequence[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "secret resolver 10.0.0.53 is down")

    fetching.network.hosts["fails.example"] = fails
    assert "10.0" not in refused(fetching.explain_url("http://fails.example/"), *UNREACHABLE)


def test_a_resolver_that_hangs_holds_nobody_up(tiny_model: str) -> None:
    """Not even those whose large bodies are read on threads as well."""
    released = threading.Event()

    def hangs() -> Sequence[str]:
        assert released.wait(60)
        return ["8.8.8.8"]

    with FetchingApp(tiny_model, url_max_fetches=40, request_timeout_seconds=10) as fetching:
        fetching.network.hosts["hangs.example"] = hangs
        body = {"image": {"url": "http://hangs.example/"}, "prompts": ["a cat"]}
        try:
            answers = [fetching.explain_in_background(body) for _ in range(40)]
            fetching.eventually(lambda: len(fetching.network.lookups) == 40)
            large = request_of(image=data_url(encoded(picture(600, 400))))
            assert fetching.explain(large).status_code == 200
            for each in answers:
                refused(each.result(), 504, "url-timeout")
            # Every thread for look-ups still hangs.
            refused(fetching.explain_url("http://other.example/"), 504, "url-timeout")
            assert fetching.network.connected == []
        finally:
            released.set()


def test_a_client_that_leaves_ends_the_fetch(fetching: FetchingApp) -> None:
    before = fetching.metric(CANCELLED)
    with fetching.site(is_silent) as (url, site):
        body = f'{{"image": {{"url": "{url}"}}, "prompts": ["a cat"]}}'.encode()
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection((fetching.host, fetching.port)) as connection:
            connection.sendall(b"POST /explain HTTP/1.1\r\nHost: a\r\n" + head + body)
            site.wait_for_open(1)
        site.wait_for_open(0)
    fetching.eventually(lambda: fetching.metric(CANCELLED) == before + 1)
    fetching.eventually(lambda: fetching.metric("legrad_requests_in_progress") == 0)


def test_the_requests_own_deadline_ends_the_fetch(fetching: FetchingApp) -> None:
    with fetching.site(is_silent) as (url, _):
        response = fetching.explain_url(url, **{"X-Request-Timeout-Ms": "1000"})
    assert (response.status_code, response.json()["error"]) == (504, "deadline-exceeded")


def test_one_failure_ends_the_other_fetches_of_the_request(fetching: FetchingApp) -> None:
    with (
        fetching.site(is_silent) as (slow, site),
        fetching.site(sends(answer(status="404 No")), "none.example", address="1.1.1.1") as (no, _),
    ):
        images = [{"url": slow}, {"url": no}]
        before = fetching.metric(CANCELLED)
        response = fetching.explain({"images": images, "prompts": ["a cat"]})
        refused(response, 422, "url-refused", "images.1.url")
        assert fetching.metric(CANCELLED) == before + 1
        site.wait_for_open(0)


def test_a_flood_of_small_pieces_keeps_nobody_waiting(fetching: FetchingApp) -> None:
    """Other requests are answered while every place for fetches is busy with them."""
    flood = sends_forever(CHUNKED, b"1\r\nx\r\n" * 1000)
    with fetching.site(flood) as (url, site):
        bodies = [{"image": {"url": url}, "prompts": ["a cat"]} for _ in range(4)]
        answers = [fetching.explain_in_background(body) for body in bodies]
        for _ in range(20):
            assert fetching.client.get("/health/live").elapsed.total_seconds() < 1
        for each in answers:
            assert each.result().json()["error"] in ("url-unreachable", "url-timeout")
        assert len(site.heads) == 4


def test_a_hundred_hostile_fetches_leave_no_connection(fetching: FetchingApp) -> None:
    scripts = [
        sends(),
        sends(b"garbage\r\n\r\n"),
        sends(SHORT),
        sends_forever(answer(length=-1), b"x" * 9999),
        redirects("http://127.0.0.1/"),
    ]
    turn = iter(scripts * 20)
    lock = threading.Lock()

    def any_of_them(connection: socket.socket) -> None:
        with lock:
            script = next(turn)
        script(connection)

    with fetching.site(any_of_them) as (url, _):
        bodies = [{"image": {"url": url}, "prompts": ["a cat"]} for _ in range(100)]
        answers = [fetching.explain_in_background(body) for body in bodies]
        errors = {each.result().json()["error"] for each in answers}
    assert errors == {"url-unreachable", "url-too-large", "url-not-allowed"}
