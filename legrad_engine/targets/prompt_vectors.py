"""Cache of the unit vectors of prompts, which the copies of a model on several devices share."""

import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

from legrad_engine.recently_used import RecentlyUsed
from legrad_engine.transfers import Download, to_device

Prompt = tuple[str, tuple[str, ...]]
"""A prompt and its templates."""


@dataclass(slots=True, eq=False)
class _Entry:
    """The vector of a prompt.

    Attributes:
        on: the vector on each device that has used it.
        host: the vector on the host; None until it has arrived, and in a cache of one device.
    """

    on: dict[torch.device, Tensor] = field(default_factory=dict)
    host: Tensor | None = None


class PromptVectors:
    """Keeps the vectors of recent prompts. Safe to share between threads.

    A vector goes to the host behind the work of its device, for which nobody waits, and from there
    to other devices: they depend neither on the queue of the first one nor on its health.
    """

    def __init__(self, capacity: int, *, devices: int = 1) -> None:
        """Create an empty cache for so many prompts, used on so many devices."""
        self._capacity = capacity
        self._devices = devices
        self._entries = RecentlyUsed[Prompt, _Entry](capacity)
        self._arriving: list[tuple[Download, list[_Entry]]] = []
        self._lock = threading.Lock()

    def shared_by(self, devices: Collection[torch.device]) -> "PromptVectors":
        """Return an empty cache of the same capacity for encoders on some devices."""
        return PromptVectors(self._capacity, devices=len(devices))

    def __contains__(self, prompt: Prompt) -> bool:
        """Tell whether a prompt is cached. This does not count as a use."""
        return prompt in self._entries

    def get(self, prompt: Prompt, device: torch.device) -> Tensor | None:
        """Return the vector ``[e]`` of a prompt on a device; do not wait for another device.

        None if it is not cached, has not left the device that encoded it, or was lost with it.
        """
        entry = self._entries.get(prompt)
        if entry is None:
            return None
        vector = entry.on.get(device)
        if vector is None:
            self._receive()
            if entry.host is None:
                return None
            vector = entry.on[device] = to_device(entry.host, device)
        return vector

    def put(self, prompts: Sequence[Prompt], vectors: Tensor, device: torch.device) -> None:
        """Cache the vectors ``[P, e]`` of prompts, which a device has encoded or will have."""
        entries = []
        for prompt, vector in zip(prompts, vectors, strict=True):
            entry = self._entries.get_or_make(prompt, lambda _: _Entry())
            entry.on[device] = vector
            entries.append(entry)
        if self._devices > 1:
            self._receive()
            download = Download.start([vectors])
            with self._lock:
                self._arriving.append((download, entries))

    def _receive(self) -> None:
        """Take the vectors that have arrived on the host."""
        with self._lock:
            arriving, self._arriving = self._arriving, []
            for download, entries in arriving:
                if not download.done:
                    self._arriving.append((download, entries))
                    continue
                # A device that has failed: the others encode these prompts themselves.
                with suppress(RuntimeError):
                    (vectors,) = download.wait()
                    for entry, vector in zip(entries, vectors, strict=True):
                        # A view would keep the vectors of all.
                        entry.host = vector.clone()
