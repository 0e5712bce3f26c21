"""The recorder of CUDA graphs leaves torch as it found it: streams, allocator, counted memory.

CUDA itself is simulated: torch's own context of a capture runs around graphs, streams and an
allocator that only note what happens to them.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from legrad_engine.devices import release_cached_memory
from legrad_engine.legrad.graphs import CudaRecorder, Graphs

DEVICE = torch.device("cuda", 0)
POOL = (0, 7)
GIBIBYTE = 1 << 30


class SimulatedStream:
    def wait_stream(self, _: object) -> None:
        """Nothing runs beside anything else."""

    def wait_event(self, _: object) -> None:
        """Nothing runs beside anything else."""

    def record_event(self) -> object:
        return object()


class SimulatedCuda:
    """The state of CUDA and of torch's allocator, and what torch does to them.

    Attributes:
        current: the current stream.
        streams: the streams that were created.
        used: allocated bytes.
        cached: bytes that the allocator keeps without using them.
        underway: pools that the allocator takes for those of unfinished captures.
        invalidated: whether the present capture cannot end well.
        captured_on: the current stream at the begin of each capture.
        ends_failed_captures: whether torch tidies its allocator up after a failed capture.
    """

    def __init__(self) -> None:
        self.default = self.current = SimulatedStream()
        self.streams: list[SimulatedStream] = []
        self.used = self.cached = 0
        self.underway: list[tuple[int, int]] = []
        self.invalidated = False
        self.captured_on: list[SimulatedStream] = []
        self.ends_failed_captures = False

    def create_stream(self, _: torch.device) -> SimulatedStream:
        self.streams.append(SimulatedStream())
        return self.streams[-1]

    def empty_cache(self) -> None:
        if self.underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")
        self.cached = 0

    def end_allocation(self, device: int, pool: tuple[int, int]) -> None:
        if device != DEVICE.index or pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> SimulatedCuda:
    state = SimulatedCuda()

    class Graph:
        def capture_begin(self, pool: tuple[int, int], **_: object) -> None:
            state.underway.append(pool)
            state.captured_on.append(state.current)

        def capture_end(self) -> None:
            if not state.invalidated or state.ends_failed_captures:
                state.underway.clear()
            if state.invalidated:
                raise torch.AcceleratorError("CUDA error: operation failed during capture")

        def reset(self) -> None:
            """It holds nothing."""

        def replay(self) -> None:
            """The computations of these tests are constant."""

    class Selected:
        def __init__(self, stream: SimulatedStream) -> None:
            self._stream = stream

        def __enter__(self) -> None:
            self._before, state.current = state.current, self._stream

        def __exit__(self, *_: object) -> None:
            state.current = self._before

    replaced: dict[str, object] = {
        "CUDAGraph": Graph,
        "Stream": state.create_stream,
        "stream": Selected,
        "current_stream": lambda *_: state.current,
        "device": lambda _: nullcontext(),
        "empty_cache": state.empty_cache,
        "graph_pool_handle": lambda: POOL,
        "is_available": lambda: True,
        "memory_reserved": lambda _: state.used + state.cached,
        "synchronize": lambda *_: None,
    }
    for name, replacement in replaced.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", state.end_allocation, raising=False)
    return state


def refused(cuda: SimulatedCuda, error: Exception) -> Callable[[Tensor], Tensor]:
    """Return a computation that fails while it is captured."""

    def compute(values: Tensor) -> Tensor:
        if cuda.underway:
            cuda.invalidated = True
            raise error
        return values + 1

    return compute


@pytest.mark.parametrize("ends_failed_captures", [False, True], ids=["torch 2.10", "later torch"])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operation not permitted when stream is capturing"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=["not permitted", "out of memory"],
)
def test_a_failed_capture_leaves_stream_and_allocator_as_they_were(
    cuda: SimulatedCuda, error: Exception, ends_failed_captures: bool
) -> None:
    cuda.ends_failed_captures = ends_failed_captures
    graphs = Graphs(CudaRecorder(DEVICE))
    with graphs.capturing():
        found = graphs.run("more", refused(cuda, error), torch.zeros(2))
    assert torch.equal(found, torch.ones(2))
    assert graphs.captured == 0
    assert cuda.current is cuda.default
    assert cuda.underway == []


def test_all_captures_use_one_stream(cuda: SimulatedCuda) -> None:
    recorder = CudaRecorder(DEVICE)
    for _ in range(3):
        _, outputs = recorder.capture(lambda: torch.ones(2))
        assert torch.equal(outputs, torch.ones(2))
    assert cuda.captured_on == [cuda.streams[0]] * 3
    assert cuda.current is cuda.default


def test_memory_that_the_allocator_only_keeps_hides_no_graph(cuda: SimulatedCuda) -> None:
    cuda.cached = 4 * GIBIBYTE

    def compute(_: Tensor) -> Tensor:
        if cuda.underway:
            cuda.used += 3 * GIBIBYTE
        return torch.ones(2)

    graphs = Graphs(CudaRecorder(DEVICE))
    with graphs.capturing():
        for number in range(3):
            graphs.run(number, compute, torch.zeros(2))
    assert graphs.captured == 1


def test_memory_is_released_before_or_after_a_capture_of_another_thread(
    cuda: SimulatedCuda,
) -> None:
    cuda.cached = GIBIBYTE
    releasing = threading.Thread(target=release_cached_memory)
    waited = []

    def compute(values: Tensor) -> Tensor:
        if cuda.underway:
            releasing.start()
            releasing.join(0.1)
            waited.append(releasing.is_alive())
        return values + 1

    recorder = CudaRecorder(DEVICE)
    _, outputs = recorder.capture(lambda: compute(torch.zeros(2)))
    assert torch.equal(outputs, torch.ones(2))
    releasing.join(5)
    assert waited == [True]
    assert cuda.cached == 0
