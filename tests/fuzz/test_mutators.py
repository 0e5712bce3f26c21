"""Mutators change the structure of files, and what they make is decoded or refused, never worse."""

import random
import warnings

import pytest

from tests.fuzz.targets import TARGETS

STRUCTURED = [name for name, target in TARGETS.items() if target.mutate is not None]
ROUNDS = 150


@pytest.mark.parametrize("name", STRUCTURED)
def test_changed_files_pass_the_target(name: str) -> None:
    target = TARGETS[name]
    assert target.mutate is not None
    chance = random.Random(20_260_101)
    seeds = list(target.seeds())
    made = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(ROUNDS):
            data = chance.choice(seeds)
            for _ in range(chance.randrange(1, 4)):
                data = target.mutate(data, chance)
            target.run(data)
            made.add(data)
    assert len(made - set(seeds)) > ROUNDS / 2


@pytest.mark.parametrize("name", STRUCTURED)
def test_cut_files_are_changed_or_kept_without_an_error(name: str) -> None:
    mutate = TARGETS[name].mutate
    assert mutate is not None
    chance = random.Random(1)
    for seed in TARGETS[name].seeds():
        for length in (0, 1, 7, 13, 20, len(seed) // 2):
            assert isinstance(mutate(seed[:length], chance), bytes)
