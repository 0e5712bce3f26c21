"""Reservations of the picture processes' time."""

import time
from contextlib import ExitStack

import pytest

from service.batching import whole_seconds
from service.errors import TooManyRequestsError
from service.pictures.capacity import PictureCapacity


def test_a_deadline_that_waiting_pictures_leave_no_time_for_is_refused() -> None:
    waiting = 0
    capacity = PictureCapacity(1, lambda _, more: waiting + more)
    for work in ("decode", "draw"):
        capacity.record(work, 10.0)
    capacity.check("a", time.monotonic())
    with capacity.reserve("a", time.monotonic() + 6000, 10):
        # Ten drawings, one more decoding and drawing, 10 s each, plus a margin of one half.
        capacity.check("a", time.monotonic() + 190)
        for deadline in (10, 100, 170):
            with pytest.raises(TooManyRequestsError) as caught:
                capacity.check("a", time.monotonic() + deadline)
        assert caught.value.retry_after_seconds is not None
        assert whole_seconds(caught.value.retry_after_seconds) >= 1
        waiting = 10
        with pytest.raises(TooManyRequestsError), capacity.reserve("a", time.monotonic() + 300, 1):
            raise AssertionError
    capacity.check("a", time.monotonic())


def test_target_pictures_are_decoded_and_not_drawn() -> None:
    capacity = PictureCapacity(1, lambda _, more: more)
    capacity.record("decode", 10.0)
    capacity.record("draw", 1000.0)
    deadline = time.monotonic() + 6000
    with capacity.reserve("a", deadline, 1, targets=15):
        # Sixteen decodings and two drawings, plus a margin of one half.
        for spare, targets in ((3300, 15), (3150, 1)):
            capacity.check("b", time.monotonic() + spare, 1, targets)
        with pytest.raises(TooManyRequestsError) as caught:
            capacity.check("b", time.monotonic() + 3150, 1, targets=15)
        assert caught.value.retry_after_seconds == pytest.approx(1.5 * (160 + 2000) - 3150, abs=10)
    assert not capacity._reserved


def test_more_processes_need_less_time() -> None:
    assert PictureCapacity(1, lambda _, more: more).drawing_seconds(8) == 0
    seconds = []
    for processes in (1, 4):
        capacity = PictureCapacity(processes, lambda _, more: more)
        capacity.record("draw", 0.1)
        seconds.append(capacity.drawing_seconds(8))
    assert seconds == pytest.approx([1.2, 0.3])


def test_the_pictures_of_others_count_as_far_as_they_have_their_turn_before() -> None:
    capacity = PictureCapacity(1, lambda _, more: more)
    for work in ("decode", "draw"):
        capacity.record(work, 10.0)
    late = time.monotonic() + 10_000
    with ExitStack() as stack:
        for number in range(24):
            stack.enter_context(capacity.reserve(f"heavy {number}", late, 16))
        # One decoding and 25 drawings, 10 s each, plus a margin of one half: of all that is drawn,
        # one picture of each.
        capacity.check("light", time.monotonic() + 400)
        with pytest.raises(TooManyRequestsError) as caught:
            capacity.check("heavy 0", time.monotonic() + 400)
    assert caught.value.retry_after_seconds == pytest.approx(
        1.5 * 10 * (1 + 24 * 16 + 1) - 400, 0.1
    )
    assert not capacity._reserved
