"""Kinds of targets: texts, embeddings, other pictures, classes, and combinations of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from legrad_engine.errors import InvalidTargetError
from legrad_engine.images.cropping import PixelBox
from legrad_engine.images.decoding import ImageSource
from legrad_engine.images.inputs import PreparedImage

if TYPE_CHECKING:
    from torch import Tensor

TargetKind = Literal["text", "embedding", "image", "class", "contrast", "residual"]


@dataclass(frozen=True, slots=True)
class TextTarget:
    """Text. Several texts stand for the normalised mean of their unit vectors.

    Give ``text`` or ``texts``, a list or tuple.

    Attributes:
        text: the text; None for several.
        texts: the texts, also where there is one.
        words: whether the contribution of each word to the similarity is asked for.
    """

    text: str | None = None
    texts: Sequence[str] = ()
    words: bool = False

    def __post_init__(self) -> None:
        given = self.texts if self.text is None else (self.text,)
        is_list = isinstance(given, (list, tuple)) and len(given) > 0
        if not is_list or not all(isinstance(each, str) for each in given):
            raise InvalidTargetError(
                "A text target is text='a cat', or texts=['a cat', 'a tabby'].", field="targets"
            )
        if self.text is not None and self.texts:
            raise InvalidTargetError("Give either text or texts.", field="targets")
        object.__setattr__(self, "texts", tuple(given))
        object.__setattr__(self, "text", given[0] if len(given) == 1 else None)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingTarget:
    """Raw embedding ``[e]`` in the joint space of the model; the engine normalises it."""

    embedding: "Sequence[float] | NDArray[np.floating] | Tensor"


@dataclass(frozen=True, slots=True, eq=False)
class ImageTarget:
    """Another picture; its target vector is the model's own embedding of it.

    Attributes:
        image: the picture. If it is not prepared, it is fitted to the model's own input size.
        digest: optional digest of the picture; equal pictures then share one forward pass.
        box: (left, top, right, bottom) in pixels of the upright original, right and bottom
            exclusive: the target is this region, see :mod:`legrad_engine.targets.image_regions`.
            None for the whole picture, or for a prepared picture of the region alone.
    """

    image: ImageSource | PreparedImage
    digest: bytes | None = None
    box: PixelBox | None = None


@dataclass(frozen=True, slots=True)
class ClassTarget:
    """Class of the model's own classifier. Give ``index`` or ``label``."""

    index: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if (self.index is None) == (self.label is None):
            raise InvalidTargetError("Give either index or label.", field="targets")
        if isinstance(self.index, str):
            raise InvalidTargetError(
                f"A class by its name is label={self.index!r}.", field="targets"
            )

    @property
    def key(self) -> int | str:
        """The index or the label."""
        return self.index if self.index is not None else self.label or ""


SimpleTarget = TextTarget | EmbeddingTarget | ImageTarget | ClassTarget


@dataclass(frozen=True, slots=True)
class ContrastTarget:
    """Contrast of two targets: the normalised difference of their unit vectors."""

    target: SimpleTarget
    against: SimpleTarget

    def __post_init__(self) -> None:
        _refuse_nesting("contrast", (self.target, self.against))


@dataclass(frozen=True, slots=True)
class ResidualTarget:
    """The part of a target that its distractors do not explain (arXiv 2606.14758).

    Attributes:
        target: the target.
        distractors: targets that it must not be confused with.
        atoms: largest number of distractors to subtract, those that explain most first; None for
            all.
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
                f"atoms={self.atoms} is below 1: a residual subtracts at least one distractor.",
                field="targets",
            )


Target = SimpleTarget | ContrastTarget | ResidualTarget


def _refuse_nesting(kind: str, parts: Sequence[object]) -> None:
    for part in parts:
        if isinstance(part, TextTarget) and part.words:
            raise InvalidTargetError(
                f"Words have contributions to the similarity of a text, not to that of a {kind}: "
                "ask for the words of the text as a target of its own.",
                field="targets",
            )
        if not isinstance(part, SimpleTarget):
            raise InvalidTargetError(
                f"A {kind} is made of texts, embeddings, images and classes, not of "
                f"{type(part).__name__}.",
                field="targets",
            )
