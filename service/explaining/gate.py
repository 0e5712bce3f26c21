"""A gate that lets few through at once; owners that wait for it take turns."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Gate:
    """A semaphore that is fair among owners. Used on the event loop only."""

    def __init__(self, places: int, *, leave_room: bool = False) -> None:
        """Create it.

        Args:
            places: number of places.
            leave_room: whether an owner may hold at most as many places as it leaves free. Then
                owners whose work never ends do not keep all others out.
        """
        self._free = places
        self._leave_room = leave_room
        self._held: Counter[Hashable] = Counter()
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def passed(self, owner: Hashable) -> AsyncIterator[None]:
        """Wait for a place, and hold it until the context ends."""
        await self.enter(owner)
        try:
            yield
        finally:
            self.leave(owner)

    async def enter(self, owner: Hashable) -> None:
        """Wait for a place; :meth:`leave` gives it back."""
        if self._admits(owner):
            self._take(owner)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(owner, turn)
            else:
                # It had its turn already.
                self.leave(owner)
            raise

    def leave(self, owner: Hashable) -> None:
        """Take the place of an owner back, and give it to the one whose turn it is."""
        self._free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        while self._free and self._give_turn():
            pass

    def _admits(self, owner: Hashable) -> bool:
        return self._free > (self._held[owner] if self._leave_room else 0)

    def _take(self, owner: Hashable) -> None:
        self._free -= 1
        self._held[owner] += 1

    def _give_turn(self) -> bool:
        """Give a place to the owner whose turn it is; return False if none that waits gets one."""
        for owner in self._waiting:
            if self._admits(owner):
                break
        else:
            return False
        turns = self._waiting.pop(owner)
        turn = turns.popleft()
        if turns:
            self._waiting[owner] = turns
        # A cancelled one has not run yet to leave the queue.
        if not turn.done():
            self._take(owner)
            turn.set_result(None)
        return True

    def _forget(self, owner: Hashable, turn: "asyncio.Future[None]") -> None:
        turns = self._waiting.get(owner, deque())
        if turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[owner]
