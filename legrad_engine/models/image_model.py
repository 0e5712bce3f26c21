"""Image models without a text half: timm's transformers with their own classifier."""

from typing import Any, Self

import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families.bcos_vit import BcosViT
from legrad_engine.targets.bcos_classifier import BcosClassifier
from legrad_engine.targets.classifier import Classifier

_RGB = 3


class ImageModel(nn.Module):
    """Adapter that gives a timm model the interface of an open_clip model.

    Attributes:
        visual: the timm model itself, with its classifier.
        classifier: the same classifier as a source of targets; None if the model has none.
    """

    def __init__(self, visual: nn.Module, *, multi_label: bool = False) -> None:
        """Wrap a timm model.

        Args:
            visual: the model.
            multi_label: whether a picture may have several of its classes.

        Raises:
            UnsupportedModelError: the model's input does not have three channels.
        """
        super().__init__()
        require_rgb(_channels(visual))
        self.visual = visual
        self.classifier = _classifier_of(visual, multi_label=multi_label)
        self._multi_label = multi_label

    def _apply(self, *arguments: Any, **options: Any) -> Self:
        super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]
        # The classifier's tensors are the head's, on its device and in its dtype.
        self.classifier = _classifier_of(self.visual, multi_label=self._multi_label)
        return self

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Compute the inputs of the classifier; for a distilled model, of both classifiers.

        Args:
            pixels: ``[B, 3, height, width]``, normalised.
            normalize: whether to return unit vectors.

        Returns:
            Features ``[B, e]``.
        """
        visual: Any = self.visual
        tokens = visual.forward_features(pixels)
        if isinstance(visual, VisionTransformerDistilled):
            features = torch.cat([tokens[:, 0], tokens[:, 1]], -1)
        else:
            features = visual.forward_head(tokens, pre_logits=True)
        return nn.functional.normalize(features, dim=-1) if normalize else features

    def forward(self, pixels: Tensor) -> Tensor:
        """Run the timm model itself on ``[B, 3, height, width]``."""
        output: Tensor = self.visual(pixels)
        return output


def _classifier_of(visual: nn.Module, *, multi_label: bool) -> Classifier | None:
    if isinstance(visual, BcosViT):
        return BcosClassifier.of_units(visual)
    return Classifier.of(visual, multi_label=multi_label)


def require_rgb(channels: int) -> None:
    """Refuse models whose input does not have three channels.

    Raises:
        UnsupportedModelError: another number of channels.
    """
    if channels != _RGB:
        raise UnsupportedModelError(
            f"This model reads {channels} channels; pictures have 3.", field="model"
        )


def _channels(visual: nn.Module) -> int:
    first = getattr(visual, "pretrained_cfg", {}).get("first_conv")
    module = visual.get_submodule(first) if isinstance(first, str) else None
    return module.in_channels if isinstance(module, nn.Conv2d) else _RGB
