"""Decisions around loading: warm-up batches, errors worth a retry, and models to evict."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from legrad_engine import Explainer
from legrad_engine.errors import (
    InvalidOptionError,
    ModelLoadError,
    UnknownModelError,
    UnsupportedModelError,
)
from legrad_engine.legrad.graphs import Graphs
from legrad_engine.models import ModelReference
from legrad_engine.trace import Trace
from service.pool import loading
from service.pool.loading import load_copies, may_heal, saturating_batch, warm_up_batches
from service.pool.memory_budget import IdleModel, models_to_evict
from service.settings.models import named_models
from tests.support.fixed_memory import FixedMemory

CPU = torch.device("cpu")
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


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        ({1: 0.010}, 1),
        # A CPU: twice the pictures take twice the time.
        ({1: 0.010, 2: 0.020, 4: 0.040}, 1),
        # An accelerator: larger batches are faster, until it is busy.
        ({1: 0.010, 2: 0.010, 4: 0.011, 8: 0.0145, 16: 0.027, 32: 0.0536}, 16),
        ({1: 0.010, 2: 0.0101}, 2),
        # The last size is slower than the one before.
        ({1: 0.010, 2: 0.010, 4: 0.040}, 2),
    ],
)
def test_the_batch_limit_is_the_smallest_size_that_is_as_fast(
    seconds: dict[int, float], size: int
) -> None:
    assert saturating_batch(seconds) == size


def reference_of(model: str) -> ModelReference:
    return named_models((model,))[0].reference


def test_a_cpu_keeps_the_limit_of_the_settings(tiny_model: str) -> None:
    (copy,) = load_copies(reference_of(tiny_model), [CPU], "auto", "off", 16).warm.values()
    assert copy.max_batch_images == 16
    assert copy.seconds_per_image > 0
    assert copy.explainer.dtype == torch.float32


def test_a_calibration_measures_every_size(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "warm_up_batches", lambda *_: (1, 2, 3))
    computed: list[int] = []
    trace = Explainer.trace

    def counted(self: Explainer, images: Sequence[Any], **options: Any) -> Trace:
        computed.append(len(images))
        return trace(self, images, **options)

    monkeypatch.setattr(Explainer, "trace", counted)
    (copy,) = load_copies(reference_of(tiny_model), [CPU], "float32", "off", 3).warm.values()
    assert computed == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert copy.max_batch_images in (1, 2, 3)


def test_a_calibration_ends_where_memory_does(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "warm_up_batches", lambda *_: (1, 2, 4, 8))
    trace = Explainer.trace

    def limited(self: Explainer, images: Sequence[Any], **options: Any) -> Trace:
        if len(images) > 2:
            raise torch.OutOfMemoryError("too many pictures")
        return trace(self, images, **options)

    monkeypatch.setattr(Explainer, "trace", limited)
    (copy,) = load_copies(reference_of(tiny_model), [CPU], "float32", "off", 8).warm.values()
    assert copy.max_batch_images <= 2


def test_graphs_are_captured_for_small_batches_alone(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, recorders = Explainer.load, list[FixedMemory]()

    def with_graphs(*arguments: Any, **options: Any) -> Explainer:
        explainer = load(*arguments, **options)
        recorders.append(FixedMemory())
        graphs = Graphs(recorders[-1])
        explainer.accelerator = replace(explainer.accelerator, graphs=graphs)
        return explainer

    monkeypatch.setattr(Explainer, "load", with_graphs)
    captures = []
    for sizes in ((1, 16), (1, 16, 17)):
        monkeypatch.setattr(loading, "warm_up_batches", lambda *_, sizes=sizes: sizes)
        load_copies(reference_of(tiny_model), [CPU], "float32", "all", sizes[-1])
        captures.append(recorders[-1].captures)
    # For each size the forward pass, and the maps of each number of targets.
    assert captures == [10, 10]


def test_a_device_without_room_for_a_copy_is_left_out(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, calls = Explainer.load, itertools.count()

    def full_at_first(*arguments: Any, **options: Any) -> Explainer:
        if next(calls) == 0:
            raise torch.OutOfMemoryError("no room on this device")
        return load(*arguments, **options)

    monkeypatch.setattr(Explainer, "load", full_at_first)
    copies = load_copies(reference_of(tiny_model), [CPU, CPU], "auto", "off", 4)
    assert list(copies.warm) == ["cpu#1"]
    assert copies.left_out == {"cpu#0": "it is in the server's log"}


def test_a_load_fails_if_no_device_has_room(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Explainer:
        raise torch.OutOfMemoryError("no room on any device")

    monkeypatch.setattr(Explainer, "load", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_copies(reference_of(tiny_model), [CPU, CPU], "auto", "off", 4)


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``auto`` choose float16 here, in which the embeddings overflow."""
    monkeypatch.setattr(loading, "automatic_dtype", lambda _: torch.float16)
    trace = Explainer.trace

    def overflow(self: Explainer, images: Sequence[Any], **options: Any) -> Trace:
        found = trace(self, images, **options)
        if self.dtype == torch.float16:
            found.features.fill_(torch.inf)
        return found

    monkeypatch.setattr(Explainer, "trace", overflow)


@pytest.mark.usefixtures("overflowing")
def test_a_model_that_needs_float32_gets_it_from_auto_alone(tiny_model: str) -> None:
    reference = reference_of(tiny_model)
    (copy,) = load_copies(reference, [CPU], "auto", "off", 4).warm.values()
    assert copy.explainer.dtype == torch.float32
    with pytest.raises(ModelLoadError, match="not finite"):
        load_copies(reference, [CPU], "float16", "off", 4)
