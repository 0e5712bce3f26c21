"""The measurement `counterfactual`: similarities of a picture whose regions are changed."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from legrad_engine.errors import InvalidOptionError, LegradError
from legrad_engine.families.heads import at_least_float32
from legrad_engine.images.change_kinds import Change
from legrad_engine.images.changing import change_regions
from legrad_engine.images.cropping import PixelBox, fault_of
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.images.regions import find_regions
from legrad_engine.measurements.base import Asked, Measured, Measurement, Subjects


@dataclass(frozen=True, slots=True)
class ChangedBox:
    """A box in pixels of the original; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class NewSimilarity:
    """The similarity of one target with the changed picture.

    Attributes:
        similarity: the new similarity.
        change: the new similarity less the one of the picture as it is.
    """

    similarity: float
    change: float


@dataclass(frozen=True, slots=True)
class Case:
    """One changed picture.

    Attributes:
        warmest_of: index of the target whose warmest region was changed; None for given regions.
        regions: the boxes of the changed regions.
        targets: the new similarity of each target, in order.
    """

    warmest_of: int | None
    regions: tuple[ChangedBox, ...]
    targets: tuple[NewSimilarity, ...]


@dataclass(frozen=True, slots=True)
class CounterfactualResult:
    """The changed pictures of one picture.

    Attributes:
        change: how the regions were changed.
        cases: one with all given regions changed; or one for the warmest region of each target, but
            none for a target whose map is constant.
    """

    change: Change
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Counterfactual(Measurement):
    """New similarities after a change of the picture.

    Attributes:
        regions: boxes of the original, which are changed together; None for the warmest region of
            each target's map, one after the other.
        change: how a region is changed.
    """

    regions: tuple[PixelBox, ...] | None
    change: Change
    name: ClassVar[str] = "counterfactual"

    @property
    def needs_pixels(self) -> bool:
        """See :attr:`Measurement.needs_pixels`."""
        return True

    @property
    def bucket(self) -> Hashable:
        """See :attr:`Measurement.bucket`: each picture may have regions of its own."""
        return type(self)

    def check(self, asked: Asked) -> None:
        """See :meth:`Measurement.check`."""
        self.refuse_heads(asked)

    def work(self, asked: Asked) -> float:
        """See :meth:`Measurement.work`."""
        if self.regions is not None or not asked.method.targeted:
            return 1.0
        return float(len(asked.question.targets))

    @classmethod
    def measure(cls, asked: Sequence[Self], subjects: Subjects) -> Sequence[Measured | LegradError]:
        """See :meth:`Measurement.measure`; equal changes of a picture share one forward pass."""
        wanted: list[list[tuple[int | None, tuple[PixelBox, ...]]] | LegradError] = []
        changed: dict[tuple[int, tuple[PixelBox, ...]], PreparedImage] = {}
        for place, each in enumerate(asked):
            prepared = subjects.pictures[place]
            try:
                cases = each._cases(subjects, place)
                for _, boxes in cases:
                    if (place, boxes) not in changed:
                        changed[place, boxes] = change_regions(prepared, boxes, each.change)
            except LegradError as error:
                wanted.append(error)
                continue
            wanted.append(cases)
        embeddings = dict(zip(changed, _embed(subjects, list(changed.values())), strict=True))
        return [
            cases
            if isinstance(cases, LegradError)
            else Measured(
                image=CounterfactualResult(
                    each.change,
                    tuple(
                        Case(
                            row,
                            tuple(ChangedBox(*box) for box in boxes),
                            _similarities(subjects, place, embeddings[place, boxes]),
                        )
                        for row, boxes in cases
                    ),
                )
            )
            for place, (each, cases) in enumerate(zip(asked, wanted, strict=True))
        ]

    def _cases(
        self, subjects: Subjects, place: int
    ) -> list[tuple[int | None, tuple[PixelBox, ...]]]:
        explanation = subjects.explanations[place]
        if self.regions is None:
            regions = [find_regions(each, explanation.geometry)[:1] for each in explanation.maps]
            return [(row, (found[0].box,)) for row, found in enumerate(regions) if found]
        for box in self.regions:
            fault = fault_of(box, explanation.geometry.image_size)
            if fault is not None:
                raise InvalidOptionError(fault, field=self.name)
        return [(None, self.regions)]


def _embed(subjects: Subjects, pictures: Sequence[PreparedImage]) -> list[Tensor]:
    step = subjects.images_per_pass
    return [
        embedding
        for start in range(0, len(pictures), step)
        for embedding in subjects.explainer.embed_images(pictures[start : start + step])
    ]


def _similarities(subjects: Subjects, place: int, embedding: Tensor) -> tuple[NewSimilarity, ...]:
    vectors = at_least_float32(subjects.resolved[place].vectors)
    new: list[float] = torch.mv(vectors, at_least_float32(embedding)).tolist()
    known = subjects.explanations[place].similarities.tolist()
    return tuple(
        NewSimilarity(similarity, similarity - before)
        for similarity, before in zip(new, known, strict=True)
    )
