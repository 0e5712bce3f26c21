"""Turns of owners and of their requests: short lines first, equal shares, drawing first."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.pictures.turns import Turns, Work


def anything(job: str) -> bool:
    return True


def turns_of(**counts: int) -> Turns[str]:
    turns: Turns[str] = Turns()
    for owner, count in counts.items():
        for number in range(count):
            turns.add(owner, "decode", f"{owner} {number}")
    return turns


def test_an_owner_with_few_jobs_goes_first_and_draws_before_it_decodes() -> None:
    turns = turns_of(many=3, few=1)
    turns.add("few", "draw", "drawing")
    assert (turns.count("decode"), turns.count("draw")) == (4, 1)
    taken = [turns.take(anything) for _ in range(6)]
    assert taken == ["drawing", "few 0", "many 0", "many 1", "many 2", None]


def test_a_light_owner_waits_for_no_job_of_24_heavy_ones_that_draw_and_decode() -> None:
    turns: Turns[str] = Turns()
    works: tuple[Work, ...] = ("draw", "decode")
    for owner in range(24):
        for number in range(16):
            for work in works:
                turns.add(f"heavy {owner}", work, f"{owner} {work} {number}", request=number % 3)
    for number in range(20):
        # Each heavy owner has one turn.
        assert all(turns.take(anything) for _ in range(24))
        work = works[number % 2]
        turns.add("light", work, f"light {number}")
        assert turns.take(anything) == f"light {number}"


def test_owners_that_always_have_jobs_get_equally_many() -> None:
    turns = turns_of(a=60, b=60)
    taken: Counter[str] = Counter()
    for number in range(90):
        # One job at a time, each as soon as the last one is taken.
        if not turns._lines.get("single"):
            turns.add("single", "decode", f"single {number}")
        job = turns.take(anything)
        assert job is not None
        taken[job.split()[0]] += 1
    assert max(taken.values()) - min(taken.values()) <= 8


def test_an_absence_earns_no_turns() -> None:
    turns = turns_of(a=60, b=60)
    for _ in range(40):
        turns.take(anything)
    for number in range(30):
        turns.add("late", "decode", f"late {number}")
    taken = Counter(str(turns.take(anything)).split()[0] for _ in range(30))
    assert taken == {"a": 10, "b": 10, "late": 10}


def test_requests_of_one_owner_take_turns() -> None:
    turns: Turns[str] = Turns()
    for request, count in (("long", 3), ("short", 1)):
        for number in range(count):
            turns.add("a", "decode", f"{request} {number}", request=request)
    taken = [turns.take(anything) for _ in range(4)]
    assert taken == ["long 0", "short 0", "long 1", "long 2"]


def test_a_job_that_does_not_fit_lets_others_pass_and_keeps_its_place() -> None:
    turns: Turns[str] = Turns()
    turns.add("a", "draw", "a 0")
    turns.add("a", "draw", "a 1")
    turns.add("b", "draw", "b 0")
    assert turns.take(lambda job: job != "b 0" and job != "a 0") == "a 1"
    assert turns.take(lambda job: job != "a 0") == "b 0"
    assert turns.take(lambda job: job != "a 0") is None
    assert turns.take(anything) == "a 0"


def test_removed_jobs_are_not_taken_and_repeated_ones_come_first() -> None:
    turns = turns_of(a=1, b=1, c=1)
    turns.remove("a", "decode", "a 0")
    turns.add("c", "decode", "again", first=True)
    turns.add("b", "decode", "left", first=True)
    turns.remove("b", "decode", "left")
    assert [turns.take(anything) for _ in range(3)] == ["again", "b 0", "c 0"]


def test_others_count_as_far_as_they_have_their_turns_before() -> None:
    turns = turns_of(a=16, b=2)
    assert turns.ahead("decode", "light", 1) == 3
    assert turns.ahead("decode", "a", 4) == 22
    assert turns.ahead("draw", "a", 4) == 4


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"), st.sampled_from(["draw", "decode"]), st.sampled_from("xyz")
        ),
        max_size=60,
    ),
    st.data(),
)
def test_every_job_is_taken_or_removed_once(
    arrivals: list[tuple[str, Work, str]], data: st.DataObject
) -> None:
    turns: Turns[int] = Turns()
    removed = set()
    taken = []
    for number, (owner, work, request) in enumerate(arrivals):
        turns.add(owner, work, number, request=request)
        if data.draw(st.booleans()):
            turns.remove(owner, work, number, request=request)
            removed.add(number)
        elif data.draw(st.booleans()):
            taken.append(turns.take(lambda _: True))
    while (job := turns.take(lambda _: True)) is not None:
        taken.append(job)
    left = [each for each in taken if each is not None]
    assert sorted(left) == sorted(set(range(len(arrivals))) - removed)
    assert (turns.count("draw"), turns.count("decode")) == (0, 0)
    assert (turns._lines, turns._ahead, turns._taken) == ({}, {}, 0)
