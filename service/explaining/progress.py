"""Progress of requests that are not answered yet."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.batching import Standing
from service.schemas.answers import Stage


class ProgressReading(NamedTuple):
    """The progress of a request at one moment.

    Attributes:
        stage: the current stage.
        position: position in the queue, from 1; None if the request is not queued.
        seconds: estimated seconds until it is computed; None if there is no estimate.
    """

    stage: Stage
    position: int | None = None
    seconds: float | None = None


@dataclass(slots=True)
class Progress:
    """The progress of one request. Holds none of its content."""

    _stage: Stage = "receiving"
    _standing: Callable[[Sequence[int]], Standing | None] | None = None
    _tickets: Sequence[int] = ()

    def enter(self, stage: Stage) -> None:
        """Record that a stage has begun."""
        self._stage, self._standing, self._tickets = stage, None, ()

    def enter_queue(
        self, standing: Callable[[Sequence[int]], Standing | None], tickets: Sequence[int]
    ) -> None:
        """Record that the pictures are queued.

        Args:
            standing: returns the progress of the last item of tickets; None once all are finished.
            tickets: one for each picture.
        """
        self._stage, self._standing, self._tickets = "queued", standing, tickets

    def read(self) -> ProgressReading:
        """Return the current progress, in the queue that of the last picture."""
        if self._standing is None:
            return ProgressReading(self._stage)
        last = self._standing(self._tickets) or Standing(0, 0.0)
        if last.position:
            return ProgressReading("queued", last.position, last.seconds)
        return ProgressReading("computing", None, last.seconds)


class ProgressBoard:
    """The progress of accepted requests, by request id; at most one for each slot."""

    def __init__(self) -> None:
        self._requests: dict[str, Progress] = {}

    @contextlib.contextmanager
    def follow(self, request_id: str) -> Iterator[Progress]:
        """Keep the progress of a request until the context ends.

        Of two requests with the same id, the later one is kept.
        """
        progress = self._requests[request_id] = Progress()
        try:
            yield progress
        finally:
            if self._requests.get(request_id) is progress:
                del self._requests[request_id]

    def read(self, request_id: str) -> ProgressReading:
        """Return the progress of a request; its stage is ``unknown`` if it is not in progress."""
        progress = self._requests.get(request_id)
        return ProgressReading("unknown") if progress is None else progress.read()
