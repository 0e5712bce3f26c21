"""Batchers for the tests of this folder."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.batching import BatchLimits, MicroBatcher, RestartBackoff
from tests.support.recording_batcher import (
    ROOMY,
    WAIT_SECONDS,
    MakeBatcher,
    RecordingProcessor,
)


@pytest.fixture
def make_batcher() -> Iterator[MakeBatcher]:
    """Start batchers, and check in the end that each of them drains."""
    made: list[tuple[MicroBatcher[Any, Any], RecordingProcessor]] = []

    def make(
        processor: RecordingProcessor,
        limits: BatchLimits = ROOMY,
        *,
        ready: bool = True,
        **rest: Any,
    ) -> MicroBatcher[Any, Any]:
        rest.setdefault("restart_backoff", RestartBackoff(0.001, 0.001))
        batcher: MicroBatcher[Any, Any] = MicroBatcher("test", {"cpu": processor}, limits, **rest)
        made.append((batcher, processor))
        batcher.start()
        if ready:
            assert batcher.wait_until_ready(WAIT_SECONDS)
        return batcher

    yield make
    for batcher, processor in made:
        processor.release()
        assert batcher.drain(WAIT_SECONDS)
        assert (batcher.queue_depth, batcher.queue_cost) == (0, 0.0)
