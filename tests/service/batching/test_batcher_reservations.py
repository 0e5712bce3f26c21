"""Reservations of room in the queue for items that are not made yet."""

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
    reserved,
    result,
    submit_all,
)

LIMITS = BatchLimits(max_batch_items=8, max_batch_cost=100.0, max_queue_cost=10.0)


def test_reserved_room_is_refused_to_others_until_it_is_released(
    make_batcher: MakeBatcher,
) -> None:
    processor = RecordingProcessor()
    batcher = make_batcher(processor, LIMITS)
    with processor.busy(batcher):
        with reserved(batcher, 8.0):
            assert batcher.queue_cost == 0.0
            submit_all(batcher, "a", cost=2.0)
            with pytest.raises(QueueFullError):
                batcher.submit("b", bucket="bucket", cost=1.0)
        submit_all(batcher, "c", cost=8.0)


def test_items_use_up_their_reservation(make_batcher: MakeBatcher) -> None:
    processor = RecordingProcessor()
    batcher = make_batcher(processor, LIMITS)
    with processor.busy(batcher), reserved(batcher, 9.0) as reservation:
        submit_all(batcher, "a", cost=1.0)
        made = [
            batcher.submit(item, bucket="bucket", cost=4.5, reservation=reservation)
            for item in "bc"
        ]
        assert batcher.queue_cost == 10.0
        with pytest.raises(QueueFullError):
            batcher.submit("d", bucket="bucket", cost=0.1, reservation=reservation)
    assert [result(each) for each in made] == [("done", "b"), ("done", "c")]
    assert processor.batches == [["blocker"], ["a", "b", "c"]]


def test_a_reservation_grows_only_into_free_room_and_stays_as_it_was_otherwise(
    make_batcher: MakeBatcher,
) -> None:
    processor = RecordingProcessor()
    batcher = make_batcher(processor, LIMITS)
    with processor.busy(batcher), reserved(batcher, 3.0) as reservation:
        submit_all(batcher, "a", cost=5.0)
        batcher.reserve(5.0, reservation=reservation)
        with pytest.raises(QueueFullError):
            batcher.reserve(5.5, reservation=reservation)
        with pytest.raises(ItemTooLargeError):
            batcher.reserve(10.5, reservation=reservation)
        batcher.submit("b", bucket="bucket", cost=5.0, reservation=reservation)


def test_a_reservation_that_shrinks_leaves_room_for_others(make_batcher: MakeBatcher) -> None:
    processor = RecordingProcessor()
    batcher = make_batcher(processor, LIMITS)
    with processor.busy(batcher), reserved(batcher, 10.0) as reservation:
        batcher.reserve(2.0, reservation=reservation)
        submit_all(batcher, "a", cost=8.0)


def test_a_reservation_is_refused_for_lack_of_time_but_its_items_are_not(
    make_batcher: MakeBatcher,
) -> None:
    clock = ManualClock()

    def take_two_seconds(items: list[str]) -> list[str]:
        clock.advance(2.0)
        return items

    processor = RecordingProcessor(take_two_seconds)
    batcher = make_batcher(processor, LIMITS, clock=clock)
    result(batcher.submit("a", bucket="bucket", cost=8.0))  # so 4 units of cost per second
    with processor.busy(batcher), reserved(batcher, 5.0):
        # 1 is being computed, 5 are reserved by others, 2 are its own: 2 s, and a margin of 1 s.
        with pytest.raises(QueueFullError, match="no time"):
            batcher.reserve(2.0, deadline=4.9)
        reservation = batcher.reserve(2.0, deadline=5.0)
        batcher.submit("b", bucket="bucket", cost=2.0, deadline=4.9, reservation=reservation)
        assert batcher.queue_depth == 1


def test_an_owner_is_told_its_own_wait_and_not_that_of_the_whole_queue(
    make_batcher: MakeBatcher,
) -> None:
    clock = ManualClock()

    def take_two_seconds(items: list[str]) -> list[str]:
        clock.advance(2.0)
        return items

    processor = RecordingProcessor(take_two_seconds)
    limits = BatchLimits(max_batch_items=2, max_batch_cost=2.0, max_queue_cost=100.0)
    batcher = make_batcher(processor, limits, clock=clock)
    result(batcher.submit("a", bucket="bucket", cost=2.0))  # so 1 unit of cost per second
    with processor.busy(batcher):
        for item in range(60):
            batcher.submit(f"heavy {item}", bucket="bucket", cost=1.0, owner=item % 2)
        # 1 is being computed, then 1 of each of the three: 4 s, and a margin of 2 s.
        with pytest.raises(QueueFullError, match="no time"):
            batcher.submit("light", bucket="bucket", cost=1.0, deadline=7.9, owner="light")
        batcher.submit("light", bucket="bucket", cost=1.0, deadline=8.0, owner="light")
        # The owner of 30 waits for 31 of its own, 30 of the other and 1 of the light one.
        with pytest.raises(QueueFullError, match="no time") as caught:
            batcher.submit("more", bucket="bucket", cost=1.0, deadline=8.0, owner=0)
        assert caught.value.retry_after_seconds == pytest.approx(2.0 + 1.5 * 63 - 8.0)


def test_a_full_queue_has_room_for_an_owner_with_little_and_tells_each_its_own_wait(
    make_batcher: MakeBatcher,
) -> None:
    processor = RecordingProcessor()
    batcher = make_batcher(processor, BatchLimits(1, 100.0, 96.0))
    batcher.expect(cost=1.0, seconds=1.0)
    with processor.busy(batcher):
        for item in range(96):
            batcher.submit(f"heavy {item}", bucket="bucket", cost=1.0, owner="heavy")
        with pytest.raises(QueueFullError) as heavy:
            batcher.submit("more", bucket="bucket", cost=20.0, owner="heavy")
        with pytest.raises(QueueFullError) as large:
            batcher.reserve(20.0, owner="large")
        # One is being computed. The large one needs room, the heavy one has more than its share.
        assert large.value.retry_after_seconds == 1.0 + 20.0
        assert heavy.value.retry_after_seconds == 1.0 + 20.0
        with pytest.raises(QueueFullError) as contended:
            batcher.submit("more", bucket="bucket", cost=20.0, owner="heavy")
        assert contended.value.retry_after_seconds == 1.0 + 116.0 - 108.0 / 2
        first = batcher.submit("light", bucket="bucket", cost=1.0, owner="light")
        assert batcher.queue_cost == 97.0
    assert result(first) == ("done", "light")
    assert processor.batches.index(["light"]) <= 3


def test_a_reservation_does_not_keep_a_batcher_from_ending(make_batcher: MakeBatcher) -> None:
    batcher = make_batcher(RecordingProcessor(), LIMITS)
    with reserved(batcher, 5.0) as reservation:
        assert batcher.drain(WAIT_SECONDS)
        with pytest.raises(BatcherClosedError):
            batcher.submit("late", bucket="bucket", cost=5.0, reservation=reservation)


COSTS = st.floats(0.01, 9.99)


@given(st.lists(st.tuples(st.lists(COSTS, min_size=1, max_size=4), st.booleans()), max_size=12))
def test_reserved_items_are_never_refused(
    requests: list[tuple[list[float], bool]],
) -> None:
    processor = RecordingProcessor()
    batcher: MicroBatcher[str, object] = MicroBatcher("rooms", {"cpu": processor}, LIMITS)
    batcher.start()
    assert batcher.wait_until_ready(WAIT_SECONDS)
    try:
        with processor.busy(batcher):
            with ExitStack() as stack:
                held = []
                for costs, _ in requests:
                    try:
                        reservation = stack.enter_context(reserved(batcher, sum(costs)))
                    except (QueueFullError, ItemTooLargeError):
                        continue
                    held.append((reservation, costs))
                kept = [
                    each for each, (_, leaves) in zip(held, requests, strict=False) if not leaves
                ]
                for reservation, costs in kept:
                    for cost in costs:
                        batcher.submit("item", bucket="bucket", cost=cost, reservation=reservation)
                queued = batcher.queue_cost
                assert queued == pytest.approx(sum(sum(costs) for _, costs in kept))
                assert queued <= LIMITS.max_queue_cost * (1 + 1e-6)
            # Unused reservations are free again.
            left = LIMITS.max_queue_cost - batcher.queue_cost
            if left > 0.01:
                batcher.submit("last", bucket="bucket", cost=left * (1 - 1e-9))
    finally:
        assert batcher.drain(WAIT_SECONDS)
