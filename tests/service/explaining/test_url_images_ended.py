"""Fetches that end early leave no connection and no task."""

import socket
import statistics
import threading

from tests.support.fetching_app import FetchingApp, refused
from tests.support.hostile_sites import CANCELLED, CHUNKED, SHORT
from tests.support.picture_sites import answer, is_silent, redirects, sends, sends_forever


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


def test_a_flood_of_small_pieces_does_not_delay_other_requests(fetching: FetchingApp) -> None:
    """Other requests are answered while all permitted fetches are busy with such floods."""
    flood = sends_forever(CHUNKED, b"1\r\nx\r\n" * 1000)
    with fetching.site(flood) as (url, site):
        bodies = [{"image": {"url": url}, "prompts": ["a cat"]} for _ in range(4)]
        answers = [fetching.explain_in_background(body) for body in bodies]
        asked = [fetching.client.get("/health/live") for _ in range(20)]
        # The median, because a busy machine may delay any of them.
        assert statistics.median(each.elapsed.total_seconds() for each in asked) < 1
        for each in answers:
            assert each.result().json()["error"] in ("url-unreachable", "url-timeout")
        assert len(site.heads) == 4


def test_a_hundred_hostile_fetches_leave_no_connection(fetching: FetchingApp) -> None:
    scripts = [
        sends(),
        sends(b"garbage\r\n\r\n"),
        sends(SHORT),
        # Few pieces: a slow machine must not take longer for them than a fetch may.
        sends_forever(answer(length=-1), b"x" * 99_999),
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
