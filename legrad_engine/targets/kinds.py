"""What a picture can be asked about: words, vectors, other pictures, classes, and combinations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from legrad_engine.errors import InvalidTargetError
from legrad_engine.images.decoding import ImageSource, PreparedImage

TargetKind = Literal["text", "embedding", "image", "class", "contrast", "residual"]


@dataclass(frozen=True, slots=True)
class TextTarget:
    """Words; several texts stand for the normalised mean of their unit vectors."""

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        texts = self.texts
        if not (isinstance(texts, tuple) and texts and all(isinstance(t, str) for t in texts)):
            raise InvalidTargetError("texts must be a tuple of at least one text.", field="targets")


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingTarget:
    """A raw embedding ``[e]`` in the joint space of the model; it is normalised."""

    vector: Sequence[float] | NDArray[np.floating] | Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ImageTarget:
    """Another picture: what in the explained picture looks like it, as the model serves it.

    Attributes:
        image: the picture. Where it is not prepared, it is fitted to the model's own input size.
        digest: identifies the picture, so that equal ones share one forward pass; optional.
    """

    image: ImageSource | PreparedImage
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class ClassTarget:
    """A class of the model's own classifier, by index or by label."""

    class_: int | str


SimpleTarget = TextTarget | EmbeddingTarget | ImageTarget | ClassTarget


@dataclass(frozen=True, slots=True)
class ContrastTarget:
    """One target against another: the normalised difference of their unit vectors."""

    target: SimpleTarget
    against: SimpleTarget

    def __post_init__(self) -> None:
        _refuse_nesting("contrast", (self.target, self.against))


@dataclass(frozen=True, slots=True)
class ResidualTarget:
    """The part of a target that its distractors do not explain (arXiv 2606.14758).

    Attributes:
        target: what to look for.
        distractors: what it must not be confused with.
        atoms: the most distractors that may be taken away, the best explaining first; None for all.
    """

    target: SimpleTarget
    distractors: tuple[SimpleTarget, ...]
    atoms: int | None = None

    def __post_init__(self) -> None:
        _refuse_nesting("residual", (self.target, *self.distractors))
        if not self.distractors:
            raise InvalidTargetError("A residual needs at least one distractor.", field="targets")
        if self.atoms is not None and self.atoms < 1:
            raise InvalidTargetError(
                f"atoms={self.atoms}: a residual takes away at least one distractor.",
                field="targets",
            )


Target = SimpleTarget | ContrastTarget | ResidualTarget


def _refuse_nesting(what: str, parts: Sequence[object]) -> None:
    for part in parts:
        if not isinstance(part, SimpleTarget):
            raise InvalidTargetError(
                f"A {what} is made of texts, embeddings, images and classes, not of "
                f"{type(part).__name__}.",
                field="targets",
            )
