"""Graphs are functions to their callers: exact, safe between threads, only for captured shapes.

The recorder of these tests has fixed inputs and outputs as a CUDA graph has, and replays by calling
the function again. CUDA itself is compared by `make accelerator`.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from legrad_engine import Explainer, Explanation
from legrad_engine.legrad.graphs import Graphs
from tests.support.architectures import EMBEDDING_SIZE, seeded_explainer
from tests.support.fixed_memory import FixedMemory, tensors_of

_Result = TypeVar("_Result")


def with_graphs(**vision: Any) -> tuple[Explainer, FixedMemory]:
    explainer, recorder = seeded_explainer(**vision), FixedMemory()
    explainer.accelerator = replace(explainer.accelerator, graphs=Graphs(recorder))
    return explainer, recorder


def picture(seed: int) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8))


def vectors(count: int) -> Tensor:
    return torch.eye(EMBEDDING_SIZE)[:count]


def explained(explainer: Explainer, seeds: range, targets: int, **options: Any) -> Explanation:
    pictures = [picture(seed) for seed in seeds]
    return explainer.attribute(explainer.trace(pictures, **options), vectors(targets))[-1]


def assert_equal(found: Explanation, expected: Explanation) -> None:
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)


@pytest.fixture
def captured() -> tuple[Explainer, FixedMemory]:
    explainer, recorder = with_graphs()
    graphs = explainer.accelerator.graphs
    assert graphs is not None
    with graphs.capturing():
        explained(explainer, range(2), 3)
    assert recorder.captures == 2
    return explainer, recorder


@pytest.mark.parametrize("vision", [{}, {"block_type": "custom"}], ids=["closed form", "general"])
def test_other_pictures_and_targets_get_their_own_maps(vision: dict[str, Any]) -> None:
    explainer, recorder = with_graphs(**vision)
    graphs = explainer.accelerator.graphs
    assert graphs is not None
    with graphs.capturing():
        explained(explainer, range(2), 3)
    before = recorder.replays
    for start in (5, 9):
        seeds = range(start, start + 2)
        assert_equal(
            explained(explainer, seeds, 3), explained(seeded_explainer(**vision), seeds, 3)
        )
    assert recorder.replays == before + 4


def test_a_trace_keeps_its_values_when_its_graph_is_replayed(
    captured: tuple[Explainer, FixedMemory],
) -> None:
    explainer, _ = captured
    first = explainer.trace([picture(5), picture(6)])
    copies = [each.clone() for each in tensors_of(first.blocks)]
    explainer.trace([picture(7), picture(8)])
    for kept, copy in zip(tensors_of(first.blocks), copies, strict=True):
        assert torch.equal(kept, copy)


@pytest.mark.parametrize(
    ("seeds", "targets", "options"),
    [
        (range(3), 3, {}),
        (range(2), 3, {"layers": 1}),
        (range(2), 3, {"score": "cls"}),
        (range(2), 3, {"size": 96}),
    ],
    ids=["images", "layers", "score", "size"],
)
def test_other_shapes_are_computed_without_a_graph(
    captured: tuple[Explainer, FixedMemory], seeds: range, targets: int, options: dict[str, Any]
) -> None:
    explainer, recorder = captured
    before = (recorder.captures, recorder.replays)
    found = explained(explainer, seeds, targets, **options)
    assert (recorder.captures, recorder.replays) == before
    assert_equal(found, explained(seeded_explainer(), seeds, targets, **options))


def test_another_number_of_targets_uses_the_graph_of_the_forward_pass(
    captured: tuple[Explainer, FixedMemory],
) -> None:
    explainer, recorder = captured
    before = recorder.replays
    found = explained(explainer, range(2), 4)
    assert recorder.replays == before + 1
    assert_equal(found, explained(seeded_explainer(), range(2), 4))


def test_sizes_other_than_the_own_one_are_never_captured() -> None:
    explainer, recorder = with_graphs()
    graphs = explainer.accelerator.graphs
    assert graphs is not None
    with graphs.capturing():
        explained(explainer, range(1), 1, size=96)
    assert recorder.captures == 0


def test_another_thread_captures_nothing() -> None:
    graphs, inputs = Graphs(recorder := FixedMemory()), torch.ones(2)
    with graphs.capturing(), ThreadPoolExecutor(1) as pool:
        pool.submit(graphs.run, "twice", lambda each: each * 2, inputs).result()
        assert recorder.captures == 0
        graphs.run("twice", lambda each: each * 2, inputs)
    assert recorder.captures == 1


def test_threads_that_share_a_graph_get_their_own_results(
    captured: tuple[Explainer, FixedMemory],
) -> None:
    explainer, _ = captured
    together = threading.Barrier(2)

    def explain_often(start: int) -> list[Explanation]:
        together.wait()
        return [explained(explainer, range(start, start + 2), 3) for _ in range(10)]

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(explain_often, start) for start in (20, 40)]
    for start, answer in zip((20, 40), answers, strict=True):
        expected = explained(seeded_explainer(), range(start, start + 2), 3)
        for found in answer.result():
            assert_equal(found, expected)


def test_a_function_that_cannot_be_captured_is_called(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(FixedMemory):
        def capture(self, run: Callable[[], _Result]) -> tuple[Callable[[], object], _Result]:
            raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(Refusing())
    with graphs.capturing(), caplog.at_level(logging.WARNING):
        for number in range(2):
            found = graphs.run(number, lambda each: each + 1, torch.zeros(2))
            assert torch.equal(found, torch.ones(2))
    (record,) = caplog.records
    assert "not permitted" in record.getMessage()


def test_a_graph_that_differs_from_its_function_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stale(FixedMemory):
        """Replays nothing: what it captured does not depend on the inputs."""

        def capture(self, run: Callable[[], _Result]) -> tuple[Callable[[], object], _Result]:
            return lambda: None, run()

    graphs = Graphs(Stale())
    with graphs.capturing(), caplog.at_level(logging.WARNING):
        graphs.run("twice", lambda each: each * 2, torch.tensor([1.0, 2.0, 3.0]))
    assert "differs" in caplog.text
    found = graphs.run("twice", lambda each: each * 2, torch.tensor([4.0, 5.0, 6.0]))
    assert torch.equal(found, torch.tensor([8.0, 10.0, 12.0]))


def test_no_graph_is_captured_once_they_hold_their_memory() -> None:
    class Greedy(FixedMemory):
        def capture(self, run: Callable[[], _Result]) -> tuple[Callable[[], object], _Result]:
            self.reserved += 3 << 30
            return super().capture(run)

    graphs = Graphs(recorder := Greedy())
    with graphs.capturing():
        for number in range(3):
            graphs.run(number, lambda each: each + 1, torch.zeros(2))
    assert recorder.captures == 1
