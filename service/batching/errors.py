"""What can go wrong between submitting an item to a micro-batcher and its result."""


class BatchingError(Exception):
    """Base class of every error the micro-batcher itself raises or sets on a future."""


class QueueFullError(BatchingError):
    """The queue has no room or no time for the item now; the same item may fit later.

    ``retry_after_seconds`` estimates when, from the measured drain rate.
    """

    def __init__(self, retry_after_seconds: float, reason: str = "The queue is full") -> None:
        super().__init__(f"{reason}; retry in {retry_after_seconds:.2f} s.")
        self.retry_after_seconds = retry_after_seconds


class ItemTooLargeError(BatchingError):
    """The item costs more than the whole queue may hold, so retrying cannot help."""

    def __init__(self, cost: float, max_queue_cost: float) -> None:
        super().__init__(f"The item costs {cost:g}; the whole queue holds {max_queue_cost:g}.")
        self.cost = cost
        self.max_queue_cost = max_queue_cost


class BatcherClosedError(BatchingError):
    """The batcher is draining or stopped: it takes no new items, or had no time for this one."""


class WorkerUnavailableError(BatchingError):
    """No worker is ready: it has not been started, is starting, or is restarting after a failure.

    ``retry_after_seconds`` is the shortest wait worth trying. The last failure, if there was
    one, is the ``__cause__``.
    """

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"The worker is not ready; retry in {retry_after_seconds:.2f} s.")
        self.retry_after_seconds = retry_after_seconds


class WorkerDiedError(BatchingError):
    """The worker died while the item was queued or being computed; ``__cause__`` says of what."""


class WorkerStalledError(BatchingError):
    """The worker hung while the item was queued or being computed, and was given up."""

    def __init__(self, limit_seconds: float) -> None:
        super().__init__(
            f"The worker did not come back within {limit_seconds:g} s and was given up."
        )
        self.limit_seconds = limit_seconds


class DeadlineExceededError(BatchingError):
    """The item's deadline passed before it was computed."""

    def __init__(self, waited_seconds: float) -> None:
        super().__init__(f"The deadline passed after {waited_seconds:.2f} s without a result.")
        self.waited_seconds = waited_seconds


class ResultCountError(BatchingError):
    """The processor returned more or fewer results than it was given items."""

    def __init__(self, expected: int, received: int) -> None:
        super().__init__(f"The processor returned {received} results for {expected} items.")
        self.expected = expected
        self.received = received


class ItemOutOfMemoryError(BatchingError):
    """The item does not fit in memory even alone; ``__cause__`` is the allocator's error."""
