"""Errors of the micro-batcher."""

import math


def whole_seconds(seconds: float) -> int:
    """Return a wait as it is told to callers: whole seconds, at least one."""
    return max(1, math.ceil(seconds))


class BatchingError(Exception):
    """Base class of every error that the micro-batcher raises or sets on a future."""


class QueueFullError(BatchingError):
    """The queue has no room or no time for the item now; the same item may fit later.

    Attributes:
        retry_after_seconds: estimated time until the item fits, from the measured drain rate.
    """

    def __init__(self, retry_after_seconds: float, reason: str = "The queue is full") -> None:
        super().__init__(f"{reason}; retry in {whole_seconds(retry_after_seconds)} s.")
        self.retry_after_seconds = retry_after_seconds


class ItemTooLargeError(BatchingError):
    """The item costs more than the whole queue may hold: a retry cannot help."""

    def __init__(self, cost: float, max_queue_cost: float) -> None:
        super().__init__(f"The item costs {cost:g}; the whole queue holds {max_queue_cost:g}.")


class BatcherClosedError(BatchingError):
    """The batcher is draining or stopped: it refuses new items and fails unfinished ones."""


class WorkerUnavailableError(BatchingError):
    """No worker is ready: it has not been started, is starting, or is restarting after a failure.

    The last failure, if there was one, is the ``__cause__``.

    Attributes:
        retry_after_seconds: shortest wait before a retry can succeed.
    """

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(
            f"The worker is not ready; retry in {whole_seconds(retry_after_seconds)} s."
        )
        self.retry_after_seconds = retry_after_seconds


class WorkerDiedError(BatchingError):
    """The worker died while the item was queued or being computed; ``__cause__`` is its failure."""


class WorkerStalledError(BatchingError):
    """The worker hung while the item was queued or being computed, and was abandoned."""

    def __init__(self, limit_seconds: float) -> None:
        super().__init__(f"The worker did not return within {limit_seconds:g} s and was abandoned.")


class DeadlineExceededError(BatchingError):
    """The item's deadline passed before it was computed."""

    def __init__(self, waited_seconds: float) -> None:
        super().__init__(f"The deadline passed after {waited_seconds:.2f} s without a result.")


class ResultCountError(BatchingError):
    """The processor returned more or fewer results than it received items."""

    def __init__(self, expected: int, received: int) -> None:
        super().__init__(f"The processor returned {received} results for {expected} items.")


class ItemOutOfMemoryError(BatchingError):
    """The item does not fit in memory even alone; ``__cause__`` is the allocator's error."""
