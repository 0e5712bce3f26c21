"""Redirects and names that lead to addresses which are not public."""

import socket
import threading
from collections.abc import Sequence

import pytest
import trustme

from tests.support.fetching_app import PICTURE, FetchingApp, refused
from tests.support.hostile_sites import UNREACHABLE, secure
from tests.support.picture_sites import answer, redirects, sends
from tests.support.pictures import data_url, encoded, picture, request_of

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
    # Only the two loops are followed, up to the limit of redirects.
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
    """A host without an address gets the same words, so that callers cannot probe for names."""
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


def test_a_resolver_that_fails_is_a_problem(fetching: FetchingApp) -> None:
    def fails() -> Sequence[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "secret resolver 10.0.0.53 is down")

    fetching.network.hosts["fails.example"] = fails
    assert "10.0" not in refused(fetching.explain_url("http://fails.example/"), *UNREACHABLE)


def test_a_hanging_resolver_does_not_delay_other_requests(tiny_model: str) -> None:
    """Requests with large bodies, which are read on threads as well, are answered meanwhile.

    So are those of other callers whose pictures have to be fetched.
    """
    released = threading.Event()

    def hangs() -> Sequence[str]:
        assert released.wait(60)
        return ["8.8.8.8"]

    with FetchingApp(
        tiny_model,
        url_timeout_seconds=3,
        url_max_fetches=40,
        request_timeout_seconds=20,
        trusted_proxies="127.0.0.1",
    ) as fetching:
        fetching.network.hosts["hangs.example"] = hangs
        body = {"image": {"url": "http://hangs.example/"}, "prompts": ["a cat"]}
        try:
            answers = [fetching.explain_in_background(body) for _ in range(40)]
            fetching.eventually(lambda: len(fetching.network.lookups) == 20)
            large = request_of(image=data_url(encoded(picture(600, 400))))
            assert fetching.explain(large).status_code == 200
            for each in answers:
                refused(each.result(), 504, "url-timeout")
            # The threads that one caller may have for look-ups still hang.
            refused(fetching.explain_url("http://other.example/"), 504, "url-timeout")
            assert fetching.network.lookups == ["hangs.example"] * 20
            assert fetching.network.connected == []
            with fetching.site(sends(answer(PICTURE))) as (url, _):
                another = fetching.explain_url(url, **{"X-Forwarded-For": "10.0.0.2"})
                assert another.status_code == 200
        finally:
            released.set()
