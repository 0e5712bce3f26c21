"""Trace: the values of a forward pass that the attribution of any target needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families import Score
from legrad_engine.images.geometry import Geometry
from legrad_engine.methods.base import BlockTrace
from legrad_engine.transfers import index_on


@dataclass(frozen=True, slots=True)
class Trace:
    """The forward pass of B images of one input size, as a value.

    A trace is independent of targets, so any number of them can be attributed on it at any time. It
    can be split into single images, stored, and joined in any order with traces of the same model,
    method, layers, score and input size.

    Attributes:
        method: name of the method that made it.
        blocks: one entry for each explained block, or one for all of them together.
        layers: indices of the explained blocks, ascending.
        score: the explained score.
        features: ``[B, e]``, the model's own image features, not normalised, in float32 at least.
        geometries: the geometry of each of the B images.
    """

    method: str
    blocks: tuple[BlockTrace, ...]
    layers: tuple[int, ...]
    score: Score
    features: Tensor
    geometries: tuple[Geometry, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.geometries)

    @property
    def embeddings(self) -> Tensor:
        """Unit image embeddings ``[B, e]``."""
        return F.normalize(self.features, dim=-1)

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        tensors = [self.features]
        for block in self.blocks:
            tensors += [getattr(block, field.name) for field in fields(block)]
        return sum(tensor.nbytes for tensor in tensors)

    def select(self, images: Sequence[int]) -> Self:
        """Copy the trace of some of the images, in the given order."""
        index = index_on(self.features.device, images)
        return replace(
            self,
            blocks=tuple(_map(block, lambda tensor: tensor[index]) for block in self.blocks),
            features=self.features[index],
            geometries=tuple(self.geometries[image] for image in images),
        )

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.features.device

    def to(self, device: torch.device) -> Self:
        """Return the trace on a device: itself, or a copy."""
        if self.device == device:
            return self
        return replace(
            self,
            blocks=tuple(
                _map(block, lambda tensor: tensor.to(device, non_blocking=True))
                for block in self.blocks
            ),
            features=self.features.to(device, non_blocking=True),
        )

    def select_layers(self, layers: Sequence[int]) -> Self:
        """Return the trace of some of the explained blocks, ascending; tensors are shared.

        The map of a trace is the sum of the maps of its blocks, so traces of single blocks show
        what each of them contributes.

        Args:
            layers: indices of blocks, as in :attr:`layers`.

        Raises:
            InvalidOptionError: no block, or one that was not traced, or the method's trace is one
                for all blocks.
        """
        if len(self.blocks) != len(self.layers):
            raise InvalidOptionError(
                f"The method '{self.method}' has no map of single blocks.", field="layers"
            )
        missing = sorted(set(layers) - set(self.layers))
        if missing or not layers:
            traced = ", ".join(map(str, self.layers))
            raise InvalidOptionError(
                f"Select some of the traced blocks {traced}, not {missing or 'none'}.",
                field="layers",
            )
        kept = [place for place, layer in enumerate(self.layers) if layer in layers]
        return replace(
            self,
            blocks=tuple(self.blocks[place] for place in kept),
            layers=tuple(self.layers[place] for place in kept),
        )

    def split(self) -> list[Self]:
        """Copy the trace of each image into a trace of its own."""
        return [self.select([image]) for image in range(len(self))]

    @classmethod
    def join(cls, traces: Sequence["Trace"]) -> "Trace":
        """Join traces into one trace of all their images, in order.

        Raises:
            InvalidOptionError: the traces differ in method, layers, score or input size.
        """
        first = traces[0]
        if len(traces) == 1:
            return first
        shared = {
            (trace.method, trace.layers, trace.score, trace.geometries[0].input_size)
            for trace in traces
        }
        if len(shared) > 1:
            raise InvalidOptionError(
                "Only traces of the same method, layers, score and input size can be joined."
            )
        return cls(
            method=first.method,
            blocks=tuple(
                _concatenate(parts) for parts in zip(*(t.blocks for t in traces), strict=True)
            ),
            layers=first.layers,
            score=first.score,
            features=torch.cat([trace.features for trace in traces]),
            geometries=tuple(geometry for trace in traces for geometry in trace.geometries),
        )


def _map(block: BlockTrace, change: Callable[[Tensor], Tensor]) -> BlockTrace:
    return type(block)(*(change(getattr(block, field.name)) for field in fields(block)))


def _concatenate(parts: Sequence[BlockTrace]) -> BlockTrace:
    first = parts[0]
    return type(first)(
        *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(first))
    )
