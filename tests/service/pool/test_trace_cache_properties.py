"""Properties of the trace cache alone: its contents, its budget, and use by many threads."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.pool.trace_cache import CanvasKey, TraceCache, TraceKey, digests_of
from tests.support.pictures import encoded, picture


@dataclass(frozen=True)
class Sized:
    """The interface that the cache needs of an entry."""

    nbytes: int


class Reports:
    """An observer that records the reports of the cache."""

    def __init__(self) -> None:
        self.entries = self.nbytes = self.evicted = 0

    def cache_changed(self, entries: int, nbytes: int) -> None:
        self.entries, self.nbytes = entries, nbytes

    def entries_evicted(self, count: int) -> None:
        self.evicted += count


def key_of(number: int, model: str = "a") -> TraceKey:
    return TraceKey(bytes([number]), model, (64, 64), "squash", "legrad", (1, 2), "mean", None)


KEYS: list[Any] = [
    *(key_of(number, model) for model in ("a", "b") for number in range(3)),
    *(CanvasKey(bytes([number]), (8, 8), None) for number in range(2)),
]
STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KEYS), st.integers(1, 60)),
    st.tuples(st.just("get"), st.sampled_from(KEYS), st.none()),
    st.tuples(st.just("forget"), st.sampled_from(["a", "b", "c"]), st.none()),
    st.tuples(st.just("clear"), st.none(), st.none()),
)


@given(st.integers(0, 100), st.lists(STEPS, max_size=60))
def test_the_cache_keeps_what_was_used_last_within_its_budget(
    budget: int, steps: list[tuple[str, Any, Any]]
) -> None:
    reports, expected, evicted = Reports(), OrderedDict[Any, Sized](), 0
    cache: Any = TraceCache(budget, reports)
    for step, key, nbytes in steps:
        if step == "put":
            entry = Sized(nbytes)
            cache.put(key, entry)
            assert cache.has_room_for(nbytes) == (nbytes <= budget)
            if nbytes <= budget:
                expected.pop(key, None)
                expected[key] = entry
                while sum(each.nbytes for each in expected.values()) > budget:
                    expected.popitem(last=False)
                    evicted += 1
        elif step == "get":
            assert cache.get(key) is expected.get(key)
            if key in expected:
                expected.move_to_end(key)
        elif step == "forget":
            cache.forget(key)
            for each in list(expected):
                if getattr(each, "model", None) == key:
                    del expected[each]
        else:
            cache.clear()
            expected.clear()
        nbytes_expected = sum(each.nbytes for each in expected.values())
        assert (len(cache), cache.nbytes) == (len(expected), nbytes_expected)
        assert (reports.entries, reports.nbytes) == (len(expected), nbytes_expected)
        assert reports.evicted == evicted
    assert {key: cache.get(key) for key in KEYS} == {key: expected.get(key) for key in KEYS}


def test_many_threads_leave_the_cache_in_order() -> None:
    reports = Reports()
    cache: Any = TraceCache(100, reports)
    barrier = threading.Barrier(8)

    def use(seed: int) -> None:
        generator = np.random.default_rng(seed)
        barrier.wait()
        for number in generator.integers(0, 20, 500):
            cache.put(key_of(int(number)), Sized(1 + int(number)))
            cache.get(key_of(int(19 - number)))
            if number == 0:
                cache.forget("a")

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [entry for number in range(20) if (entry := cache.get(key_of(number)))]
    assert sum(entry.nbytes for entry in kept) == cache.nbytes == reports.nbytes <= 100
    assert len(kept) == len(cache) == reports.entries


def test_a_digest_is_of_all_bytes() -> None:
    one, other = encoded(picture(), "JPEG"), encoded(picture(), "JPEG") + b"\0"
    assert digests_of([one, other, one])[0] == digests_of([one])[0] != digests_of([other])[0]
