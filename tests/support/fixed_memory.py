"""A recorder of graphs for the CPU, with fixed inputs and outputs as a CUDA graph has."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

_Result = TypeVar("_Result")


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else [getattr(value, n) for n in value.__slots__]
    return [tensor for part in parts for tensor in tensors_of(part)]


class FixedMemory:
    """A recorder for the CPU: replays write new results into the memory of the first one."""

    def __init__(self) -> None:
        self.captures = self.replays = 0
        self.reserved = 0

    def capture(self, run: Callable[[], _Result]) -> tuple[Callable[[], object], _Result]:
        self.captures += 1
        outputs = run()
        places = tensors_of(outputs)

        def replay() -> None:
            self.replays += 1
            with torch.no_grad():
                for place, tensor in zip(places, tensors_of(run()), strict=True):
                    place.copy_(tensor)

        return replay, outputs

    def wait(self) -> None:
        """The CPU has no streams."""

    def mark(self) -> None:
        """The CPU has no streams."""

    def reserved_bytes(self) -> int:
        return self.reserved
