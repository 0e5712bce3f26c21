"""Run one batch through a processor, splitting it when it fails as a whole."""

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
        """Prepare, before the first batch of each worker; a failure is retried later."""

    def process(self, items: Sequence[ItemIn]) -> Sequence[ResultOut | Exception]:
        """Return one result per item, in order; an exception among them fails that item alone.

        Raising fails the whole batch, which is then retried in halves, so a call may see items
        of an earlier, failed call again.
        """

    def stop(self) -> None:
        """Release what ``start`` acquired; called once for every ``start`` that returned."""

    def abandon(self) -> None:
        """Give up the call that hangs; called in place of ``stop``, on another thread.

        Whatever that call still does must have no effect that anybody sees. ``start`` and
        ``process`` may follow on a new thread while it still runs.
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
    """Yield the batch with its outcomes, part by part, as they become known.

    A part that raises is halved and both halves are tried, down to single items: an oversized
    batch shrinks until it fits in memory, and one poisoned item fails without its neighbours.
    At most ``2 * len(batch) - 1`` calls are made. ``still_wanted`` filters each part just before
    it is computed; items it leaves out are not yielded.
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
    """Drop what the frames in an error's traceback hold; the traceback still prints.

    A retry after running out of memory can only succeed once the failed attempt's arrays are
    gone, and they live in those frames for as long as anybody keeps the error.
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
