"""Picture workers: a launcher that hangs, or whose process starts late."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from service.errors import PictureProcessEndedError
from service.pictures.processes import Launcher, PictureProcess
from service.pictures.workers import PictureWorkers
from tests.support.picture_workers import (
    decoding,
    own_launcher,
    paused,
    queued,
    runs,
    started,
    until,
)


@contextlib.contextmanager
def hanging_launcher(workers: PictureWorkers) -> Iterator[int]:
    assert workers._launcher is not None
    program = workers._launcher._program
    assert program is not None
    program.send_signal(signal.SIGSTOP)
    try:
        yield program.pid
    finally:
        program.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_process_that_ends_while_its_launcher_hangs_is_noticed(leaves: bool) -> None:
    async def scenario() -> None:
        async with started() as workers:
            (pid,) = workers.pids
            with hanging_launcher(workers), paused(workers):
                (job,) = await queued(workers.decode("a", decoding()))
                if leaves:
                    job.cancel()
                else:
                    os.kill(pid, signal.SIGKILL)
                await asyncio.wait([job], timeout=20)
                assert job.done()
                assert workers.readiness_problem() is not None
            if not leaves:
                assert isinstance(job.exception(), PictureProcessEndedError)
            await workers.decode("b", decoding())

    with own_launcher():
        asyncio.run(scenario())


def test_a_launcher_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with started() as workers:
            with hanging_launcher(workers) as launcher:
                monkeypatch.setattr("service.pictures.workers._START_SECONDS", 0.2)
                os.kill(workers.pids[0], signal.SIGKILL)
                await until(lambda: not runs(launcher))
                monkeypatch.undo()
                await asyncio.wait_for(workers.decode("a", decoding()), 60)

    with own_launcher():
        asyncio.run(scenario())


def test_a_process_that_does_not_start_takes_none_that_answers_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_up: list[PictureProcess] = []
    give_up = Launcher.give_up

    def noted(self: Launcher, process: PictureProcess) -> None:
        give_up(self, process)
        given_up.append(process)

    monkeypatch.setattr(Launcher, "give_up", noted)

    async def scenario() -> None:
        async with started(2) as workers:
            lost, kept = workers.pids
            with hanging_launcher(workers) as launcher:
                monkeypatch.setattr("service.pictures.workers._START_SECONDS", 0.2)
                os.kill(lost, signal.SIGKILL)
                await until(lambda: workers.pids == [kept])
                while not given_up:
                    await workers.decode("a", decoding())
                monkeypatch.setattr("service.pictures.workers._START_SECONDS", 30)
                assert runs(launcher)
            await workers.decode("a", decoding())
            await until(lambda: len(workers.pids) == 2)
            assert kept in workers.pids

    with own_launcher():
        asyncio.run(scenario())
