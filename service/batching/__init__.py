"""A micro-batcher: many threads submit single items, one worker thread computes batches.

Life cycle::

    batcher = MicroBatcher("vit-b-16", processor, limits)
    batcher.start()
    batcher.wait_until_ready(timeout=60)
    submission = batcher.submit(item, bucket=("vit-b-16", 224), cost=1.0)
    submission.future.result()  # or asyncio.wrap_future(submission.future)
    batcher.drain(timeout=10)

The worker is a non-daemon thread, because killing a daemon thread at interpreter exit can crash
inside native code. The interpreter therefore waits for it: ``drain`` is the way to end.
"""

from service.batching.batcher import BatcherState, MicroBatcher
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
    WorkerUnavailableError,
)
from service.batching.execution import Processor
from service.batching.live_items import Standing, Submission
from service.batching.observer import BatchObserver, DropReason, SilentObserver
from service.batching.pacing import RestartBackoff

__all__ = [
    "BatchLimits",
    "BatchObserver",
    "BatcherClosedError",
    "BatcherState",
    "BatchingError",
    "DeadlineExceededError",
    "DropReason",
    "ItemOutOfMemoryError",
    "ItemTooLargeError",
    "MicroBatcher",
    "Processor",
    "QueueFullError",
    "RestartBackoff",
    "ResultCountError",
    "SilentObserver",
    "Standing",
    "Submission",
    "WorkerDiedError",
    "WorkerUnavailableError",
]
