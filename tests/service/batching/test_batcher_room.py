"""Room in the queue that is held for items which are not made yet."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching import (
    BatcherClosedError,
    BatchLimits,
    ItemTooLargeError,
    MicroBatcher,
    QueueFullError,
)
from tests.support.recording_batcher import (
    WAIT_SECONDS,
    MakeBatcher,
    ManualClock,
    RecordingProcessor,
    result,
    submit_all,
)

LIMITS = BatchLimits(max_batch_items=8, max_batch_cost=100.0, max_queue_cost=10.0)


def test_room_that_is_held_is_nobody_else_s_until_it_is_given_back(
    make_batcher: MakeBatcher,
) -> None:
    processor = RecordingProcessor()
    batcher = make_batcher(processor, LIMITS)
    with processor.busy(batcher):
        with batcher.holding() as room:
            batcher.resize(room, 8.0)
            assert batcher.queue_cost == 0.0
            submit_all(batcher, "a", cost=2.0)
            with pytest.raises(QueueFullError):
                batcher.submit("b", bucket="bucket", cost=1.0)
        submit_all(batcher, "c", cost=8.0)


def test_items_take_their_room_with_them(make_batcher: MakeBatcher) -> None:
    processor = RecordingProcessor()
    batcher = make_batcher(processor, LIMITS)
    with processor.busy(batcher), batcher.holding() as room:
        batcher.resize(room, 9.0)
        submit_all(batcher, "a", cost=1.0)
        made = [batcher.submit(item, bucket="bucket", cost=4.5, room=room) for item in "bc"]
        assert batcher.queue_cost == 10.0
        with pytest.raises(QueueFullError):
            batcher.submit("d", bucket="bucket", cost=0.1, room=room)
    assert [result(each) for each in made] == [("done", "b"), ("done", "c")]
    assert processor.batches == [["blocker"], ["a", "b", "c"]]


def test_room_grows_only_where_there_is_some_and_stays_as_it_was_otherwise(
    make_batcher: MakeBatcher,
) -> None:
    processor = RecordingProcessor()
    batcher = make_batcher(processor, LIMITS)
    with processor.busy(batcher), batcher.holding() as room:
        batcher.resize(room, 3.0)
        submit_all(batcher, "a", cost=5.0)
        batcher.resize(room, 5.0)
        with pytest.raises(QueueFullError):
            batcher.resize(room, 5.5)
        with pytest.raises(ItemTooLargeError):
            batcher.resize(room, 10.5)
        batcher.submit("b", bucket="bucket", cost=5.0, room=room)


def test_room_that_shrinks_is_room_for_others(make_batcher: MakeBatcher) -> None:
    processor = RecordingProcessor()
    batcher = make_batcher(processor, LIMITS)
    with processor.busy(batcher), batcher.holding() as room:
        batcher.resize(room, 10.0)
        batcher.resize(room, 2.0)
        submit_all(batcher, "a", cost=8.0)


def test_time_is_refused_with_the_room_and_not_once_it_is_held(make_batcher: MakeBatcher) -> None:
    clock = ManualClock()

    def take_two_seconds(items: list[str]) -> list[str]:
        clock.advance(2.0)
        return items

    processor = RecordingProcessor(take_two_seconds)
    batcher = make_batcher(processor, LIMITS, clock=clock)
    result(batcher.submit("a", bucket="bucket", cost=8.0))  # so 4 units of cost per second
    with processor.busy(batcher), batcher.holding() as others, batcher.holding() as room:
        # 1 is being computed, 5 are held by others, and 2 of its own: 2 s, and half of that again.
        batcher.resize(others, 5.0)
        with pytest.raises(QueueFullError, match="no time"):
            batcher.resize(room, 2.0, deadline=4.9)
        batcher.resize(room, 2.0, deadline=5.0)
        batcher.submit("b", bucket="bucket", cost=2.0, deadline=4.9, room=room)
        assert batcher.queue_depth == 1


def test_held_room_does_not_keep_a_batcher_from_ending(make_batcher: MakeBatcher) -> None:
    batcher = make_batcher(RecordingProcessor(), LIMITS)
    with batcher.holding() as room:
        batcher.resize(room, 5.0)
        assert batcher.drain(WAIT_SECONDS)
        with pytest.raises(BatcherClosedError):
            batcher.submit("late", bucket="bucket", cost=5.0, room=room)


COSTS = st.floats(0.01, 9.99)


@given(st.lists(st.tuples(st.lists(COSTS, min_size=1, max_size=4), st.booleans()), max_size=12))
def test_what_fits_when_its_room_is_held_fits_when_it_is_submitted(
    requests: list[tuple[list[float], bool]],
) -> None:
    processor = RecordingProcessor()
    batcher: MicroBatcher[str, object] = MicroBatcher("rooms", processor, LIMITS)
    batcher.start()
    assert batcher.wait_until_ready(WAIT_SECONDS)
    try:
        with processor.busy(batcher):
            with ExitStack() as stack:
                held = []
                for costs, _ in requests:
                    room = stack.enter_context(batcher.holding())
                    try:
                        batcher.resize(room, sum(costs))
                    except (QueueFullError, ItemTooLargeError):
                        continue
                    held.append((room, costs))
                kept = [
                    each for each, (_, leaves) in zip(held, requests, strict=False) if not leaves
                ]
                for room, costs in kept:
                    for cost in costs:
                        batcher.submit("item", bucket="bucket", cost=cost, room=room)
                queued = batcher.queue_cost
                assert queued == pytest.approx(sum(sum(costs) for _, costs in kept))
                assert queued <= LIMITS.max_queue_cost * (1 + 1e-6)
            # All that was held and not used is free again.
            left = LIMITS.max_queue_cost - batcher.queue_cost
            if left > 0.01:
                batcher.submit("last", bucket="bucket", cost=left * (1 - 1e-9))
    finally:
        assert batcher.drain(WAIT_SECONDS)
