"""Carries batches through one processor: launches the next one while the last one is computed."""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from service.batching.errors import ItemOutOfMemoryError, ResultCountError
from service.batching.execution import Computation, Processor, forget_locals
from service.batching.live_items import Pending

logger = logging.getLogger(__name__)

# One batch is computed, and one more waits on the device: a third would gain nothing.
_MOST_RUNNING = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Failures:
    """How errors of a processor are told apart.

    Attributes:
        out_of_memory: whether an error means an exhausted allocator.
        fatal: whether an error means that the worker cannot compute anything more.
    """

    out_of_memory: Callable[[Exception], bool]
    fatal: Callable[[Exception], bool]


@dataclass(slots=True, eq=False)
class _Batch(Generic[Item, Result]):
    """A batch from the queue, while it is computed in one or more parts."""

    items: list[Pending[Item, Result]]
    started_at: float
    parts: int = 1
    size: int = 0
    cost: float = 0.0


class _Part(NamedTuple, Generic[Item, Result]):
    """Items of a batch that are computed together.

    Attributes:
        batch: their batch.
        items: the items.
        alone: whether they failed beside another part and are tried again without one.
    """

    batch: _Batch[Item, Result]
    items: list[Pending[Item, Result]]
    alone: bool = False


class _Running(NamedTuple, Generic[Item, Result]):
    part: _Part[Item, Result]
    computation: Computation[Result]


@dataclass(slots=True, eq=False)
class Pipeline(Generic[Item, Result]):
    """Computes batches on the thread of one worker, during its life.

    A part of a batch that raises is halved and both halves are tried, down to single items: an
    oversized batch shrinks until it fits in memory, and one poisoned item fails without its
    neighbours. A part that fails beside another one is first tried again alone: the other one may
    have held the memory.

    Attributes:
        processor: computes the parts.
        still_wanted: filters a part just before it is launched, and ends the items it removes.
        finish: ends the items of a computed part with their outcomes.
        batch_finished: receives the computed items of a batch, their cost and the seconds it took.
        failures: tells the processor's errors apart.
        watching: watches one call of the processor for stalls.
        clock: returns seconds.
    """

    processor: Processor[Item, Result]
    still_wanted: Callable[[list[Pending[Item, Result]]], list[Pending[Item, Result]]]
    finish: Callable[[list[Pending[Item, Result]], list[Result | Exception]], None]
    batch_finished: Callable[[int, float, float], None]
    failures: Failures
    watching: Callable[[], AbstractContextManager[None]]
    clock: Callable[[], float]
    _waiting: list[_Part[Item, Result]] = field(default_factory=list)
    _running: deque[_Running[Item, Result]] = field(default_factory=deque)
    _finished_at: float = 0.0
    _launch_seconds: float = 0.0

    @property
    def wants_batch(self) -> bool:
        """Whether the next batch can be added: no part of the last one waits for its launch."""
        return not self._waiting

    @property
    def busy(self) -> bool:
        """Whether an item is not finished."""
        return bool(self._waiting or self._running)

    @property
    def done(self) -> bool:
        """Whether the results of the oldest launched part are there."""
        return bool(self._running) and self._running[0].computation.done

    def next_launch_at(self, seconds_for: Callable[[float], float | None]) -> float:
        """Return when the device is about to need its next batch; one part has to be running.

        Args:
            seconds_for: from a cost to the estimated seconds to compute it, None if unknown.
        """
        part = self._running[0].part
        cost = sum(pending.cost for pending in part.items)
        began = max(self._finished_at, part.batch.started_at)
        return began + (seconds_for(cost) or 0.0) - self._launch_seconds

    def add(self, items: list[Pending[Item, Result]]) -> None:
        """Add the next batch."""
        self._waiting.append(_Part(_Batch(items, self.clock()), items))

    def advance(self) -> None:
        """Launch the next part, or finish the oldest one; then finish every part that is done.

        Raises:
            Exception: a fatal failure of the processor.
        """
        if self._waiting:
            self._launch(self._waiting.pop())
        elif self._running:
            self._finish(self._running.popleft())
        while self.done or len(self._running) >= _MOST_RUNNING:
            self._finish(self._running.popleft())

    def _launch(self, part: _Part[Item, Result]) -> None:
        part = part._replace(items=self.still_wanted(part.items))
        if not part.items:
            self._end(part.batch)
            return
        began = self.clock()
        try:
            with self.watching():
                computation = self.processor.launch([pending.item for pending in part.items])
        except Exception as error:
            failure = error
        else:
            self._launch_seconds = self.clock() - began
            self._running.append(_Running(part, computation))
            return
        self._failed(part, failure)

    def _finish(self, running: _Running[Item, Result]) -> None:
        part = running.part
        try:
            with self.watching():
                # As a list: results that are computed lazily, while they are read, are watched too.
                outcomes = list(running.computation.results())
        except Exception as error:
            failure = error
        else:
            expected, received = len(part.items), len(outcomes)
            if received != expected:
                outcomes = [ResultCountError(expected, received) for _ in part.items]
            self._deliver(part, outcomes)
            return
        self._failed(part, failure)

    def _failed(self, part: _Part[Item, Result], error: Exception) -> None:
        if self.failures.fatal(error):
            raise error
        forget_locals(error)
        if self._running and not part.alone:
            while self._running:
                self._finish(self._running.popleft())
            self._waiting.append(part._replace(alone=True))
        elif len(part.items) > 1:
            logger.warning("A batch of %d failed; retrying in halves: %r", len(part.items), error)
            middle = len(part.items) // 2
            part.batch.parts += 1
            self._waiting += [
                _Part(part.batch, part.items[middle:]),
                _Part(part.batch, part.items[:middle]),
            ]
        elif self.failures.out_of_memory(error):
            refusal = ItemOutOfMemoryError("The item does not fit in memory even alone.")
            refusal.__cause__ = error
            self._deliver(part, [refusal])
        else:
            self._deliver(part, [error])

    def _deliver(self, part: _Part[Item, Result], outcomes: list[Result | Exception]) -> None:
        part.batch.size += len(part.items)
        part.batch.cost += sum(pending.cost for pending in part.items)
        self.finish(part.items, outcomes)
        self._end(part.batch)

    def _end(self, batch: _Batch[Item, Result]) -> None:
        """Count one finished part; report the batch after its last one."""
        batch.parts -= 1
        if batch.parts:
            return
        for pending in batch.items:
            pending.forget_item()
        now = self.clock()
        # The device computed the batch before until then.
        seconds = now - max(batch.started_at, self._finished_at)
        self._finished_at = now
        if batch.size:
            self.batch_finished(batch.size, batch.cost, seconds)
