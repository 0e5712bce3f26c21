"""Class targets: the rows of a model's own classifier."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from legrad_engine.errors import InvalidTargetError


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A linear classifier on the served features.

    Attributes:
        weight: ``[classes, e]``.
        bias: ``[classes]``, or None where there is none.
        labels: a name for each class, or None where they are not known.
    """

    weight: Tensor
    bias: Tensor | None
    labels: tuple[str, ...] | None

    def index_of(self, class_: int | str) -> int:
        """The index of a class, given by index or by label.

        Raises:
            InvalidTargetError: no such class.
        """
        count = len(self.weight)
        if isinstance(class_, str):
            if self.labels is None or class_ not in self.labels:
                raise InvalidTargetError(f"No class is called {class_!r}.", field="targets")
            return self.labels.index(class_)
        if not 0 <= class_ < count:
            raise InvalidTargetError(
                f"Class {class_} does not exist: this model's are 0 to {count - 1}.",
                field="targets",
            )
        return class_

    def vectors(self, indices: Sequence[int]) -> Tensor:
        """Unit vectors ``[P, e]`` of classes."""
        return F.normalize(self.weight[list(indices)], dim=-1)

    def probabilities(self, features: Tensor) -> Tensor:
        """The model's own probabilities ``[B, classes]`` for features ``[B, e]``."""
        return F.linear(features, self.weight, self.bias).softmax(-1)
