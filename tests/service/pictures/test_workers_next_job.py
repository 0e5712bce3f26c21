"""Picture workers: a process that is free has the next job, and only that one."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from service.errors import OutOfMemoryError
from service.pictures import messages
from service.pictures.workers import PictureWorkers
from tests.support.picture_workers import decoding, paused, queued, started, until


def when_answered(workers: PictureWorkers, then: Callable[[Callable[[], None]], None]) -> None:
    """Let the only process's answers pass through a function, which takes them by a call."""
    (process,) = workers._running
    take = process._answered
    process._answered = lambda answer: then(partial(take, answer))


def test_a_request_that_leaves_while_its_turn_comes_leaves_no_process_idle() -> None:
    async def one_leaves() -> None:
        async with started() as workers:
            with paused(workers):
                await queued(workers.decode("first", decoding()))
                (leaving,) = await queued(workers.decode("leaving", decoding()))
                (staying,) = await queued(workers.decode("staying", decoding()))

                def leave(take: Callable[[], None]) -> None:
                    leaving.cancel()
                    take()

                when_answered(workers, leave)
            await asyncio.wait_for(staying, 20)

    asyncio.run(one_leaves())


def test_a_job_for_which_memory_is_missing_leaves_no_process_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pack, failures = messages.pack, iter([MemoryError])

    def packed(message: object) -> list[Any]:
        for failure in failures:
            raise failure
        return pack(message)

    async def one_fails() -> None:
        async with started() as workers:
            with paused(workers):
                await queued(workers.decode("first", decoding()))
                (failing,) = await queued(workers.decode("failing", decoding()))
                (next_one,) = await queued(workers.decode("next", decoding()))
                monkeypatch.setattr("service.pictures.processes.pack", packed)
            await asyncio.wait_for(next_one, 20)
            with pytest.raises(OutOfMemoryError):
                await failing

    asyncio.run(one_fails())


def test_a_process_is_not_killed_for_a_cancelled_job_that_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.pictures.workers._GRACE_SECONDS", 45.0)
    kills: list[Callable[[], None]] = []

    async def one_leaves() -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def noted(delay: float, callback: Callable[..., None], *arguments: Any) -> Any:
            if delay == 45.0:
                kills.append(partial(callback, *arguments))
            return call_later(delay, callback, *arguments)

        monkeypatch.setattr(loop, "call_later", noted)
        async with started() as workers:
            pids = workers.pids
            with paused(workers):
                (leaving,) = await queued(workers.decode("leaving", decoding()))
                (staying,) = await queued(workers.decode("staying", decoding()))

                def late(take: Callable[[], None]) -> None:
                    take()
                    # The time of grace ends before the request has learned of its end.
                    while kills:
                        kills.pop()()

                when_answered(workers, late)
                leaving.cancel()
                await until(lambda: kills)
            await asyncio.wait([leaving])
            assert (await staying).prepared is not None
            assert workers.pids == pids

    asyncio.run(one_leaves())
