"""The parts of the micro-batcher without threads: bucket queue, live items and pacing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.bucket_queue import BatchLimits, BucketQueue, QueueEntry
from service.batching.live_items import LiveItems, Pending, Submission
from service.batching.pacing import DrainRate, RestartBackoff


def entry(
    ticket: int,
    bucket: str = "bucket",
    cost: float = 1.0,
    deadline: float | None = None,
    enqueued_at: float = 0.0,
    owner: str | None = None,
) -> QueueEntry:
    return QueueEntry(
        ticket=ticket,
        bucket=bucket,
        cost=cost,
        deadline=deadline,
        enqueued_at=enqueued_at,
        owner=owner,
    )


def queue_of(limits: BatchLimits, *entries: QueueEntry) -> BucketQueue[QueueEntry]:
    queue: BucketQueue[QueueEntry] = BucketQueue(limits)
    for item in entries:
        queue.append(item)
    return queue


def tickets(entries: list[QueueEntry]) -> list[int]:
    return [item.ticket for item in entries]


class TestBatchLimits:
    @pytest.mark.parametrize(
        "limits",
        [
            {"max_batch_items": 0},
            {"max_batch_cost": 0.0},
            {"max_queue_cost": float("nan")},
            {"max_wait_seconds": -1.0},
            {"max_wait_seconds": float("inf")},
        ],
    )
    def test_limits_that_admit_no_item_are_refused(self, limits: dict[str, float]) -> None:
        sensible = {"max_batch_items": 1, "max_batch_cost": 1.0, "max_queue_cost": 1.0}
        BatchLimits(**sensible)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=next(iter(limits))):
            BatchLimits(**{**sensible, **limits})  # type: ignore[arg-type]


class TestBucketQueue:
    ROOMY = BatchLimits(100, 100.0, 100.0)

    def test_an_empty_queue_has_no_batch_and_nothing_due(self) -> None:
        queue = queue_of(self.ROOMY)
        assert queue.take_batch(0.0) == []
        assert queue.next_dispatch_at() is None

    def test_an_empty_queue_has_a_cost_of_exactly_zero(self) -> None:
        costs = (0.1, 0.2, 0.3)
        assert sum(costs) - 0.1 - 0.2 - 0.3 != 0.0
        queue = queue_of(self.ROOMY, *(entry(n, cost=cost) for n, cost in enumerate(costs)))
        for ticket in range(3):
            queue.remove(ticket)
        assert queue.cost == 0.0

    def test_an_entry_is_removed_once(self) -> None:
        queue = queue_of(self.ROOMY, entry(1), entry(2))
        removed = queue.remove(1)
        assert removed is not None
        assert removed.ticket == 1
        assert queue.remove(1) is None
        assert (len(queue), queue.cost) == (1, 1.0)

    def test_a_deadline_is_missed_at_its_very_instant(self) -> None:
        queue = queue_of(self.ROOMY, entry(1, deadline=5.0), entry(2, deadline=5.1), entry(3))
        assert tickets(queue.remove_expired(5.0)) == [1]
        assert tickets(queue.remove_all()) == [2, 3]

    def test_a_batch_filled_to_the_cost_limit_is_full(self) -> None:
        queue = queue_of(BatchLimits(9, 3.0, 100.0, 60.0), entry(1, cost=1.0), entry(2, cost=1.0))
        assert queue.take_batch(0.0) == []
        queue.append(entry(3, cost=1.0))
        assert tickets(queue.take_batch(0.0)) == [1, 2, 3]

    def test_a_batch_the_next_entry_does_not_fit_is_full(self) -> None:
        queue = queue_of(BatchLimits(9, 3.0, 100.0, 60.0), entry(1, cost=2.0), entry(2, cost=2.0))
        assert tickets(queue.take_batch(0.0)) == [1]
        assert queue.take_batch(0.0) == []

    def test_the_next_dispatch_is_that_of_the_oldest_entry_of_any_bucket(self) -> None:
        limits = BatchLimits(9, 100.0, 100.0, 60.0)
        queue = queue_of(
            limits, entry(1, "a", enqueued_at=7.0), entry(2, "b", enqueued_at=5.0), entry(3, "b")
        )
        queue.remove(3)
        assert queue.next_dispatch_at() == 65.0
        assert queue.take_batch(64.9) == []
        assert tickets(queue.take_batch(65.0)) == [2]

    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.5, 1.0, 2.5, 4.0, 9.0]))),
        st.integers(1, 4),
        st.sampled_from([1.0, 4.0, 7.5]),
    )
    def test_batches_respect_every_limit_lose_nothing_and_keep_the_order(
        self, arrivals: list[tuple[str, float]], max_items: int, max_cost: float
    ) -> None:
        limits = BatchLimits(max_items, max_cost, 1000.0)
        entries = [entry(n, bucket, cost) for n, (bucket, cost) in enumerate(arrivals)]
        queue = queue_of(limits, *entries)
        taken: list[QueueEntry] = []
        since_served = dict.fromkeys("abc", 0)
        while batch := queue.take_batch(0.0):
            assert len({item.bucket for item in batch}) == 1
            assert len(batch) <= max_items
            assert len(batch) == 1 or sum(item.cost for item in batch) <= max_cost
            taken += batch
            for bucket in since_served:
                since_served[bucket] = 0 if bucket == batch[0].bucket else since_served[bucket] + 1
                waiting = any(i.bucket == bucket for i in entries if i not in taken)
                assert not waiting or since_served[bucket] < len(since_served)
        assert sorted(tickets(taken)) == tickets(entries)
        for bucket in "abc":
            in_bucket = [item.ticket for item in taken if item.bucket == bucket]
            assert in_bucket == sorted(in_bucket)
        assert (len(queue), queue.cost) == (0, 0.0)


class TestLiveItems:
    @staticmethod
    def pending(ticket: int, deadline: float | None = None) -> Pending[str, str]:
        return Pending(
            ticket=ticket,
            bucket="bucket",
            cost=1.0,
            deadline=deadline,
            enqueued_at=0.0,
            item="item",
            submission=Submission(ticket),
        )

    def test_an_item_cancelled_just_before_it_is_taken_is_counted_and_left_out(self) -> None:
        live: LiveItems[str, str] = LiveItems(BatchLimits(8, 8.0, 8.0))
        kept, cancelled, late = self.pending(1), self.pending(2), self.pending(3, deadline=1.0)
        for pending in (kept, cancelled, late):
            live.enqueue(pending)
        # The item is cancelled, but the callback has not withdrawn it yet.
        cancelled.submission.future.cancel()
        late.submission.future.cancel()
        assert live.next_batch(1.0, "cpu", without_waiting=False) == ([kept], [], 2)
        assert live.withdraw(cancelled.ticket, 1.0) is False
        assert live.in_flight_cost == 1.0

    def test_an_item_its_holder_resolved_just_before_it_is_taken_is_left_out(self) -> None:
        live: LiveItems[str, str] = LiveItems(BatchLimits(8, 8.0, 8.0))
        kept, resolved = self.pending(1), self.pending(2)
        for pending in (kept, resolved):
            live.enqueue(pending)
        resolved.submission.future.set_result("mine")
        assert live.next_batch(0.0, "cpu", without_waiting=False) == ([kept], [], 1)

    def test_an_item_has_one_owner(self) -> None:
        live: LiveItems[str, str] = LiveItems(BatchLimits(8, 8.0, 8.0))
        queued, running = self.pending(1), self.pending(2)
        live.enqueue(running)
        live.next_batch(0.0, "cpu", without_waiting=False)
        live.enqueue(queued)
        assert live.claim_all(0.0) == ([running, queued], 0)
        assert live.claim_all(0.0) == ([], 0)
        assert not live.take_in_flight(running)
        assert not live.withdraw(queued.ticket, 0.0)
        assert live.still_wanted([running], 0.0) == ([], [])

    def test_an_item_that_expires_in_flight_is_taken_out_of_it(self) -> None:
        live: LiveItems[str, str] = LiveItems(BatchLimits(8, 8.0, 8.0))
        hasty, patient = self.pending(1, deadline=2.0), self.pending(2)
        live.enqueue(hasty)
        live.enqueue(patient)
        live.next_batch(0.0, "cpu", without_waiting=False)
        assert live.still_wanted([hasty, patient], 2.0) == ([patient], [hasty])
        assert not live.take_in_flight(hasty)
        assert live.take_in_flight(patient)


class TestPacing:
    def test_the_backoff_doubles_from_the_initial_to_the_maximum_delay(self) -> None:
        backoff = RestartBackoff(initial_seconds=0.5, maximum_seconds=3.0)
        assert [backoff.delay_seconds(n) for n in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]
        assert backoff.delay_seconds(10_000) == 3.0

    def test_no_rate_is_claimed_before_anything_was_measured(self) -> None:
        rate = DrainRate()
        assert rate.seconds_for(1.0) is None
        rate.record(cost=4.0, seconds=0.0)
        assert rate.seconds_for(1.0) is None

    def test_the_first_measurement_counts_in_full(self) -> None:
        rate = DrainRate()
        rate.record(cost=8.0, seconds=2.0)
        assert rate.seconds_for(10.0) == 2.5

    def test_the_rate_follows_a_lasting_change(self) -> None:
        rate = DrainRate()
        rate.record(cost=10.0, seconds=1.0)
        rate.record(cost=10.0, seconds=2.0)
        after_one = rate.seconds_for(10.0)
        assert after_one == pytest.approx(1.2)
        for _ in range(30):
            rate.record(cost=10.0, seconds=2.0)
        assert rate.seconds_for(10.0) == pytest.approx(2.0, rel=0.01)

    def test_a_tiny_batch_with_much_overhead_hardly_changes_the_rate(self) -> None:
        rate = DrainRate()
        rate.record(cost=100.0, seconds=10.0)
        rate.record(cost=0.1, seconds=0.1)  # ten times as slow per unit
        assert rate.seconds_for(1.0) == pytest.approx(0.1, rel=0.01)


class TestFairness:
    """Owners share batches by cost, whatever they have queued."""

    BATCHES = BatchLimits(max_batch_items=8, max_batch_cost=16.0, max_queue_cost=10_000.0)

    def heavy(self, owners: int, items: int = 16, cost: float = 2.0) -> list[QueueEntry]:
        return [
            entry(100 * owner + item, cost=cost, owner=f"heavy {owner}")
            for owner in range(owners)
            for item in range(items)
        ]

    @pytest.mark.parametrize("owners", [1, 4, 24])
    def test_a_light_owner_is_in_the_next_batch_beside_any_number_of_heavy_ones(
        self, owners: int
    ) -> None:
        queue = queue_of(self.BATCHES, *self.heavy(owners, items=60))
        for light in range(10_000, 10_003):
            queue.take_batch(0.0)
            queue.append(entry(light, owner="light"))
            batch = tickets(queue.take_batch(0.0))
            assert light in batch
            # The other places are not wasted.
            assert len(batch) == self.BATCHES.max_batch_items

    def test_a_light_owner_of_another_bucket_has_the_next_batch(self) -> None:
        queue = queue_of(self.BATCHES, *self.heavy(24))
        queue.take_batch(0.0)
        queue.append(entry(10_000, bucket="another", owner="light"))
        assert tickets(queue.take_batch(0.0)) == [10_000]

    def test_owners_receive_equal_cost_however_many_and_large_their_entries_are(self) -> None:
        limits = BatchLimits(max_batch_items=4, max_batch_cost=8.0, max_queue_cost=10_000.0)
        small = [entry(n, cost=1.0, owner="small") for n in range(400)]
        large = [entry(1_000 + n, cost=4.0, owner="large") for n in range(100)]
        queue = queue_of(limits, *small, *large)
        received = {"small": 0.0, "large": 0.0}
        for _ in range(30):
            for each in queue.take_batch(0.0):
                received[str(each.owner)] += each.cost
        assert received["small"] == pytest.approx(received["large"], abs=8.0)

    def test_an_absence_earns_no_turns(self) -> None:
        limits = BatchLimits(max_batch_items=1, max_batch_cost=1.0, max_queue_cost=10_000.0)
        queue = queue_of(limits, *self.heavy(2, items=50, cost=1.0))
        for _ in range(20):
            queue.take_batch(0.0)
        for late in range(10):
            queue.append(entry(10_000 + late, owner="late"))
        served = [queue.take_batch(0.0)[0].owner for _ in range(9)]
        assert served.count("late") == 3

    def test_single_entries_one_after_the_other_get_no_more_than_a_share(self) -> None:
        limits = BatchLimits(max_batch_items=1, max_batch_cost=3.0, max_queue_cost=10_000.0)
        queue = queue_of(limits, *self.heavy(2, items=200, cost=1.0))
        received = {"heavy 0": 0.0, "heavy 1": 0.0, "greedy": 0.0}
        for turn in range(200):
            if not any(each.owner == "greedy" for each in queue._entries.values()):
                queue.append(entry(10_000 + turn, cost=3.0, owner="greedy"))
            (served,) = queue.take_batch(0.0)
            received[str(served.owner)] += served.cost
        assert received["greedy"] == pytest.approx(sum(received.values()) / 3, abs=6.0)

    def test_a_short_queue_leads_even_where_long_ones_came_at_the_same_time(self) -> None:
        queue = queue_of(self.BATCHES, *self.heavy(24), entry(10_000, owner="light"))
        assert tickets(queue.take_batch(0.0))[0] == 10_000

    def test_an_owner_s_buckets_take_turns(self) -> None:
        queue = queue_of(
            BatchLimits(max_batch_items=2, max_batch_cost=100.0, max_queue_cost=100.0),
            *(entry(n, bucket="a", owner="x") for n in range(6)),
            *(entry(10 + n, bucket="b", owner="x") for n in range(2)),
        )
        assert tickets(queue.take_batch(0.0)) == [0, 1]
        assert tickets(queue.take_batch(0.0)) == [10, 11]
        assert tickets(queue.take_batch(0.0)) == [2, 3]

    def test_an_empty_queue_remembers_nobody(self) -> None:
        queue = queue_of(self.BATCHES, *self.heavy(3))
        while queue.take_batch(0.0):
            pass
        assert (queue._ahead, queue._served, queue._flows) == ({}, 0.0, {})

    def test_the_expected_place_counts_what_others_receive_meanwhile(self) -> None:
        queue = queue_of(self.BATCHES, *self.heavy(24), entry(10_000, owner="light"))
        assert queue.cost_until(10_000) == (25, 24 * 2.0 + 1.0)
        assert queue.cost_until(0) == (25, 24 * 2.0 + 1.0)
        last = queue.cost_until(15)
        assert last is not None
        assert last[0] == 24 * 16 + 1

    @given(
        st.lists(
            st.tuples(st.sampled_from("abcde"), st.sampled_from(["x", "y"]), st.floats(0.1, 5.0)),
            max_size=60,
        )
    )
    def test_every_entry_is_handed_out_once_and_no_batch_exceeds_its_limits(
        self, given_entries: list[tuple[str, str, float]]
    ) -> None:
        queue = queue_of(
            self.BATCHES,
            *(
                entry(ticket, bucket=bucket, cost=cost, owner=owner)
                for ticket, (owner, bucket, cost) in enumerate(given_entries)
            ),
        )
        seen = []
        while batch := queue.take_batch(0.0):
            assert len({each.bucket for each in batch}) == 1
            assert len(batch) <= 8
            assert len(batch) == 1 or sum(each.cost for each in batch) <= 16.0 + 1e-9
            seen += tickets(batch)
        assert sorted(seen) == list(range(len(given_entries)))
        assert (len(queue), queue.cost) == (0, 0.0)
