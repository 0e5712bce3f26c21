"""Copies between host and device for which neither side waits, and times on the device.

On devices other than CUDA every copy is over when its call returns; the code is the same.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


class Copies:
    """Memory of unfinished copies, kept until the device has made them.

    When pinned memory, or memory of another stream, is freed, torch records an event. On a device
    that has failed, the error of that ends the whole process. So memory of copies that never end is
    never freed.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[torch.cuda.Event, tuple[Tensor, ...]]] = []
        self._changing = threading.Lock()

    def keep(self, done: torch.cuda.Event, *memory: Tensor) -> None:
        """Keep memory until an event; free the memory of earlier copies that are over."""
        with self._changing:
            self._kept = [each for each in self._kept if not _is_over(each[0])]
            self._kept.append((done, memory))


_copies = Copies()


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy a tensor of the host to a device, after the work that the device has already.

    A copy from pageable memory would make the host wait for all of that work. torch copies tensors
    with gaps, and those whose dtype changes on the way, by such memory.
    """
    if device.type != "cuda":
        return tensor.to(device, dtype)
    if tensor.device.type != "cpu":
        return tensor.to(device, dtype, non_blocking=True)
    pinned = tensor.contiguous().pin_memory()
    copied = pinned.to(device, non_blocking=True)
    _copies.keep(_now(device), pinned)
    return copied.to(dtype)


def index_on(device: torch.device, positions: Sequence[int]) -> Tensor:
    """Make an index for a device's tensors; a list as an index would make the host wait."""
    return to_device(torch.tensor(positions, dtype=torch.long), device)


class Uploads:
    """Copies inputs to a device beside its computation, on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, tensor: Tensor) -> Tensor:
        """Copy a tensor of the host; what the calling thread computes next waits for it."""
        if self._stream is None:
            return to_device(tensor, self._device)
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            copied = to_device(tensor, self._device)
        computing.wait_stream(self._stream)
        # Its memory must not be reused on the copying stream before it was read here: by one copy,
        # so that one event tells when.
        read = copied.clone()
        _copies.keep(_now(self._device), copied)
        return read


@dataclass(frozen=True, slots=True)
class Download:
    """Tensors of a device on their way to the host, all in one copy.

    Attributes:
        shapes: the shape of each tensor.
        buffer: all their values one after the other, complete once the copy is done.
        arrival: event after the copy; None where it is over already.
    """

    shapes: tuple[torch.Size, ...]
    buffer: Tensor
    arrival: torch.cuda.Event | None

    @classmethod
    def start(cls, tensors: Sequence[Tensor]) -> Self:
        """Begin to copy tensors of one device; do not wait.

        Args:
            tensors: at least one; they come back in the widest of their dtypes.
        """
        device = tensors[0].device
        # Joined on the device: one copy costs less than many.
        joined = torch.cat([tensor.flatten() for tensor in tensors])
        shapes = tuple(tensor.shape for tensor in tensors)
        if device.type != "cuda":
            return cls(shapes, joined.cpu(), None)
        buffer = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
        buffer.copy_(joined, non_blocking=True)
        # A blocking event: a busy loop would take a core from the pictures.
        arrival = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        arrival.record(torch.cuda.current_stream(device))
        _copies.keep(arrival, buffer)
        return cls(shapes, buffer, arrival)

    @property
    def done(self) -> bool:
        """Whether the values are there, or never will be: then :meth:`wait` raises the error."""
        try:
            return self.arrival is None or self.arrival.query()  # type: ignore[no-untyped-call]
        except RuntimeError:
            return True

    def wait(self) -> list[Tensor]:
        """Wait for the values; return the tensors, views of one buffer in pageable memory."""
        buffer = self.buffer
        if self.arrival is not None:
            self.arrival.synchronize()
            # Pinned memory is scarce, and the maps may be kept for long.
            buffer = buffer.clone()
        sizes = [shape.numel() for shape in self.shapes]
        parts = torch.split(buffer, sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


@dataclass(frozen=True, slots=True)
class Instant:
    """An instant in the work of a device.

    Attributes:
        seconds: the instant on the host's performance counter, where the device has no clock.
        event: the instant on the device's own clock, or None.
    """

    seconds: float
    event: torch.cuda.Event | None

    @classmethod
    def of(cls, device: torch.device) -> Self:
        """Mark the instant at which the device has done everything it was given up to now."""
        if device.type != "cuda":
            return cls(time.perf_counter(), None)
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return cls(time.perf_counter(), event)

    def until(self, later: "Instant") -> float:
        """Return the seconds to a later instant; wait until the device has reached it."""
        if self.event is None or later.event is None:
            return later.seconds - self.seconds
        later.event.synchronize()
        return float(self.event.elapsed_time(later.event)) / 1000


def _now(device: torch.device) -> torch.cuda.Event:
    """Return an event after the work that the calling thread has given to a CUDA device."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _is_over(event: torch.cuda.Event) -> bool:
    try:
        return bool(event.query())  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
