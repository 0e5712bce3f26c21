"""Pools of threads that owners share fairly."""

import asyncio
import threading

from service.explaining.fair_threads import FairThreads

LARGE = 1_000_000


def test_functions_that_never_end_leave_threads_to_other_owners() -> None:
    async def answers() -> tuple[int, list[str]]:
        threads, release = FairThreads("test", 4, leave_room=True), threading.Event()
        entered = threading.Semaphore(0)

        def hang() -> None:
            entered.release()
            assert release.wait(60)

        hanging = [asyncio.create_task(threads.run("a", hang)) for _ in range(9)]
        for _ in range(2):
            await asyncio.to_thread(entered.acquire)
        # Callers that have given up have not ended their functions.
        for task in hanging:
            task.cancel()
        await asyncio.wait(hanging)
        waiting = asyncio.create_task(threads.run("a", str, "late"))
        others = [
            await asyncio.wait_for(threads.run(owner, str, f"of {owner}"), 20) for owner in "bcb"
        ]
        assert not waiting.done()
        release.set()
        assert await asyncio.wait_for(waiting, 20) == "late"
        threads.close()
        return entered._value, others

    assert asyncio.run(answers()) == (0, ["of b", "of c", "of b"])
