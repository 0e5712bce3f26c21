"""The seeds pass every fuzz target, and a target notices an unexpected error."""

import pytest

from tests.fuzz import targets
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_and_every_beginning_of_one_passes(name: str) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert len(set(seeds)) >= 5
    for seed in seeds:
        target.run(seed)
        target.run(seed[: len(seed) // 2])


@pytest.mark.parametrize("name", ["json", "multipart"])
def test_an_error_that_is_no_problem_of_the_caller_s_is_a_find(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(targets, "read_request", broken)
    with pytest.raises(KeyError):
        TARGETS[name].run(b"{}")
