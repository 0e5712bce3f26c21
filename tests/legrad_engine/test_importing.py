"""What a program imports stays out of the garbage collector's way."""

import gc

import pytest

from legrad_engine.importing import frozen_after


def test_nothing_is_collected_in_the_context_and_what_it_made_is_frozen() -> None:
    before = gc.get_freeze_count()
    with frozen_after():
        assert not gc.isenabled()
        made: list[list[int]] = [[] for _ in range(100)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_the_collector_goes_on_after_a_failed_import() -> None:
    with pytest.raises(ImportError), frozen_after():
        raise ImportError
    assert gc.isenabled()
