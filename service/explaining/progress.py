"""How far requests are that are not answered yet, for whoever waits for them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from service.batching import Standing

Stage = Literal["unknown", "receiving", "loading", "preparing", "queued", "computing", "drawing"]


class ProgressReading(NamedTuple):
    """How far a request is now.

    ``position`` counts from 1 while it is queued, and is None else. ``seconds`` estimates the time
    until it is computed; None where nobody can tell.
    """

    stage: Stage
    position: int | None = None
    seconds: float | None = None


@dataclass(slots=True)
class Progress:
    """How far one request is. Holds nothing of what it asks."""

    _stage: Stage = "receiving"
    _standing: Callable[[int], Standing | None] | None = None
    _tickets: Sequence[int] = ()

    def enter(self, stage: Stage) -> None:
        """Notes that a stage has begun."""
        self._stage, self._standing, self._tickets = stage, None, ()

    def enter_queue(
        self, standing: Callable[[int], Standing | None], tickets: Sequence[int]
    ) -> None:
        """Notes that its pictures are queued; ``standing`` tells where each of them is."""
        self._stage, self._standing, self._tickets = "queued", standing, tickets

    def read(self) -> ProgressReading:
        """How far it is; of several pictures the last one counts."""
        if self._standing is None:
            return ProgressReading(self._stage)
        found = [each for each in map(self._standing, self._tickets) if each is not None]
        last = max(found, key=lambda each: each.position, default=Standing(0, 0.0))
        if last.position:
            return ProgressReading("queued", last.position, last.seconds)
        return ProgressReading("computing", None, last.seconds)


class ProgressBoard:
    """The requests in progress by their ids; as many as hold a permit."""

    def __init__(self) -> None:
        self._requests: dict[str, Progress] = {}

    @contextlib.contextmanager
    def follow(self, request_id: str) -> Iterator[Progress]:
        """Knows a request until it is answered. Of two with the same id, the later one."""
        progress = self._requests[request_id] = Progress()
        try:
            yield progress
        finally:
            if self._requests.get(request_id) is progress:
                del self._requests[request_id]

    def read(self, request_id: str) -> ProgressReading:
        """How far a request is; ``unknown`` if it is not in progress here."""
        progress = self._requests.get(request_id)
        return ProgressReading("unknown") if progress is None else progress.read()
