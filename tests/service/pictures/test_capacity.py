"""Reservations of the picture processes' time."""

import time

import pytest

from service.batching import whole_seconds
from service.errors import TooManyRequestsError
from service.pictures.capacity import PictureCapacity


def test_a_deadline_that_waiting_pictures_leave_no_time_for_is_refused() -> None:
    waiting = 0
    capacity = PictureCapacity(1, lambda: waiting)
    for work in ("decode", "draw"):
        capacity.record(work, 0.1)
    capacity.check(time.monotonic())
    with capacity.reserve(time.monotonic() + 60, 10):
        # Ten drawings, one more decoding and drawing, 0.1 s each, plus a margin of one half.
        capacity.check(time.monotonic() + 1.9)
        for deadline in (0.1, 1.0, 1.7):
            with pytest.raises(TooManyRequestsError) as caught:
                capacity.check(time.monotonic() + deadline)
        assert caught.value.retry_after_seconds is not None
        assert whole_seconds(caught.value.retry_after_seconds) >= 1
        waiting = 10
        with pytest.raises(TooManyRequestsError), capacity.reserve(time.monotonic() + 3.0, 1):
            raise AssertionError
    capacity.check(time.monotonic())


def test_more_processes_need_less_time() -> None:
    assert PictureCapacity(1, int).drawing_seconds(8) == 0
    seconds = []
    for processes in (1, 4):
        capacity = PictureCapacity(processes, int)
        capacity.record("draw", 0.1)
        seconds.append(capacity.drawing_seconds(8))
    assert seconds == pytest.approx([1.2, 0.3])
