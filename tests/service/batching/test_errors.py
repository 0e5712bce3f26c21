"""Errors of the micro-batcher, as callers read them."""

import pytest

from service.batching import QueueFullError, WorkerUnavailableError, whole_seconds
from service.http.problems import describe


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0, 1), (0.004, 1), (1.0, 1), (1.001, 2), (59.5, 60)]
)
def test_text_and_header_tell_the_same_wait(seconds: float, told: int) -> None:
    assert whole_seconds(seconds) == told
    for error in (QueueFullError(seconds), WorkerUnavailableError(seconds)):
        problem = describe(error)
        assert problem is not None
        assert problem.headers["Retry-After"] == str(told)
        assert problem.detail.endswith(f"retry in {told} s.")
