"""Threads that parse large bodies: every protocol uses them, and readiness knows of them."""

import asyncio
import threading
from typing import Any

import pytest

from service.http import bodies
from service.http.bodies import BodyThreads
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_app import RunningApp

LARGE = 1_000_000


def test_a_small_body_is_parsed_on_the_event_loop_and_a_large_one_is_not() -> None:
    async def names() -> tuple[str, str]:
        threads = BodyThreads()
        small, large = [
            await threads.run("a", size, lambda: threading.current_thread().name)
            for size in (10, LARGE)
        ]
        threads.close()
        return small, large

    small, large = asyncio.run(names())
    assert small == threading.current_thread().name
    assert large.startswith("body")


def test_bodies_that_take_too_long_are_a_problem_only_while_they_occupy_every_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "_LONGEST_SECONDS", 0.0)

    async def problems() -> list[str | None]:
        threads, release = BodyThreads(), threading.Event()
        entered = threading.Semaphore(0)

        def hang() -> None:
            entered.release()
            release.wait(30)

        found = [threads.readiness_problem()]
        jobs = [asyncio.ensure_future(threads.run("a", LARGE, hang)) for _ in range(3)]
        for _ in range(3):
            await asyncio.to_thread(entered.acquire)
        found.append(threads.readiness_problem())
        jobs.append(asyncio.ensure_future(threads.run("a", LARGE, hang)))
        await asyncio.to_thread(entered.acquire)
        found.append(threads.readiness_problem())
        # A caller that gives up does not free the thread.
        jobs[0].cancel()
        await asyncio.sleep(0)
        found.append(threads.readiness_problem())
        release.set()
        await asyncio.gather(*jobs, return_exceptions=True)
        threads.close()
        found.append(threads.readiness_problem())
        return found

    first, three, four, cancelled, ended = asyncio.run(problems())
    assert (first, three, ended) == (None, None, None)
    assert four == cancelled
    assert four is not None
    assert "threads for bodies" in four


BMP = encoded(picture(500, 400), "BMP")
QUIET = '{"heatmap": "none", "overlay": false}'


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        (
            "/explain",
            {"files": {"image": BMP}, "data": {"prompts": "a cat", "output": QUIET}},
        ),
        ("/explain", {"json": request_of(image=data_url(BMP))}),
        (
            "/v1/models/tiny-tiny:explain",
            {"json": {"instances": [request_of(image=data_url(BMP))]}},
        ),
        (
            "/explanations/tiny-tiny",
            {"files": {"data": ("a.bmp", BMP)}, "data": {"prompts": "a cat"}},
        ),
    ],
)
def test_every_protocol_parses_large_bodies_on_these_threads(
    running: RunningApp, monkeypatch: pytest.MonkeyPatch, path: str, sent: dict[str, Any]
) -> None:
    threads = running.state.body_threads
    parse, sizes = threads.run, []

    async def run(owner: str, size: int, *arguments: Any) -> Any:
        sizes.append(size)
        return await parse(owner, size, *arguments)

    monkeypatch.setattr(threads, "run", run)
    answer = running.client.post(path.replace("tiny-tiny", running.model.id), **sent)
    assert answer.status_code == 200, answer.text
    assert [size > len(BMP) for size in sizes] == [True]
