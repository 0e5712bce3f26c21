"""Picture workers: fair turns among requests, a time limit, no work for cancelled requests."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from legrad_engine.images.decoding import decode
from service.batching import whole_seconds
from service.errors import PictureTimeoutError, TooManyRequestsError
from service.pictures.workers import PictureWorkers, Work
from tests.support.answers import refused
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_app import RunningApp

WORKS: tuple[Work, ...] = ("decode", "draw")
Tasks = list["asyncio.Task[Any]"]


@pytest.fixture
def one_thread() -> Iterator[PictureWorkers]:
    threads = PictureWorkers(1, 60)
    threads.start()
    yield threads
    threads.close()


async def queued(
    threads: PictureWorkers, owner: object, *functions: Callable[[], Any], work: Work = "decode"
) -> Tasks:
    tasks = [asyncio.create_task(threads.run(owner, work, each)) for each in functions]
    await asyncio.sleep(0)
    return tasks


def test_requests_take_turns_and_drawing_comes_before_decoding(
    one_thread: PictureWorkers,
) -> None:
    done: list[str] = []
    free = threading.Event()

    async def three_requests() -> None:
        tasks = await queued(one_thread, "first", lambda: free.wait(60))
        for owner, count in (("many", 4), ("few", 2), ("one", 1)):
            tasks += await queued(one_thread, owner, *[lambda o=owner: done.append(o)] * count)
        tasks += await queued(one_thread, "ready", lambda: done.append("ready"), work="draw")
        free.set()
        await asyncio.gather(*tasks)

    asyncio.run(three_requests())
    assert done == ["ready", "many", "few", "one", "many", "few", "many", "many"]


def test_work_of_cancelled_requests_is_not_run(one_thread: PictureWorkers) -> None:
    ran: list[int] = []
    free = threading.Event()

    async def one_leaves() -> None:
        tasks = await queued(one_thread, "first", lambda: free.wait(60))
        leaving = await queued(one_thread, "leaving", *[lambda: ran.append(1)] * 3)
        staying = await queued(one_thread, "staying", lambda: ran.append(2))
        for task in leaving:
            task.cancel()
        free.set()
        await asyncio.gather(*tasks, *staying)

    asyncio.run(one_leaves())
    assert ran == [2]


def test_a_timeout_is_answered_while_the_thread_is_still_busy() -> None:
    threads = PictureWorkers(1, 0.05)
    threads.start()
    free = threading.Event()

    async def stuck() -> int:
        (hanging,) = await queued(threads, "a", lambda: free.wait(60))
        (after,) = await queued(threads, "b", lambda: 7)
        with pytest.raises(PictureTimeoutError, match=r"0\.05 s"):
            await hanging
        assert not after.done()
        free.set()
        late: int = await after
        return late

    assert asyncio.run(stuck()) == 7
    threads.close()


def test_errors_reach_the_waiting_request(one_thread: PictureWorkers) -> None:
    def fail() -> None:
        raise KeyError("this one")

    async def failing() -> int:
        with pytest.raises(KeyError, match="this one"):
            await one_thread.run("a", "decode", fail)
        return await one_thread.run("a", "decode", lambda: 7)

    assert asyncio.run(failing()) == 7


def test_a_deadline_that_waiting_pictures_leave_no_time_for_is_refused(
    one_thread: PictureWorkers,
) -> None:
    free = threading.Event()

    async def busy() -> None:
        for work in WORKS:
            await one_thread.run("a", work, lambda: threading.Event().wait(0.1))
        one_thread.check(time.monotonic())
        with one_thread.reserve(time.monotonic() + 60, 10):
            # Ten drawings, one more decoding and drawing, 0.1 s each, plus a margin of one half.
            one_thread.check(time.monotonic() + 60)
            for deadline in (0.1, 1.0, 1.7):
                with pytest.raises(TooManyRequestsError) as caught:
                    one_thread.check(time.monotonic() + deadline)
            assert caught.value.retry_after_seconds is not None
            assert whole_seconds(caught.value.retry_after_seconds) >= 1
            tasks = await queued(one_thread, "b", *[lambda: free.wait(60)] * 11)
            with pytest.raises(TooManyRequestsError), one_thread.reserve(time.monotonic() + 3.0, 1):
                raise AssertionError
        one_thread.check(time.monotonic())
        free.set()
        await asyncio.gather(*tasks)

    asyncio.run(busy())


def test_a_picture_that_takes_too_long_is_named_and_others_are_answered(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, free = encoded(picture(seed=99)), threading.Event()

    def hang(data: bytes, **limits: Any) -> Any:
        if data == slow:
            free.wait(60)
        return decode(data, **limits)

    monkeypatch.setattr("service.pictures.decoding.decode", hang)
    with RunningApp(tiny_model, picture_timeout_seconds=0.3) as running:
        try:
            body = {"images": [data_url(encoded()), data_url(slow)], "prompts": ["a cat"]}
            refused(running.explain(body), 422, "picture-timeout", "images.1")
            assert running.client.get("/health/ready").status_code == 200
            assert running.metric('legrad_rejected_total{reason="picture-timeout"}') == 1
            assert running.explain(request_of(prompts=["a dog"])).status_code == 200
        finally:
            free.set()


def test_a_server_whose_picture_threads_are_all_stuck_is_not_ready(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()

    def hang(data: bytes, **limits: Any) -> Any:
        free.wait(60)
        return decode(data, **limits)

    monkeypatch.setattr("service.pictures.decoding.decode", hang)
    with RunningApp(tiny_model, picture_threads=1, picture_timeout_seconds=0.3) as running:
        try:
            refused(running.explain(), 422, "picture-timeout", "image")
            assert running.client.get("/health/ready").status_code == 503
            assert running.metric("legrad_ready") == 0
        finally:
            free.set()
        running.eventually(lambda: running.client.get("/health/ready").status_code == 200)
        assert running.explain().status_code == 200
