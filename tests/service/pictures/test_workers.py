"""Picture workers: fair turns, limits of time, processes that end, no work for the cancelled."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from legrad_engine.errors import ImageDecodeError
from service.errors import (
    PictureCrashError,
    PictureProcessEndedError,
    PictureTimeoutError,
    ServiceError,
)
from service.pictures import workers as picture_workers
from service.pictures.decoding import decode_picture
from service.pictures.drawing import DrawingRules, draw
from service.pictures.jobs import OutOfMemory
from service.pictures.workers import PictureWorkers
from service.settings.values import PictureLimits
from service.telemetry.metrics import Metrics
from tests.support.picture_bombs import long_bmp
from tests.support.picture_workers import (
    DRAWING,
    INPUT,
    MAPS,
    RULES,
    children,
    decoding,
    drawing,
    paused,
    queued,
    runs,
    started,
    until,
)
from tests.support.pictures import encoded, picture
from tests.support.running_app import samples


def ends(metrics: Metrics) -> dict[str, float]:
    name = "legrad_picture_process_ends_total"
    found = samples(metrics.exposition().decode())
    return {
        sample.split('"')[1]: value
        for sample, value in found.items()
        if sample.startswith(name) and value
    }


def test_processes_decode_and_draw_as_the_functions_do() -> None:
    data = encoded(picture(90, 60))

    async def both() -> Any:
        async with started() as workers:
            decoded = await workers.decode("a", decoding(data, 50))
            assert decoded.canvas is not None
            assert decoded.canvas.nbytes == 4 * 50 * 33
            return decoded, await drawing(workers, decoded)

    decoded, drawn = asyncio.run(both())
    expected = decode_picture(data, RULES, INPUT, None, 50)
    assert expected.prepared is not None
    assert decoded.geometry == expected.geometry
    np.testing.assert_array_equal(decoded.prepared.pixels, expected.prepared.pixels)
    assert decoded.canvas.size == (50, 33)
    (target,) = draw(
        MAPS, expected.geometry, expected.canvas, DrawingRules(**DRAWING | {"max_side": 50})
    ).targets
    again = drawn.targets[0]
    np.testing.assert_array_equal(again.map, target.map)
    assert again.statistics == target.statistics
    assert again.overlay == target.overlay is not None


def test_owners_with_few_jobs_go_first_and_the_others_take_turns() -> None:
    done: list[str] = []

    async def named(owner: str, job: Coroutine[Any, Any, Any]) -> None:
        await job
        done.append(owner)

    async def several() -> None:
        async with started() as workers:
            ready = await workers.decode("ready", decoding())
            with paused(workers):
                tasks = await queued(workers.decode("first", decoding()))
                for owner, count in (("many", 4), ("few", 2), ("one", 1)):
                    jobs = [named(owner, workers.decode(owner, decoding())) for _ in range(count)]
                    tasks += await queued(*jobs)
                tasks += await queued(named("ready", drawing(workers, ready, owner="ready")))
            await asyncio.gather(*tasks)

    asyncio.run(several())
    assert done == ["one", "ready", "few", "few", "many", "many", "many", "many"]


def test_waiting_work_of_cancelled_requests_is_not_carried_out() -> None:
    async def one_leaves() -> None:
        async with started() as workers:
            with paused(workers):
                tasks = await queued(workers.decode("first", decoding()))
                leaving = await queued(*[workers.decode("leaving", decoding()) for _ in range(3)])
                staying = await queued(workers.decode("staying", decoding()))
                for task in leaving:
                    task.cancel()
                await asyncio.wait(leaving)
            # One process, and numbers are given to what is carried out.
            await asyncio.gather(*tasks)
            decoded = await staying[0]
            assert decoded.canvas.number == 1

    asyncio.run(one_leaves())


def test_a_cancelled_request_ends_once_its_picture_does() -> None:
    async def one_leaves() -> None:
        metrics = Metrics([], [], [])
        async with started(metrics=metrics) as workers:
            (pid,) = workers.pids
            with paused(workers):
                (leaving,) = await queued(workers.decode("leaving", decoding()))
                await asyncio.sleep(0.05)
                leaving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await leaving
                assert not runs(pid)
            await workers.decode("next", decoding())
            assert workers.pids != [pid]
        assert ends(metrics) == {"cancelled": 1}

    asyncio.run(one_leaves())


def test_a_request_that_leaves_shortly_before_its_picture_is_done_keeps_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However long a busy machine takes for the picture.
    monkeypatch.setattr(picture_workers, "_GRACE_SECONDS", 30.0)

    async def one_leaves() -> None:
        async with started() as workers:
            pids = workers.pids
            (leaving,) = await queued(workers.decode("leaving", decoding()))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            await workers.decode("next", decoding())
            assert workers.pids == pids

    asyncio.run(one_leaves())


def test_a_picture_that_takes_too_long_is_ended_and_others_go_on() -> None:
    async def stuck() -> None:
        metrics = Metrics([], [], [])
        async with started(2, 3.0, metrics=metrics) as workers:
            kept = await workers.decode("a", decoding())
            hanging = [await workers.decode("b", decoding())]
            (first, second) = (
                workers._canvases.home(each.canvas.number)
                for each in (kept, hanging[0])
                if each.canvas
            )
            assert first is not None
            assert second is not None
            assert first is not second
            os.kill(first.pid, signal.SIGSTOP)
            source = decoding(geometry=kept.geometry)
            (slow,) = await queued(drawing(workers, kept, source))
            for _ in range(3):
                await workers.decode("c", decoding())
            with pytest.raises(PictureTimeoutError, match=r" 3 s") as caught:
                await slow
            assert caught.value.field == "output"
            assert not runs(first.pid)
            # Its canvas is lost; the picture is decoded again for the overlay.
            again = await drawing(workers, kept, source)
            assert again.targets[0].overlay is not None
            await until(lambda: len(workers.pids) == 2)
        assert ends(metrics) == {"time": 1}

    asyncio.run(stuck())


def test_a_small_file_that_is_long_work_is_ended_and_others_go_on() -> None:
    data = long_bmp(6300)
    assert len(data) < 27_000

    async def attacked() -> None:
        metrics = Metrics([], [], [])
        # The file takes many seconds; any other picture takes milliseconds, or, on a busy machine,
        # a second.
        async with started(2, 3.0, metrics=metrics) as workers:
            slow = await queued(*[workers.decode("a", decoding(data)) for _ in range(2)])
            async with asyncio.timeout(60):
                others = [workers.decode(f"b{number}", decoding()) for number in range(8)]
                for each in await asyncio.gather(*others):
                    assert each.prepared is not None
                for task in slow:
                    with pytest.raises(PictureTimeoutError, match=r" 3 s"):
                        await task
        assert ends(metrics) == {"time": 2}

    asyncio.run(attacked())


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGKILL, PictureProcessEndedError), (signal.SIGSEGV, PictureCrashError)],
)
def test_a_process_that_ends_while_it_works_costs_its_own_picture_alone(
    number: int, error: type[ServiceError]
) -> None:
    async def killed() -> None:
        metrics = Metrics([], [], [])
        async with started(metrics=metrics) as workers:
            (pid,) = workers.pids
            with paused(workers):
                (failing,) = await queued(workers.decode("a", decoding()))
                others = await queued(*[workers.decode("b", decoding()) for _ in range(3)])
                await asyncio.sleep(0.05)
                os.kill(pid, number)
            with pytest.raises(error):
                await failing
            for each in await asyncio.gather(*others):
                assert each.prepared is not None
        assert ends(metrics) == {"crashed": 1}

    asyncio.run(killed())


def test_a_process_that_ends_idle_is_replaced_and_costs_nothing() -> None:
    async def killed() -> None:
        async with started() as workers:
            decoded = await workers.decode("a", decoding())
            assert decoded.canvas is not None
            for _ in range(3):
                (pid,) = workers.pids
                os.kill(pid, signal.SIGKILL)
                await until(lambda pid=pid: workers.pids and workers.pids != [pid])
                assert not workers.keeps(decoded.canvas.number)
                drawn = await drawing(workers, decoded)
                assert drawn.targets[0].overlay is not None

    asyncio.run(killed())


def test_drawings_that_wait_for_a_process_that_ends_are_drawn_by_another() -> None:
    async def killed() -> None:
        async with started(2) as workers:
            decoded = await workers.decode("a", decoding())
            assert decoded.canvas is not None
            home = workers._canvases.home(decoded.canvas.number)
            assert home is not None
            os.kill(home.pid, signal.SIGSTOP)
            waiting = await queued(*[drawing(workers, decoded) for _ in range(3)])
            await asyncio.sleep(0.05)
            os.kill(home.pid, signal.SIGKILL)
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(each).__name__ for each in answers] == [
                "PictureProcessEndedError",
                "DrawnImage",
                "DrawnImage",
            ]

    asyncio.run(killed())


def test_many_drawings_of_one_canvas_do_not_leave_other_processes_idle() -> None:
    async def popular() -> None:
        async with started(2) as workers:
            decoded = await workers.decode("a", decoding())
            assert decoded.canvas is not None
            home = workers._canvases.home(decoded.canvas.number)
            assert home is not None
            os.kill(home.pid, signal.SIGSTOP)
            waiting = await queued(*[drawing(workers, decoded, owner=n) for n in range(12)])
            # The other process draws all but the one in progress and those that may wait.
            await until(lambda: sum(each.done() for each in waiting) == 9)
            os.kill(home.pid, signal.SIGCONT)
            await asyncio.gather(*waiting)

    asyncio.run(popular())


def test_errors_reach_the_waiting_request() -> None:
    async def failing() -> None:
        async with started() as workers:
            pids = workers.pids
            with pytest.raises(ImageDecodeError) as caught:
                await workers.decode("a", decoding(b"no picture"))
            assert caught.value.field == "image"
            with pytest.raises(RuntimeError, match="AttributeError"):
                await workers.decode("a", decoding(rules=None))
            await workers.decode("a", decoding())
            assert workers.pids == pids

    asyncio.run(failing())


def test_canvases_are_dropped_with_the_last_reference() -> None:
    async def dropping() -> None:
        async with started() as workers:
            kept = await workers.decode("a", decoding())
            assert kept.canvas is not None
            (process,) = workers._running
            for _ in range(3):
                await workers.decode("a", decoding())
            await until(lambda: [*process.canvases] == [kept.canvas.number] and not process.dropped)
            await drawing(workers, kept)

    asyncio.run(dropping())


def test_closed_workers_leave_no_process() -> None:
    async def closing() -> list[int]:
        async with started(3) as workers:
            pids = [*workers.pids, *children(os.getpid())]
            with paused(workers):
                await queued(workers.decode("a", decoding()))
                await asyncio.sleep(0.05)
                await workers.close()
                assert not any(map(runs, workers.pids))
            return pids

    assert not any(map(runs, asyncio.run(closing())[:3]))


def test_closed_workers_cancel_every_request_and_take_no_more() -> None:
    async def scenario() -> list[Any]:
        async with started() as workers:
            with paused(workers):
                running = await queued(*(workers.decode(owner, decoding()) for owner in "abc"))
                await workers.close()
                results = await asyncio.wait_for(
                    asyncio.gather(*running, return_exceptions=True), 20
                )
            late = await queued(workers.decode("d", decoding()))
            return results + await asyncio.gather(*late, return_exceptions=True)

    results = asyncio.run(scenario())
    assert [type(each) for each in results] == [asyncio.CancelledError] * 4


def test_a_job_that_is_to_run_again_while_the_workers_close_is_cancelled() -> None:
    async def scenario() -> None:
        async with started() as workers:
            await workers.decode("a", decoding())
            (process,) = workers._running
            with paused(workers):
                (job,) = await queued(workers.decode("b", decoding()))
                closing = await queued(workers.close())
                workers._take_answer(process, OutOfMemory())
                await asyncio.gather(*closing)
                await asyncio.wait([job], timeout=10)
                assert job.cancelled()

    asyncio.run(scenario())


def test_numbers_alone_need_no_process() -> None:
    async def scenario() -> None:
        rules = DrawingRules(**DRAWING | {"overlay": False})
        async with started() as workers:
            decoded = await workers.decode("a", decoding(max_side=None))
            with paused(workers):
                numbers = workers.draw("a", MAPS, decoded.geometry, rules, None, None)
                drawn = await asyncio.wait_for(numbers, 5)
        expected = draw(MAPS, decoded.geometry, None, rules)
        assert [each.statistics for each in drawn.targets] == [
            each.statistics for each in expected.targets
        ]

    asyncio.run(scenario())


def test_workers_without_a_process_are_not_ready() -> None:
    assert (
        PictureWorkers(PictureLimits(1, 60, 1), Metrics([], [], [])).readiness_problem() is not None
    )

    async def ready() -> None:
        async with started() as workers:
            assert workers.readiness_problem() is None

    asyncio.run(ready())
