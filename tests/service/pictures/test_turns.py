"""Turns of requests: round-robin, drawing first, and jobs that fit."""

from service.pictures.turns import Turns


def anything(job: str) -> bool:
    return True


def test_requests_take_turns_and_drawing_comes_first() -> None:
    turns: Turns[str] = Turns()
    for owner, count in (("many", 3), ("few", 1)):
        for number in range(count):
            turns.add(owner, "decode", f"{owner} {number}")
    turns.add("few", "draw", "drawing")
    assert (turns.count("decode"), turns.count("draw")) == (4, 1)
    taken = [turns.take(anything) for _ in range(6)]
    assert taken == ["drawing", "many 0", "few 0", "many 1", "many 2", None]


def test_a_job_that_does_not_fit_lets_others_pass_and_keeps_its_place() -> None:
    turns: Turns[str] = Turns()
    turns.add("a", "draw", "a 0")
    turns.add("a", "draw", "a 1")
    turns.add("b", "draw", "b 0")
    assert turns.take(lambda job: job != "a 0") == "a 1"
    assert turns.take(lambda job: job != "a 0") == "b 0"
    assert turns.take(lambda job: job != "a 0") is None
    assert turns.take(anything) == "a 0"


def test_removed_jobs_are_not_taken_and_repeated_ones_come_first() -> None:
    turns: Turns[str] = Turns()
    for owner in "abc":
        turns.add(owner, "decode", owner)
    turns.remove("a", "decode", "a")
    turns.add("c", "decode", "again", first=True)
    assert [turns.take(anything) for _ in range(3)] == ["again", "b", "c"]
