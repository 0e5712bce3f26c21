"""The end of the real process: accepted requests are answered, and nothing that hangs delays it."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import faulty_server
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.raw_requests import REFUSED_EARLY
from tests.support.running_server import Server

pytestmark = pytest.mark.slow

# A margin for busy machines.
PATIENCE_SECONDS = 20
IN_PROGRESS = "legrad_requests_in_progress"


def test_sigterm_answers_the_64_requests_in_flight_and_refuses_new_ones(
    tiny_model: str, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    with Server(
        tiny_model,
        program=faulty_server.program(go_on),
        max_queue_cost=10_000,
        request_timeout_seconds=120,
        drain_timeout_seconds=120,
    ) as server:
        server.wait_for_health()
        with ThreadPoolExecutor(64) as callers:
            holding = request_of(prompts=[faulty_server.HANG_FOR_A_WHILE])
            answers = [callers.submit(server.explain, holding)]
            server.poll_metric('legrad_queue_wait_seconds_count{model="tiny-tiny"}', 1)
            answers += [
                callers.submit(
                    server.explain, request_of(image=data_url(encoded(picture(seed=seed))))
                )
                for seed in range(63)
            ]
            server.poll_metric(IN_PROGRESS, 64)
            server.signal(signal.SIGTERM)
            server.wait_until_refused()
            assert not any(answer.done() for answer in answers)
            go_on.touch()
            statuses = [answer.result(120).status_code for answer in answers]
        assert statuses == [200] * 64
        assert server.wait() == 0
        assert any(entry.get("drained") is True for entry in server.log)


def test_a_stopping_server_is_not_ready_at_once_and_serves_on_for_the_delay(
    tiny_model: str,
) -> None:
    delay = 5
    with Server(tiny_model, shutdown_delay_seconds=delay) as server:
        server.wait_for_health()
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        not_ready = server.wait_for_health(503)
        assert "shutting down" in not_ready.json()["detail"]
        assert server.client.get("/health/live").status_code == 200
        served = server.explain(request_of())
        assert served.status_code == 200
        assert served.headers["connection"] == "close"
        assert server.wait(delay + PATIENCE_SECONDS) == 0
        assert time.monotonic() - began >= delay


def test_a_second_signal_does_not_wait_for_the_delay(tiny_model: str) -> None:
    with Server(tiny_model, shutdown_delay_seconds=600) as server:
        server.wait_for_health()
        server.signal(signal.SIGTERM)
        server.wait_for_health(503)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_refused_client_that_sends_no_more_does_not_hold_the_process(tiny_model: str) -> None:
    with (
        Server(tiny_model, head_timeout_seconds=600, drain_timeout_seconds=600) as server,
        socket.create_connection((server.host, server.port), timeout=60) as refused,
    ):
        server.wait_for_health()
        refused.sendall(REFUSED_EARLY)
        assert refused.recv(65536).startswith(b"HTTP/1.1 404")
        server.signal(signal.SIGTERM)
        assert server.wait(PATIENCE_SECONDS) == 0


def test_what_hangs_is_abandoned_in_time_and_the_exit_status_tells(
    tiny_model: str, tmp_path: Path
) -> None:
    with Server(
        tiny_model, program=faulty_server.program(tmp_path / "never"), drain_timeout_seconds=2
    ) as server:
        server.wait_for_health()
        with ThreadPoolExecutor(2) as callers:
            hanging = callers.submit(server.explain, request_of(prompts=[faulty_server.HANG]))
            server.poll_metric(IN_PROGRESS, 1)
            queued = callers.submit(server.explain, request_of())
            server.poll_metric(IN_PROGRESS, 2)
            server.signal(signal.SIGTERM)
            for answer in (hanging, queued):
                assert answer.result(60).status_code == 503
                assert answer.result().json()["error"] == "shutting-down"
        assert server.wait(PATIENCE_SECONDS) == 1
        (abandoned,) = [entry for entry in server.log if entry["event"] == "requests abandoned"]
        assert abandoned["requests"] == 2


def test_a_hanging_worker_without_requests_does_not_hold_the_process(
    tiny_model: str, tmp_path: Path
) -> None:
    with Server(
        tiny_model, program=faulty_server.program(tmp_path / "never"), drain_timeout_seconds=2
    ) as server:
        server.wait_for_health()
        late = server.explain(
            request_of(prompts=[faulty_server.HANG]), **{"X-Request-Timeout-Ms": "5000"}
        )
        assert late.status_code == 504
        server.signal(signal.SIGTERM)
        assert server.wait(PATIENCE_SECONDS) == 0
        (left,) = [entry for entry in server.log if entry["event"] == "threads left behind"]
        assert any("batcher" in name for name in left["threads"])


def test_a_log_that_nobody_reads_holds_up_neither_requests_nor_the_end(tiny_model: str) -> None:
    dropped = "legrad_log_lines_dropped_total"
    with Server(tiny_model, reads_log=False) as server:
        server.wait_for_health()
        assert server.metric(dropped) == 0
        while server.metric(dropped) == 0:
            for _ in range(100):
                assert server.client.get("/nothing").status_code == 404
        assert server.explain(request_of()).status_code == 200
        assert server.client.get("/health/live").status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.log[0]["event"]
