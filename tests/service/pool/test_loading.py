"""Decisions around loading: warm-up batches, errors worth a retry, and models to evict."""

import itertools

import httpx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from legrad_engine.errors import (
    InvalidOptionError,
    ModelLoadError,
    UnknownModelError,
    UnsupportedModelError,
)
from service.pool.loading import may_heal, warm_up_batches
from service.pool.memory_budget import IdleModel, models_to_evict

IDLE = st.lists(
    st.tuples(st.integers(0, 1000), st.floats(0, 1e6)), max_size=12, unique_by=lambda each: each[1]
).map(
    lambda found: [
        IdleModel(str(position), size, used) for position, (size, used) in enumerate(found)
    ]
)


@given(idle=IDLE, excess=st.integers(-10, 5000))
def test_the_fewest_least_recently_used_models_go(idle: list[IdleModel], excess: int) -> None:
    chosen = models_to_evict(idle, excess)
    by_age = sorted(idle, key=lambda model: model.last_used)
    if chosen is None:
        assert sum(model.bytes for model in idle) < excess
        return
    assert list(chosen) == [model.id for model in by_age[: len(chosen)]]
    assert sum(model.bytes for model in by_age[: len(chosen)]) >= excess
    if chosen:
        assert sum(model.bytes for model in by_age[: len(chosen) - 1]) < excess


@given(most=st.integers(1, 5000), device=st.sampled_from(["cuda", "mps", "xpu"]))
def test_an_accelerator_warms_up_powers_of_two_and_the_largest_batch(
    most: int, device: str
) -> None:
    batches = warm_up_batches(device, most)
    assert batches[0] == 1
    assert batches[-1] == most
    assert all(following == 2 * size for size, following in itertools.pairwise(batches[:-1]))
    assert most == 1 or batches[-2] < most <= 2 * batches[-2]


def test_a_cpu_warms_up_one_image() -> None:
    assert warm_up_batches("cpu", 64) == (1,)


def load_error(cause: BaseException | None) -> ModelLoadError:
    error = ModelLoadError("could not be loaded")
    error.__cause__ = cause
    return error


def wrapped(cause: BaseException) -> RuntimeError:
    """Raise as open_clip does after a failed download: the cause is only the context."""
    try:
        try:
            raise cause
        except type(cause) as error:
            raise RuntimeError(f"Failed to download: {error}")  # noqa: B904
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "heals"),
    [
        (UnknownModelError("no such model"), False),
        (UnsupportedModelError("no attention"), False),
        (InvalidOptionError("no such device"), False),
        (load_error(None), False),
        (load_error(RuntimeError("size mismatch for visual.proj")), False),
        (load_error(KeyError("visual")), False),
        (load_error(ConnectionError("no route")), True),
        (load_error(PermissionError("not yours")), True),
        (load_error(wrapped(TimeoutError("too slow"))), True),
        (load_error(httpx.ConnectError("no route")), True),
        (load_error(torch.OutOfMemoryError("full")), True),
        (load_error(MemoryError()), True),
        (RuntimeError("a bug of a kernel"), True),
    ],
    ids=repr,
)
def test_only_temporary_errors_are_retried(error: Exception, heals: bool) -> None:
    assert may_heal(error) is heals
