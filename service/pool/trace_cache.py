"""A cache of traces and canvases, so that another question about a picture costs less.

Two kinds of entries share one budget of bytes: traces, which save decoding and the forward pass,
and canvases, which save decoding for an overlay. Entries are evicted one by one, the least recently
used first, so a trace outlives its older canvas.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, overload

import torch

from legrad_engine.families import Score
from legrad_engine.images.geometry import Fit
from legrad_engine.trace import Trace


def digest_of(image: bytes) -> bytes:
    """Return the digest of an encoded picture, metadata such as its orientation included."""
    # Processors have instructions for it: half the time of BLAKE2.
    return hashlib.sha256(image).digest()


def digests_of(images: Sequence[bytes]) -> list[bytes]:
    """Return the digests of several encoded pictures."""
    return [digest_of(image) for image in images]


@dataclass(frozen=True, slots=True)
class TraceKey:
    """Everything that a trace depends on, known before the picture is decoded, and its owner.

    Attributes:
        digest: digest of the encoded picture.
        model: the model's id.
        size: (width, height) of the model's input in pixels, before the picture is fitted.
        fit: how the picture is fitted to the input.
        method: name of the explanation method.
        layers: resolved block indices.
        score: the explained score.
        caller: name of the caller's API key, which shares its entries with no other key; None on a
            server without keys.
    """

    digest: bytes
    model: str
    size: tuple[int, int]
    fit: Fit
    method: str
    layers: tuple[int, ...]
    score: Score
    caller: str | None


@dataclass(frozen=True, slots=True)
class CanvasKey:
    """Everything that a canvas depends on, and its owner.

    Attributes:
        digest: digest of the encoded picture.
        size: (width, height) of the canvas in pixels.
        caller: see :class:`TraceKey`.
    """

    digest: bytes
    size: tuple[int, int]
    caller: str | None


class Canvas(Protocol):
    """A decoded picture at the size of its overlays, kept elsewhere as long as this object lives.

    Attributes:
        number: its number, unique among all canvases.
        size: (width, height) in pixels.
    """

    number: int
    size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """The size in memory, in bytes."""


class CacheObserver(Protocol):
    """Receives the cache's metrics. Called under its lock, so that calls keep their order."""

    def cache_changed(self, entries: int, nbytes: int) -> None:
        """Note the number of entries and their total bytes."""

    def entries_evicted(self, count: int) -> None:
        """Note the number of entries that were evicted for another one."""


_Key = TraceKey | CanvasKey


class TraceCache:
    """Keeps the most recently used traces and canvases within a budget. Thread-safe.

    Callers share ownership of the entries they got: eviction takes nothing from them.
    """

    def __init__(self, max_bytes: int, observer: CacheObserver) -> None:
        """Create an empty cache; with 0 bytes it stays empty."""
        self._max_bytes = max_bytes
        self._observer = observer
        self._entries: OrderedDict[_Key, Trace | Canvas] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """The total size of the entries in bytes."""
        return self._nbytes

    def has_room_for(self, nbytes: int) -> bool:
        """Return whether an entry of this size fits the budget, if necessary by evictions."""
        return nbytes <= self._max_bytes

    @overload
    def get(self, key: TraceKey) -> Trace | None: ...

    @overload
    def get(self, key: CanvasKey) -> Canvas | None: ...

    def get(self, key: _Key) -> Trace | Canvas | None:
        """Return the entry and mark it as most recently used, or return None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    @overload
    def put(self, key: TraceKey, entry: Trace) -> None: ...

    @overload
    def put(self, key: CanvasKey, entry: Canvas) -> None: ...

    def put(self, key: _Key, entry: Trace | Canvas) -> None:
        """Keep an entry, in place of one with the same key, if it fits the budget at all.

        Args:
            key: the key of the entry.
            entry: it must own its memory: a view would keep its base alive, uncounted.
        """
        nbytes = entry.nbytes
        if not self.has_room_for(nbytes):
            return
        with self._lock:
            self._drop(key)
            evicted = 0
            while self._nbytes + nbytes > self._max_bytes:
                self._drop(next(iter(self._entries)))
                evicted += 1
            self._entries[key] = entry
            self._nbytes += nbytes
            self._observer.entries_evicted(evicted)
            self._report()

    def forget(self, model: str, device: torch.device | None = None) -> None:
        """Drop the traces of a model on one device, or on all of them.

        Its workers have stopped there and add no more.
        """
        with self._lock:
            for key, entry in list(self._entries.items()):
                if not isinstance(key, TraceKey) or key.model != model:
                    continue
                if device is None or (isinstance(entry, Trace) and entry.device == device):
                    self._drop(key)
            self._report()

    def clear(self) -> None:
        """Drop every entry."""
        with self._lock:
            self._entries.clear()
            self._nbytes = 0
            self._report()

    # The methods below need the lock.

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._nbytes -= entry.nbytes

    def _report(self) -> None:
        self._observer.cache_changed(len(self._entries), self._nbytes)
