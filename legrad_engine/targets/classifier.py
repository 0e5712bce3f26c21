"""Classes of an image model as targets: their vectors, labels and probabilities."""

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Self

import torch
import torch.nn.functional as F
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from legrad_engine.errors import InvalidTargetError
from legrad_engine.families.heads import at_least_float32
from legrad_engine.transfers import index_on

_SUGGESTIONS = 5
_LONGEST_LABEL = 200

Activation = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """Linear classifier over an image model's features.

    Attributes:
        weight: ``[classes, e]``.
        bias: ``[classes]``, or None.
        labels: a label for each class, which may be several names separated by commas; None if
            they are unknown.
        activation: ``softmax`` for classes of which a picture has one, ``sigmoid`` for classes that
            are independent of each other.
    """

    weight: Tensor
    bias: Tensor | None
    labels: tuple[str, ...] | None
    activation: Activation = "softmax"

    @classmethod
    def of(cls, model: nn.Module, *, multi_label: bool = False) -> Self | None:
        """Take the classifier of a timm model, on the features that it reads.

        A distilled model (DeiT) averages two classifiers, one on the class token and one on the
        distillation token. Their average is one classifier on both tokens' concatenated features.

        Args:
            model: the model. A single class is a sigmoid: a softmax over it is always 1.
            multi_label: whether a picture may have several of the classes.

        Returns:
            None if the model has no classes, or its classifier is more than a linear layer.
        """
        if not getattr(model, "num_classes", 0):
            return None
        head = model.get_classifier()  # type: ignore[operator]
        if isinstance(model, VisionTransformerDistilled):
            heads = tuple(head)
            if not all(isinstance(part, nn.Linear) for part in heads):
                return None
            weight = torch.cat([part.weight for part in heads], 1) / len(heads)
            biases = [part.bias for part in heads if part.bias is not None]
            bias = sum(biases) / len(heads) if biases else None
        elif isinstance(head, nn.Linear):
            weight, bias = head.weight, head.bias
        else:
            return None
        return cls(
            weight.detach(),
            bias.detach() if isinstance(bias, Tensor) else None,
            labels_of(model, len(weight)),
            "sigmoid" if multi_label or len(weight) == 1 else "softmax",
        )

    @property
    def count(self) -> int:
        """Number of classes."""
        return len(self.weight)

    def index_of(self, class_: int | str) -> int:
        """Find the index of a class by its index or by any one of its names.

        Raises:
            InvalidTargetError: no such class, or several classes of that name.
        """
        count = self.count
        if isinstance(class_, int) and not isinstance(class_, bool):
            if not 0 <= class_ < count:
                raise InvalidTargetError(
                    f"There is no class {class_}: this model's classes are 0 to {count - 1}.",
                    field="targets",
                )
            return class_
        if not isinstance(class_, str) or not class_.strip():
            raise InvalidTargetError("A class is an index or one of its names.", field="targets")
        if self.labels is None:
            raise InvalidTargetError(
                f"This model's {count} classes have no names: give an index, 0 to {count - 1}.",
                field="targets",
            )
        return _find(self.labels, class_)

    def has_name(self, text: str) -> bool:
        """Return whether at least one class has this name."""
        if self.labels is None:
            return False
        key = name_key(text)
        return any(key in known for known in _index(self.labels))

    def vectors(self, indices: Sequence[int]) -> Tensor:
        """Return unit vectors ``[P, e]`` of classes, in the weight's dtype and on its device."""
        return F.normalize(self.weight[index_on(self.weight.device, indices)], dim=-1)

    def probabilities(self, features: Tensor) -> Tensor:
        """Compute the model's probabilities of its classes.

        Args:
            features: ``[B, e]``, the inputs of the classifier, not normalised.

        Returns:
            ``[B, classes]``, at least float32: a softmax, whose rows sum to 1, or sigmoids.
        """
        bias = None if self.bias is None else at_least_float32(self.bias)
        logits = F.linear(at_least_float32(features), at_least_float32(self.weight), bias)
        return logits.softmax(-1) if self.activation == "softmax" else logits.sigmoid()


def _find(labels: tuple[str, ...], wanted: str) -> int:
    if len(wanted) > _LONGEST_LABEL:
        raise InvalidTargetError(
            f"A class name has at most {_LONGEST_LABEL} characters.", field="targets"
        )
    key = name_key(wanted)
    whole, names = _index(labels)
    found = whole.get(key, ())
    if len(found) != 1:
        found = names.get(key, ()) or found
    if len(found) == 1:
        return found[0]
    if found:
        choices = "; ".join(f"{index} ({labels[index]})" for index in found)
        raise InvalidTargetError(
            f"{wanted!r} names several classes; choose one by its index: {choices}.",
            field="targets",
        )
    words = set(key.split())
    sharing = [name for name in names if words <= set(name.split())]
    similar = difflib.get_close_matches(key, names, _SUGGESTIONS)
    close = list(dict.fromkeys([*sharing, *similar]))[:_SUGGESTIONS]
    hint = f" Close are: {', '.join(close)}." if close else ""
    raise InvalidTargetError(f"This model has no class {wanted!r}.{hint}", field="targets")


@lru_cache(maxsize=16)
def _index(
    labels: tuple[str, ...],
) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]]:
    """Index classes by whole label, and by each of the names in a label."""
    whole: defaultdict[str, tuple[int, ...]] = defaultdict(tuple)
    names: defaultdict[str, tuple[int, ...]] = defaultdict(tuple)
    for index, label in enumerate(labels):
        whole[name_key(label)] += (index,)
        for name in dict.fromkeys(name_key(part) for part in label.split(",")):
            names[name] += (index,)
    return dict(whole), dict(names)


def name_key(name: str) -> str:
    """Return the form of a class name in which names are compared."""
    return " ".join(name.casefold().replace("_", " ").split())


def labels_of(model: nn.Module, classes: int) -> tuple[str, ...] | None:
    """Return the labels that a model carries, or ImageNet's by the number of classes, or None."""
    config: Mapping[str, object] = getattr(model, "pretrained_cfg", {})
    names, descriptions = config.get("label_names"), config.get("label_descriptions")
    if isinstance(names, (list, tuple)) and len(names) == classes:
        told = descriptions if isinstance(descriptions, Mapping) else {}
        return tuple(str(told.get(name, name)) for name in names)
    subset = infer_imagenet_subset({"num_classes": classes})
    return None if subset is None else _imagenet_labels(subset)


@lru_cache(maxsize=8)
def _imagenet_labels(subset: str) -> tuple[str, ...]:
    return tuple(ImageNetInfo(subset).label_descriptions())
