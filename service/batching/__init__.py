"""A micro-batcher: many threads submit single items, one worker per device computes batches.

Life cycle::

    batcher = MicroBatcher("vit-b-16", {"cuda:0": processor}, limits)
    batcher.start()
    batcher.wait_until_ready(timeout=60)
    submission = batcher.submit(item, bucket=("vit-b-16", 224), cost=1.0)
    submission.future.result()  # or asyncio.wrap_future(submission.future)
    batcher.drain(timeout=10)

A worker launches the next batch while its device computes the last one. Several workers share one
queue; one that fails leaves the others serving.

A worker is a non-daemon thread, because killing a daemon thread at interpreter exit can crash
inside native code. The interpreter therefore waits for the worker, and ``drain`` ends it. A hung
worker is abandoned and replaced, but its thread cannot be ended: a process with such a thread has
to end with ``os._exit``.
"""

from service.batching.batcher import DEFAULT_STALL_SECONDS, MicroBatcher
from service.batching.bucket_queue import BatchLimits
from service.batching.errors import (
    BatcherClosedError,
    BatchingError,
    DeadlineExceededError,
    ItemOutOfMemoryError,
    ItemTooLargeError,
    QueueFullError,
    ResultCountError,
    WorkerDiedError,
    WorkerStalledError,
    WorkerUnavailableError,
    whole_seconds,
)
from service.batching.execution import Computation, Computed, Processor
from service.batching.live_items import QueueReservation, Standing, Submission
from service.batching.observer import BatchObserver, DropReason, SilentObserver
from service.batching.pacing import RestartBackoff
from service.batching.shares import Shares
from service.batching.supervisor import BatcherState

__all__ = [
    "DEFAULT_STALL_SECONDS",
    "BatchLimits",
    "BatchObserver",
    "BatcherClosedError",
    "BatcherState",
    "BatchingError",
    "Computation",
    "Computed",
    "DeadlineExceededError",
    "DropReason",
    "ItemOutOfMemoryError",
    "ItemTooLargeError",
    "MicroBatcher",
    "Processor",
    "QueueFullError",
    "QueueReservation",
    "RestartBackoff",
    "ResultCountError",
    "Shares",
    "SilentObserver",
    "Standing",
    "Submission",
    "WorkerDiedError",
    "WorkerStalledError",
    "WorkerUnavailableError",
    "whole_seconds",
]
