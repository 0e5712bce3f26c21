"""More than the server can do, later than it can, and for nobody: a real process under load."""

import asyncio
import contextlib
import socket
import time
from typing import Any

import pytest

from tests.support.load import one_after_another, open_loop
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.raw_requests import posted_alone
from tests.support.running_server import Server

pytestmark = pytest.mark.slow

PATIENCE = 60.0
COMPUTED = 'legrad_batch_size_sum{model="tiny-tiny"}'
DEPTH = 'legrad_queue_depth{model="tiny-tiny"}'
PICTURES = [data_url(encoded(picture(300, 300, seed=seed), "JPEG")) for seed in range(16)]


def work(number: int, images: int = 2) -> dict[str, object]:
    """A request that costs the server far more than it costs to send."""
    return {
        "images": [PICTURES[(number + place) % len(PICTURES)] for place in range(images)],
        "prompts": [f"thing {number % 50} {place}" for place in range(4)],
        "options": {"size": 128, "cache": False},
    }


def test_ten_times_what_the_server_can_do_is_answered_or_told_when_to_return(
    tiny_model: str,
) -> None:
    deadline = 8.0
    # Room for as many as ask at once while the capacity is measured.
    settings: dict[str, Any] = {"request_timeout_seconds": deadline, "max_queue_cost": 1000}
    with Server(tiny_model, log_level="warning", **settings) as server:
        server.wait_for_health()

        def at_most(count: int, at_once: int) -> float:
            began = time.monotonic()
            requests = [posted_alone(work(number)) for number in range(count)]
            answers = asyncio.run(one_after_another(server.host, server.port, requests, at_once))
            assert {each.status for each in answers} == {200}
            return count / (time.monotonic() - began)

        at_most(8, 4)
        capacity = at_most(24, 8)
        before = server.resident_bytes
        requests = [
            posted_alone(work(number)) for number in range(max(200, int(10 * capacity * 5)))
        ]
        answers = asyncio.run(open_loop(server.host, server.port, requests, 10 * capacity))
        assert len(answers) == len(requests)
        assert {each.status for each in answers} == {200, 429}
        assert all(each.retry_after for each in answers if each.status == 429)
        accepted = sorted(each.seconds for each in answers if each.status == 200)
        assert accepted[int(0.99 * len(accepted))] <= deadline
        server.poll("/metrics", lambda _: server.metric("legrad_requests_in_progress") == 0)
        assert server.metric(DEPTH) == 0
        assert server.metric("legrad_body_bytes_in_progress") == 0
        first = server.resident_bytes
        asyncio.run(open_loop(server.host, server.port, requests, 10 * capacity))
        assert server.resident_bytes - first < 0.25 * max(first - before, 200_000_000)
        assert server.explain(request_of()).status_code == 200


def test_work_that_would_be_late_is_never_computed(tiny_model: str) -> None:
    with Server(tiny_model, max_batch_images=1, max_queue_cost=1_000_000) as server:
        server.wait_for_health()
        long = work(0, images=16) | {"options": {"size": 512, "cache": False}}
        with held_by(server, long, queued=10):
            late = posted_alone(
                request_of(options={"size": 512}), **{"X-Request-Timeout-Ms": "200"}
            )
            # Refused where a first rate is known already, given up where it is not.
            answers = asyncio.run(
                one_after_another(server.host, server.port, [late] * 20, at_once=20)
            )
            assert {each.status for each in answers} <= {429, 504}
            given_up = sum(each.status == 504 for each in answers)
            counted = 'legrad_rejected_total{reason="deadline-exceeded"}'
            assert server.metric(counted) == given_up
        server.poll("/metrics", lambda _: server.metric("legrad_requests_in_progress") == 0)
        assert server.metric(COMPUTED) == 16
        assert server.metric(DEPTH) == 0


def test_work_of_clients_that_left_costs_nothing(tiny_model: str) -> None:
    leaving = 100
    with Server(
        tiny_model, max_batch_images=1, max_queue_cost=1_000_000, request_timeout_seconds=600
    ) as server:
        server.wait_for_health()
        long = work(0, images=16) | {"options": {"size": 512, "cache": False}}
        with contextlib.ExitStack() as connections, held_by(server, long, queued=10):
            for number in range(leaving):
                connection = connections.enter_context(
                    socket.create_connection((server.host, server.port), timeout=PATIENCE)
                )
                connection.sendall(
                    posted_alone(request_of(prompts=[f"thing {number}"], options={"size": 512}))
                )
            in_progress = "legrad_requests_in_progress"
            server.poll("/metrics", lambda _: server.metric(in_progress) == leaving + 1)
            connections.close()
            server.poll("/metrics", lambda _: server.metric(in_progress) <= 1)
        server.poll("/metrics", lambda _: server.metric(in_progress) == 0)
        assert server.metric(COMPUTED) - 16 <= 0.05 * leaving
        assert server.metric('legrad_rejected_total{reason="client-left"}') >= 0.95 * leaving
        assert server.metric(DEPTH) == 0


@contextlib.contextmanager
def held_by(server: Server, body: dict[str, object], queued: int):  # type: ignore[no-untyped-def]
    """Keeps the worker busy with one request, which is answered before this ends."""
    with socket.create_connection((server.host, server.port), timeout=PATIENCE) as connection:
        connection.sendall(posted_alone(body))
        server.poll("/metrics", lambda _: server.metric(DEPTH) >= queued)
        yield
        answer = b"".join(iter(lambda: connection.recv(1_000_000), b""))
        assert answer.startswith(b"HTTP/1.1 200")
