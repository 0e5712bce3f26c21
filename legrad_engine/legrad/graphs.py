"""Captured graphs: one launch replays all kernels of a forward pass or of an attribution.

A small batch computes faster than Python can launch its kernels. A CUDA graph launches all of them
at once, but reads and writes fixed memory and knows one shape. So a graph is captured only for the
shapes of the warm-up, its inputs are copied into their fixed place, and its outputs are copied out
before the next replay: to callers it is the function that it was captured of.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from legrad_engine.devices import capture_lock, is_out_of_memory, release_cached_memory

_logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

# Memory for the graphs of one model: small batches need far less, large ones gain nothing.
_MOST_BYTES = 2 << 30
# Before the capture: libraries choose kernels and request their memory in the first calls.
_CALLS_BEFORE = 3
# Largest difference between a replay and the plain function, relative to the largest value.
_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 2e-2, torch.float32: 1e-3, torch.float64: 1e-9}


class Recorder(Protocol):
    """Captures the work of a device."""

    def capture(self, run: Callable[[], _Result]) -> tuple[Callable[[], object], _Result]:
        """Capture the work of a function; return its replay, and outputs that replays write to."""

    def wait(self) -> None:
        """Make the current stream wait for the work before the last :meth:`mark`."""

    def mark(self) -> None:
        """Mark the end of the work that the current stream was given so far."""

    def reserved_bytes(self) -> int:
        """Return the memory that this process holds on the device, nothing cached included."""


class CudaRecorder:
    """Captures CUDA graphs. They share one pool of memory, because they never run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # One for all captures: the pool reuses memory only on the stream that it was allocated on.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._done: torch.cuda.Event | None = None

    def capture(self, run: Callable[[], _Result]) -> tuple[Callable[[], object], _Result]:
        """See :meth:`Recorder.capture`."""
        graph, stream = torch.cuda.CUDAGraph(), self._stream
        with capture_lock, torch.cuda.device(self._device):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_CALLS_BEFORE):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            try:
                # A capture that fails would leave its stream the current one. Other threads may
                # serve other models meanwhile.
                with (
                    torch.cuda.stream(stream),
                    torch.cuda.graph(
                        graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
                    ),
                ):
                    outputs = run()
            except BaseException:
                self._abandon(graph)
                raise
        return graph.replay, outputs

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """Return torch's allocator to its usual state after a capture that failed.

        Until then it would take the capture for unfinished: emptying its cache would be an error.
        """
        with suppress(RuntimeError):
            graph.reset()
        # Newer versions of torch have done this themselves, and refuse it.
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(self._device.index, self._pool)

    def wait(self) -> None:
        """See :meth:`Recorder.wait`."""
        if self._done is not None:
            torch.cuda.current_stream(self._device).wait_event(self._done)

    def mark(self) -> None:
        """See :meth:`Recorder.mark`."""
        self._done = torch.cuda.current_stream(self._device).record_event()

    def reserved_bytes(self) -> int:
        """See :meth:`Recorder.reserved_bytes`."""
        with capture_lock:
            torch.cuda.empty_cache()
            return torch.cuda.memory_reserved(self._device)


@dataclass(frozen=True, slots=True)
class _Graph:
    """A captured graph.

    Attributes:
        replay: launches the graph.
        inputs: the tensors that it reads.
        outputs: the result, whose tensors it writes.
        compute: the captured function, which keeps the model's tensors alive.
    """

    replay: Callable[[], object]
    inputs: list[Tensor]
    outputs: Any
    compute: Callable[..., Any]


class Graphs:
    """The captured graphs of one model. Safe to share between threads and streams.

    Inputs and results are tensors, or dataclasses and tuples of tensors.
    """

    def __init__(self, recorder: Recorder) -> None:
        """Capture with a recorder."""
        self._recorder = recorder
        self._graphs: dict[Hashable, _Graph] = {}
        self._bytes = 0
        self._capturing: int | None = None
        self._stopped = False
        # One replay at a time: all graphs share their memory.
        self._using = threading.Lock()

    @property
    def captured(self) -> int:
        """Number of captured graphs."""
        return len(self._graphs)

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Capture every new shape that this thread computes in the block."""
        self._capturing = threading.get_ident()
        try:
            yield
        finally:
            self._capturing = None

    def run(self, key: Hashable, compute: Callable[..., _Result], *inputs: Any) -> _Result:
        """Return ``compute(*inputs)``, by a graph if one was captured for these shapes.

        Args:
            key: everything else that the result depends on.
            compute: a function of its inputs alone, without effects.
            inputs: its arguments.
        """
        place = (key, _signature(inputs))
        graph = self._graphs.get(place)
        if graph is None and self._capturing == threading.get_ident() and not self._stopped:
            graph = self._captured(compute, inputs)
            if graph is not None:
                self._graphs[place] = graph
        if graph is None:
            return compute(*inputs)
        result: _Result = self._replayed(graph, inputs)
        return result

    def _captured(self, compute: Callable[..., Any], inputs: tuple[Any, ...]) -> _Graph | None:
        """Capture a graph and check it; return None, and stop capturing, if that fails."""
        exhausted = False
        try:
            before = self._recorder.reserved_bytes()
            graph = self._checked(compute, inputs)
            self._bytes += max(0, self._recorder.reserved_bytes() - before)
        except Exception as error:
            self._stopped = True
            _logger.warning("No further graph is captured: %s: %s", type(error).__name__, error)
            exhausted = is_out_of_memory(error)
        else:
            if self._bytes > _MOST_BYTES:
                self._stopped = True
                _logger.info("No further graph is captured: they hold %d bytes", self._bytes)
            return graph
        if exhausted:
            # After the exception, whose frames hold the memory of the graph.
            release_cached_memory()
        return None

    def _checked(self, compute: Callable[..., Any], inputs: tuple[Any, ...]) -> _Graph:
        """Capture a graph and check it."""
        places = [each.clone() for each in _tensors(inputs)]
        arguments = _rebuilt(inputs, iter(places))
        with self._using:
            # Outputs of graphs and other work may be in flight.
            self._recorder.wait()
            replay, outputs = self._recorder.capture(lambda: compute(*arguments))
        graph = _Graph(replay, places, outputs, compute)
        self._check(graph, inputs)
        return graph

    def _check(self, graph: _Graph, inputs: tuple[Any, ...]) -> None:
        """Compare a graph with its function on other inputs than it was captured with.

        Raises:
            RuntimeError: they differ.
        """
        others = _rebuilt(inputs, (_scrambled(each) for each in _tensors(inputs)))
        expected = _tensors(graph.compute(*others))
        found = _tensors(self._replayed(graph, others))
        for plain, replayed in zip(expected, found, strict=True):
            bound = _TOLERANCE.get(plain.dtype, 0) * plain.abs().nan_to_num(0, 0, 0).max()
            if not torch.isclose(replayed, plain, rtol=0, atol=float(bound), equal_nan=True).all():
                raise RuntimeError("a replay differs from the captured computation")

    def _replayed(self, graph: _Graph, inputs: tuple[Any, ...]) -> Any:
        recorder = self._recorder
        outputs = _tensors(graph.outputs)
        with self._using:
            # A replay on another stream may still read the inputs or be copied.
            recorder.wait()
            torch._foreach_copy_(graph.inputs, _tensors(inputs))
            graph.replay()
            copies = [torch.empty_like(each) for each in outputs]
            torch._foreach_copy_(copies, outputs)
            recorder.mark()
        return _rebuilt(graph.outputs, iter(copies))


def _scrambled(tensor: Tensor) -> Tensor:
    """Return a tensor of the same kind with the values in another order and of other sizes."""
    reordered = tensor.flatten().roll(tensor.numel() // 3).view(tensor.shape)
    return torch.lerp(reordered, tensor, 0.25) if tensor.is_floating_point() else reordered


def _parts(value: Any) -> list[Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in fields(value)]
    return list(value)


def _tensors(value: Any) -> list[Tensor]:
    """List the tensors of a value, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in _parts(value) for tensor in _tensors(part)]


def _rebuilt(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Return the same value with other tensors, in order."""
    if isinstance(value, Tensor):
        return next(tensors)
    parts = [_rebuilt(part, tensors) for part in _parts(value)]
    return tuple(parts) if isinstance(value, tuple) else type(value)(*parts)


def _signature(value: Any) -> Hashable:
    """Return the types, shapes and dtypes of a value."""
    if isinstance(value, Tensor):
        return (value.shape, value.dtype, value.device)
    return (type(value), *(_signature(part) for part in _parts(value)))
