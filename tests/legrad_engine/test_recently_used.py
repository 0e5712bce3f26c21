"""The bounded cache."""

from concurrent.futures import ThreadPoolExecutor

from legrad_engine.recently_used import RecentlyUsed


def test_the_least_recently_used_value_is_dropped_first() -> None:
    cache = RecentlyUsed[str, int](2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]


def test_a_test_for_membership_is_not_a_use() -> None:
    cache = RecentlyUsed[str, int](2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert "a" in cache
    cache.put("c", 3)
    assert "a" not in cache
    assert "b" in cache


def test_a_value_that_is_put_again_is_replaced_and_counts_as_used() -> None:
    cache = RecentlyUsed[str, int](2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("a", 10)
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [10, None, 3]


def test_a_missing_value_is_made_once() -> None:
    made: list[int] = []

    def make(key: int) -> str:
        made.append(key)
        return str(key)

    cache = RecentlyUsed[int, str](2)
    assert [cache.get_or_make(key, make) for key in (1, 1, 2)] == ["1", "1", "2"]
    assert made == [1, 2]


def test_threads_may_share_a_cache() -> None:
    cache = RecentlyUsed[int, int](4)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: cache.get_or_make(number % 6, abs), range(600)))
    assert found == [number % 6 for number in range(600)]
    assert sum(number in cache for number in range(6)) == 4
