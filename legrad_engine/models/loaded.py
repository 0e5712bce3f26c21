"""A model as its loader returns it."""

from dataclasses import dataclass

from torch import nn

from legrad_engine.models.preprocessing import Preprocessing
from legrad_engine.targets.text import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """Model with its weights, and the facts that its name or its files tell about it.

    Attributes:
        name: the model's name, without folders of the local file system.
        model: an open_clip model, or an :class:`~legrad_engine.models.image_model.ImageModel`.
        tokenizer: the text half's tokenizer; None for an image model.
        preprocessing: the way from pictures to the model's input.
        licence: licence of the weights, an identifier of the model hub; None if unknown.
    """

    name: str
    model: nn.Module
    tokenizer: Tokenizer | None
    preprocessing: Preprocessing
    licence: str | None = None
