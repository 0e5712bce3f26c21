"""What is kept of pictures seen lately, so that another question about one costs only its answer.

Two kinds of entries share one budget of bytes: traces, which spare a picture's decoding and its
forward pass, and canvases, which spare an overlay the decoding. They are dropped one by one, the
least recently used first, so a trace does not go because its canvas is old.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, overload

from PIL import Image

from legrad_engine.families import Score
from legrad_engine.images.geometry import Fit
from legrad_engine.trace import Trace

# Pillow stores a pixel of an RGB picture in four bytes.
_BYTES_PER_PIXEL = 4


def digest_of(image: bytes) -> bytes:
    """Identifies an encoded picture by its bytes, orientation and other metadata included."""
    return hashlib.blake2b(image, digest_size=16).digest()


def digests_of(images: Sequence[bytes]) -> list[bytes]:
    """Identifies several."""
    return [digest_of(image) for image in images]


@dataclass(frozen=True, slots=True)
class TraceKey:
    """All that a trace depends on, known before the picture is decoded.

    Attributes:
        digest: of the encoded picture.
        model: the model's id.
        size: (width, height) of the model's input in pixels, before it is fitted.
        fit: how the picture is fitted to it.
        layers: resolved block indices.
        score: the explained score.
    """

    digest: bytes
    model: str
    size: tuple[int, int]
    fit: Fit
    layers: tuple[int, ...]
    score: Score


@dataclass(frozen=True, slots=True)
class CanvasKey:
    """All that a canvas depends on.

    Attributes:
        digest: of the encoded picture.
        size: (width, height) of the canvas in pixels.
    """

    digest: bytes
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Canvas:
    """A decoded picture at the size in which it is drawn on, which nobody may change."""

    picture: Image.Image

    @property
    def nbytes(self) -> int:
        """Its size in memory, in bytes."""
        width, height = self.picture.size
        return width * height * _BYTES_PER_PIXEL


class CacheObserver(Protocol):
    """What metrics want to know. Called under the cache's lock, so that calls keep their order."""

    def cache_changed(self, entries: int, nbytes: int) -> None:
        """The cache now holds so many entries of so many bytes together."""

    def entries_evicted(self, count: int) -> None:
        """So many entries made room for another."""


_Key = TraceKey | CanvasKey


class TraceCache:
    """Keeps the most recently used traces and canvases within a budget. Thread-safe.

    An entry belongs to whoever has got it too: dropping it here takes nothing from them.
    """

    def __init__(self, max_bytes: int, observer: CacheObserver) -> None:
        """Makes an empty cache; one of 0 bytes stays empty."""
        self._max_bytes = max_bytes
        self._observer = observer
        self._entries: OrderedDict[_Key, Trace | Canvas] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """The summed size of the entries in bytes."""
        return self._nbytes

    def has_room_for(self, nbytes: int) -> bool:
        """Whether an entry of so many bytes would be kept, whatever has to make room."""
        return nbytes <= self._max_bytes

    @overload
    def get(self, key: TraceKey) -> Trace | None: ...

    @overload
    def get(self, key: CanvasKey) -> Canvas | None: ...

    def get(self, key: _Key) -> Trace | Canvas | None:
        """The entry, from now on the most recently used one, or None."""
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
        """Keeps an entry, in place of one of the same key, if it fits the budget at all.

        Args:
            key: what it is found by.
            entry: it must have its memory for itself: a view would keep alive, uncounted, whatever
                it is a view of.
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

    def forget(self, model: str) -> None:
        """Drops every trace of a model, once its worker has stopped and can add none."""
        with self._lock:
            for key in list(self._entries):
                if isinstance(key, TraceKey) and key.model == model:
                    self._drop(key)
            self._report()

    def clear(self) -> None:
        """Drops everything."""
        with self._lock:
            self._entries.clear()
            self._nbytes = 0
            self._report()

    # Under the lock.

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._nbytes -= entry.nbytes

    def _report(self) -> None:
        self._observer.cache_changed(len(self._entries), self._nbytes)
