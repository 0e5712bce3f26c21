"""Room that owners share: a limit for all, and spare room for those who hold little."""

from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.shares import Shares, fair_total
from tests.support.recording_batcher import ManualClock

LIMIT = 128.0
MOST = LIMIT * 9 / 8


def filled(shares: Shares, owner: str, cost: float) -> float:
    """Let an owner take items of a cost until it is refused; return what it holds."""
    while shares.excess(owner, cost) <= 0:
        shares.add(owner, cost)
    shares.refused(owner)
    return shares.held(owner)


def batch_done(shares: Shares, owners: list[str], cost: float = 32.0) -> None:
    """Let owners give back what a batch of a cost takes from them, shared fairly."""
    while cost > 0 and (left := [owner for owner in owners if shares.held(owner)]):
        part = min(1.0, cost, *map(shares.held, left))
        for owner in left:
            shares.add(owner, -part)
        cost -= part * len(left)


def test_one_owner_alone_uses_the_whole_limit_and_no_more() -> None:
    shares = Shares(LIMIT)
    assert filled(shares, "only", 1.0) == LIMIT
    shares.add("only", -10.0)
    assert filled(shares, "only", 1.0) == LIMIT


@pytest.mark.parametrize("cost", [1.0, 5.0, 17.5, 100.0])
@pytest.mark.parametrize("owners", [1, 4, 24])
def test_an_owner_that_holds_little_finds_room_beside_any_number_of_heavy_ones(
    owners: int, cost: float
) -> None:
    shares = Shares(LIMIT)
    heavy = [f"heavy {owner}" for owner in range(owners)]
    admitted = 0
    for turn in range(60):
        # Always in the same order: the first ones come before the others.
        for owner in heavy:
            filled(shares, owner, cost)
        if shares.excess("light", 1.2) <= 0:
            admitted += 1
        else:
            # Only until those that came first have given back what they hold beyond their shares.
            assert turn < owners
            shares.refused("light")
        batch_done(shares, heavy)
    assert admitted >= 60 - owners


def test_heavy_owners_come_to_hold_equal_shares() -> None:
    shares = Shares(LIMIT)
    for _ in range(60):
        held = [filled(shares, owner, 1.0) for owner in "abc"]
        batch_done(shares, list("abc"))
    assert held == pytest.approx([MOST / 4] * 3, abs=1.5)


def test_a_large_item_needs_no_more_than_room() -> None:
    shares = Shares(LIMIT)
    filled(shares, "heavy", 1.0)
    shares.refused("large")
    # Half of the limit would be too much for its share.
    shares.add("heavy", -30.0)
    assert shares.excess("large", 30.0) <= 0
    # The others do not fill the room again before the large item comes.
    assert shares.excess("heavy", 1.0) > 0


def test_one_owner_alone_has_the_whole_limit_again_after_a_while() -> None:
    clock = ManualClock()
    shares = Shares(LIMIT, clock)
    filled(shares, "heavy", 1.0)
    shares.refused("another")
    shares.add("heavy", -LIMIT)
    assert filled(shares, "heavy", 1.0) == MOST / 2
    # A request that holds some of it already needs no share.
    assert shares.excess("heavy", 20.0, admitted=True) <= 0
    clock.advance(29.0)
    assert shares.excess("heavy", 1.0) > 0
    clock.advance(2.0)
    assert filled(shares, "heavy", 1.0) == LIMIT


def test_what_is_too_much_now_fits_once_the_excess_is_given_back() -> None:
    shares = Shares(LIMIT)
    filled(shares, "heavy", 1.0)
    for owner, amount in (("heavy", 20.0), ("another", 20.0), ("light", 9.0)):
        excess = shares.excess(owner, amount)
        assert excess > 0
        shares.add("heavy", -excess)
        assert shares.excess(owner, amount) <= 1e-9
        shares.add("heavy", excess)
    # An owner that holds little waits for less.
    assert shares.excess("light", 9.0) < shares.excess("heavy", 9.0)


def test_others_count_no_more_than_the_owner_itself() -> None:
    held: dict[Hashable, float] = {"heavy": 100.0, "medium": 3.0, "own": 2.0}
    assert fair_total(held, "own", 3.0) == 5.0 + 5.0 + 3.0
    assert fair_total(held, "new", 1.0) == 1.0 + 1.0 + 1.0 + 1.0
    assert fair_total(held, "heavy", 0.0) == 105.0


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from([0.1, 0.3, 1.1, 7.0, 18.3, 128.0])),
        max_size=200,
    ),
    st.data(),
)
def test_the_total_is_bounded_and_nobody_holds_more_than_is_free_beyond_the_limit(
    wanted: list[tuple[str, float]], data: st.DataObject
) -> None:
    shares, taken = Shares(LIMIT), []
    for owner, cost in wanted:
        if shares.excess(owner, cost) <= 0:
            shares.add(owner, cost)
            taken.append((owner, cost))
            assert shares.total <= MOST + 1e-9
            if shares.total > LIMIT + 1e-9:
                assert shares.held(owner) <= MOST - shares.total + 1e-9
            continue
        shares.refused(owner)
        if taken:
            given_back = taken.pop(data.draw(st.integers(0, len(taken) - 1)))
            shares.add(given_back[0], -given_back[1])
        assert shares.total == pytest.approx(sum(cost for _, cost in taken))
    for owner, cost in taken:
        shares.add(owner, -cost)
    assert shares.total == 0.0
    assert not shares._held
