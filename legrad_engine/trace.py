"""A trace: what is kept of a forward pass so that targets can be asked about it later."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families import Score
from legrad_engine.images.geometry import Geometry
from legrad_engine.legrad.route import BlockTrace


@dataclass(frozen=True, slots=True)
class Trace:
    """The forward pass of B images of one input size, as a value.

    It depends on no target, so any number of targets can be attributed on it, now or later. It can
    be split into single images, kept, and joined again in any order with traces of the same model,
    layers, score and input size.

    Attributes:
        blocks: one entry for each explained block.
        layers: the explained blocks' indices, ascending.
        score: the explained score.
        features: ``[B, e]``, the image features that the model serves, not normalised, in float32
            at least.
        geometries: B mappings from the patch grid to the original pictures.
    """

    blocks: tuple[BlockTrace, ...]
    layers: tuple[int, ...]
    score: Score
    features: Tensor
    geometries: tuple[Geometry, ...]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.geometries)

    @property
    def embeddings(self) -> Tensor:
        """``[B, e]``, the unit image embeddings."""
        return F.normalize(self.features, dim=-1)

    @property
    def nbytes(self) -> int:
        """The size of the kept tensors in bytes."""
        tensors = [self.features]
        for block in self.blocks:
            tensors += [getattr(block, field.name) for field in fields(block)]
        return sum(tensor.nbytes for tensor in tensors)

    def select(self, images: Sequence[int]) -> Self:
        """The trace of some of the images, in the given order, with memory of its own."""
        index = torch.tensor(images, device=self.features.device)
        return replace(
            self,
            blocks=tuple(_map(block, lambda tensor: tensor[index]) for block in self.blocks),
            features=self.features[index],
            geometries=tuple(self.geometries[image] for image in images),
        )

    def split(self) -> list[Self]:
        """One trace for each image, with memory of its own."""
        return [self.select([image]) for image in range(len(self))]

    @classmethod
    def join(cls, traces: Sequence["Trace"]) -> "Trace":
        """One trace of all the images, in order.

        Raises:
            InvalidOptionError: the traces differ in layers, score or input size.
        """
        first = traces[0]
        if len(traces) == 1:
            return first
        shared = {(trace.layers, trace.score, trace.geometries[0].input_size) for trace in traces}
        if len(shared) > 1:
            raise InvalidOptionError(
                "Only traces of the same layers, score and input size can be joined."
            )
        return cls(
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
