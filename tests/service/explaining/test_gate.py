"""A gate lets few through at once, and owners that wait take turns."""

import asyncio
from collections import Counter

from service.explaining.gate import Gate


def test_owners_take_turns_whatever_others_have_waiting() -> None:
    async def order() -> list[str]:
        gate, passed = Gate(1), []

        async def pass_through(owner: str) -> None:
            async with gate.passed(owner):
                passed.append(owner)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for owner in ("heavy",) * 5 + ("light",) * 2:
                group.create_task(pass_through(owner))
        return passed

    assert asyncio.run(order()) == ["heavy", "heavy", "light", "heavy", "light", "heavy", "heavy"]


def test_a_cancelled_caller_takes_no_place_whether_it_waits_or_has_just_had_its_turn() -> None:
    async def most_at_once() -> int:
        gate, inside, most = Gate(2), 0, 0

        async def pass_through(owner: str) -> None:
            nonlocal inside, most
            async with gate.passed(owner):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        for _ in range(3):
            await gate.enter("holder")
            await gate.enter("holder")
            waiting = [asyncio.create_task(pass_through(owner)) for owner in "aaab"]
            await asyncio.sleep(0)
            waiting[0].cancel()
            gate.leave("holder")
            # The one whose turn it is has not run yet.
            waiting[1].cancel()
            gate.leave("holder")
            waiting[2].cancel()
            await asyncio.wait(waiting)
            assert [task.cancelled() for task in waiting] == [True, True, True, False]
        assert not gate._waiting
        return most

    assert asyncio.run(most_at_once()) == 1


def test_an_owner_holds_at_most_as_many_places_as_it_leaves_free() -> None:
    async def held() -> tuple[int, ...]:
        gate, inside = Gate(8, leave_room=True), Counter[str]()

        async def enter(owner: str) -> None:
            await gate.enter(owner)
            inside[owner] += 1

        async def counts() -> tuple[int, ...]:
            for _ in range(3):
                await asyncio.sleep(0)
            return tuple(inside[owner] for owner in "abc")

        waiting = [asyncio.create_task(enter(owner)) for owner in "aaaaaabbbbbbc"]
        found = await counts()
        for _ in range(3):
            gate.leave("a")
            inside["a"] -= 1
        found += await counts()
        for task in waiting:
            task.cancel()
        return found

    assert asyncio.run(held()) == (4, 2, 1, 2, 3, 1)
