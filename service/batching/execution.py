"""The interface of a processor, and one attempt to compute a part of a batch."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Result = TypeVar("Result")
ItemIn = TypeVar("ItemIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


class Computation(Protocol[ResultOut]):
    """A batch that a device computes, or has computed."""

    @property
    def done(self) -> bool:
        """Whether :meth:`results` returns without waiting for the device."""

    def results(self) -> Sequence[ResultOut | Exception]:
        """Wait for the device; return one result per item, in order. Called at most once.

        An exception in the list fails its item alone. Raising fails the whole batch, as in
        :meth:`Processor.launch`.
        """


@dataclass(frozen=True, slots=True)
class Computed(Generic[Result]):
    """A computation that was over when its launch returned."""

    outcomes: Sequence[Result | Exception]
    done: bool = True

    def results(self) -> Sequence[Result | Exception]:
        """Return the outcomes."""
        return self.outcomes


class Processor(Protocol[ItemIn, ResultOut]):
    """The computation behind one worker of a micro-batcher.

    Every method but ``abandon`` runs on the worker's own thread.
    """

    def start(self) -> None:
        """Prepare for the first batch of a worker; a failure is retried later by a new worker."""

    def launch(self, items: Sequence[ItemIn]) -> Computation[ResultOut]:
        """Begin to compute a batch; do not wait for a device that computes by itself.

        One more batch may be launched before the results of this one are taken. Raising fails the
        whole batch, which is then retried in halves: a call may receive items of an earlier, failed
        call again.
        """

    def stop(self) -> None:
        """Release what ``start`` acquired; called once for each ``start`` that returned."""

    def abandon(self) -> None:
        """Abandon the hanging call; called in place of ``stop``, on another thread.

        From now on that call must have no visible effect. ``start`` and ``launch`` may be called on
        a new thread while it still runs.
        """


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
