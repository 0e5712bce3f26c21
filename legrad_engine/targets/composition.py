"""Composition of embeddings into the unit vector of a target."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.errors import InvalidTargetError
from legrad_engine.families.heads import at_least_float32
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.targets import (
    ClassTarget,
    ContrastTarget,
    EmbeddingTarget,
    ImageTarget,
    ResidualTarget,
    SimpleTarget,
    Target,
    TextTarget,
)
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.pursuit import residual
from legrad_engine.transfers import to_device


@dataclass(frozen=True, slots=True)
class TargetComposer:
    """Composes unit vectors from the embeddings of texts and pictures.

    Attributes:
        classifier: the classifier, or None where the model has none.
        device: device of the vectors.
        dtype: dtype of the model.
    """

    classifier: Classifier | None
    device: torch.device
    dtype: torch.dtype

    def vector(
        self,
        target: Target,
        field: str,
        texts: Mapping[str, Tensor],
        images: Mapping[object, Tensor],
    ) -> Tensor:
        """Compute the unit vector of a target.

        Args:
            target: the target.
            field: name of the target in the request, for errors.
            texts: unit vectors ``[e]`` of the texts.
            images: unit vectors ``[e]`` of the target pictures, by :func:`image_key`.

        Raises:
            InvalidTargetError: the vector has no direction, or the model has no classifier.
        """

        def simple(part: SimpleTarget) -> Tensor:
            return self._simple_vector(part, field, texts, images)

        match target:
            case ContrastTarget(wanted, against):
                difference = simple(wanted) - simple(against)
                return self._unit(
                    difference,
                    "Both sides of the contrast have the same vector in this model, so their "
                    "difference has no direction.",
                    field,
                )
            case ResidualTarget(wanted, distractors, atoms):
                left = residual(
                    simple(wanted),
                    torch.stack([simple(distractor) for distractor in distractors]),
                    atoms,
                    rounding=self._rounding,
                )
                return self._unit(
                    to_device(left.to(self._precise), self.device),
                    "The distractors explain the target fully: no residual is left. Remove some "
                    "distractors, or lower atoms.",
                    field,
                )
            case _:
                return simple(target)

    def _simple_vector(
        self,
        target: SimpleTarget,
        field: str,
        texts: Mapping[str, Tensor],
        images: Mapping[object, Tensor],
    ) -> Tensor:
        match target:
            case TextTarget(texts=(text,)):
                return at_least_float32(texts[text])
            case TextTarget(texts=several):
                mean = torch.stack([at_least_float32(texts[text]) for text in several]).mean(0)
                return self._unit(mean, "The texts cancel each other out.", field)
            case EmbeddingTarget():
                vector = as_tensor(target)
                # Scaled first, because squares of large float64 values overflow.
                unit = F.normalize(vector / vector.abs().max(), dim=0)
                return to_device(unit.to(self._precise), self.device)
            case ImageTarget():
                return at_least_float32(images[image_key(target)])
            case ClassTarget():
                if self.classifier is None:
                    raise InvalidTargetError("This model has no classifier.", field=field)
                return at_least_float32(self.classifier.vectors([self.class_of(target)])[0])

    def _unit(self, vector: Tensor, message: str, field: str) -> Tensor:
        if vector.norm() <= self._rounding:
            raise InvalidTargetError(message, field=field)
        return F.normalize(vector, dim=0)

    def class_of(self, target: ClassTarget) -> int:
        """Find the index of a class.

        Raises:
            InvalidTargetError: no such class, or the model has no classifier.
        """
        if self.classifier is None:
            raise InvalidTargetError("This model has no classifier.", field="targets")
        return self.classifier.index_of(target.key)

    @property
    def _rounding(self) -> float:
        """Length below which a component of a unit vector is noise in the model's precision."""
        return max(1e-6, 8 * torch.finfo(self.dtype).eps)

    @property
    def _precise(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32


def image_key(target: ImageTarget) -> object:
    """Return a key that equal target pictures share."""
    if target.digest is None:
        return id(target.image), target.box
    image = target.image
    geometry = image.geometry if isinstance(image, PreparedImage) else None
    return target.digest, geometry, target.box


def as_tensor(target: EmbeddingTarget) -> Tensor:
    """Convert a raw embedding to float64 on the CPU.

    Raises:
        InvalidTargetError: the embedding is not a list of numbers.
    """
    try:
        return torch.as_tensor(target.embedding, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTargetError(
            f"An embedding is a list of numbers: {error}.", field="targets"
        ) from error
