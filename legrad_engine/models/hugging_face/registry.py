"""Registry of the classes of ``transformers`` whose models can be loaded.

A group of classes is one file of this package that calls :func:`register`. The registry imports
every module of the package when it is first asked, so a new file is listed nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from legrad_engine.discovery import import_modules
from legrad_engine.errors import UnsupportedModelError
from legrad_engine.models.preprocessing import PerChannel

Size = tuple[int, int]
Weights = dict[str, Tensor]

_PACKAGE = "legrad_engine.models.hugging_face"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelClass:
    """Classes of ``transformers`` with one architecture, and their conversion.

    Attributes:
        names: the classes, as ``architectures`` in a config.json names them.
        build: makes the model of a config for an input of (height, width) pixels, with random
            weights.
        convert: renames the weights of a checkpoint as the built model names them. Names that it
            does not know are kept.
        takes_any_size: whether the class itself takes inputs of another size than its config's
            ``image_size``, so that the image processor decides the size.
        own_size: (height, width) in pixels of the input that a config's positions are for.
        usual_mean: mean per channel that the published models of these classes use.
        usual_std: their standard deviation per channel.
        has_text: whether the model has a text half.
    """

    names: tuple[str, ...]
    build: Callable[[Any, Size], nn.Module]
    convert: Callable[[Weights, Any], Weights]
    own_size: Callable[[Any], Size]
    usual_mean: PerChannel
    usual_std: PerChannel
    takes_any_size: bool = False
    has_text: bool = False


_classes: dict[str, ModelClass] = {}


def register(entry: ModelClass) -> None:
    """Add model classes. Called by the files of this package on import.

    Raises:
        ValueError: a class is registered twice.
    """
    for name in entry.names:
        if name in _classes:
            raise ValueError(f"the class {name!r} is registered twice")
        _classes[name] = entry


def class_names() -> tuple[str, ...]:
    """List the names of the supported classes, by name."""
    import_modules(_PACKAGE)
    return tuple(sorted(_classes, key=str.lower))


def find_class(name: str) -> ModelClass:
    """Find a class by its name.

    Raises:
        UnsupportedModelError: no such class; the error lists those there are.
    """
    import_modules(_PACKAGE)
    if name not in _classes:
        raise UnsupportedModelError(
            f"Models of the class {name} of transformers are not supported. Supported classes: "
            f"{', '.join(class_names())}.",
            field="model",
        )
    return _classes[name]
