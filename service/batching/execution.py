"""Runs one batch through a processor and splits it in halves when it fails as a whole."""

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from service.batching.errors import ItemOutOfMemoryError, ResultCountError
from service.batching.live_items import Pending

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn = TypeVar("ItemIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


class Processor(Protocol[ItemIn, ResultOut]):
    """The computation behind a micro-batcher.

    Every method but ``abandon`` runs on the worker's own thread.
    """

    def start(self) -> None:
        """Prepare for the first batch of a worker; a failure is retried later by a new worker."""

    def process(self, items: Sequence[ItemIn]) -> Sequence[ResultOut | Exception]:
        """Return one result per item, in order; an exception in the list fails its item alone.

        Raising fails the whole batch, which is then retried in halves: a call may receive items
        of an earlier, failed call again.
        """

    def stop(self) -> None:
        """Release what ``start`` acquired; called once for each ``start`` that returned."""

    def abandon(self) -> None:
        """Abandon the hanging call; called in place of ``stop``, on another thread.

        From now on that call must have no visible effect. ``start`` and ``process`` may be called
        on a new thread while it still runs.
        """


@dataclass(frozen=True)
class _Raised:
    error: Exception


def run_in_parts(
    process: Callable[[Sequence[Item]], Sequence[Result | Exception]],
    batch: list[Pending[Item, Result]],
    *,
    still_wanted: Callable[[list[Pending[Item, Result]]], list[Pending[Item, Result]]],
    is_out_of_memory: Callable[[Exception], bool],
) -> Iterator[tuple[list[Pending[Item, Result]], list[Result | Exception]]]:
    """Yield the parts of a batch with their outcomes, as they are computed.

    A part that raises is halved and both halves are tried, down to single items: an oversized
    batch shrinks until it fits in memory, and one poisoned item fails without its neighbours.
    At most ``2 * len(batch) - 1`` calls are made.

    Args:
        process: computes one part; see ``Processor.process``.
        batch: the items.
        still_wanted: filters each part just before it is computed; removed items are not yielded.
        is_out_of_memory: tells an exhausted allocator from other errors.
    """
    parts = [batch]
    while parts:
        part = still_wanted(parts.pop())
        if not part:
            continue
        attempt = _attempt(process, [pending.item for pending in part])
        if not isinstance(attempt, _Raised):
            if len(attempt) == len(part):
                yield part, attempt
            else:
                yield part, [ResultCountError(len(part), len(attempt)) for _ in part]
            continue
        forget_locals(attempt.error)
        if len(part) > 1:
            logger.warning("A batch of %d failed; retrying in halves: %r", len(part), attempt.error)
            middle = len(part) // 2
            parts += [part[middle:], part[:middle]]
        elif is_out_of_memory(attempt.error):
            refusal = ItemOutOfMemoryError("The item does not fit in memory even alone.")
            refusal.__cause__ = attempt.error
            yield part, [refusal]
        else:
            yield part, [attempt.error]


def forget_locals(error: BaseException) -> None:
    """Clear the local variables of all frames in an error's traceback; it can still be printed.

    A retry after running out of memory can succeed only once the arrays of the failed attempt are
    freed, and the frames keep them for as long as the error is kept.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        current = current.__cause__ or current.__context__


def _attempt(
    process: Callable[[Sequence[Item]], Sequence[Result | Exception]], items: list[Item]
) -> list[Result | Exception] | _Raised:
    try:
        return list(process(items))
    except Exception as error:
        return _Raised(error)
