"""A model, a running application and batchers that the tests of this folder share."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from recording_batcher import ROOMY, WAIT_SECONDS, MakeBatcher, RecordingProcessor
from running_app import RunningApp
from tiny_model import save_model

from service.batching import BatchLimits, MicroBatcher, RestartBackoff


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A `NAME@PATH` reference to a model that computes in milliseconds."""
    return save_model(tmp_path_factory.mktemp("model"), "tiny")


@pytest.fixture(scope="session")
def running(tiny_model: str) -> Iterator[RunningApp]:
    """An application with small limits, for every test that leaves it as it was."""
    with RunningApp(
        tiny_model,
        max_body_bytes=2_000_000,
        max_images=4,
        max_prompts=8,
        max_texts=100,
        max_image_pixels=4_000_000,
        max_input_size=256,
    ) as started:
        yield started


@pytest.fixture(scope="session", autouse=True)
def _silent_logs() -> None:
    """The real server's logs have tests of their own; drawing them for a person takes seconds."""
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.ReturnLoggerFactory(),
    )


@pytest.fixture
def make_batcher() -> Iterator[MakeBatcher]:
    """Starts batchers, and sees that none is left with work."""
    made: list[tuple[MicroBatcher[Any, Any], RecordingProcessor]] = []

    def make(
        processor: RecordingProcessor,
        limits: BatchLimits = ROOMY,
        *,
        ready: bool = True,
        **rest: Any,
    ) -> MicroBatcher[Any, Any]:
        rest.setdefault("restart_backoff", RestartBackoff(0.001, 0.001))
        batcher: MicroBatcher[Any, Any] = MicroBatcher("test", processor, limits, **rest)
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
