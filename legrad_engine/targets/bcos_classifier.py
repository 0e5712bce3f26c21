"""Classes of a B-cos model as targets: each logit is a B-cos unit of the features."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.families.bcos_vit import BcosViT, unit_scale
from legrad_engine.families.heads import at_least_float32
from legrad_engine.targets.classifier import Classifier, labels_of


@dataclass(frozen=True, slots=True, eq=False)
class BcosClassifier(Classifier):
    """Layer of B-cos units over a model's features; its weights are unit vectors."""

    @classmethod
    def of_units(cls, model: BcosViT) -> "BcosClassifier":
        """Take the last layer of a model.

        The classes are independent, because B-cos models are trained by binary cross-entropy.
        """
        weight = model.class_weights
        bias = torch.full_like(weight[:, 0], model.logit_bias)
        return cls(weight, bias, labels_of(model, len(weight)), "sigmoid")

    def probabilities(self, features: Tensor) -> Tensor:
        """See :meth:`Classifier.probabilities`."""
        features = at_least_float32(features)
        outputs = F.linear(features, at_least_float32(self.weight))
        logits = outputs * unit_scale(outputs, features)
        return (logits if self.bias is None else logits + self.bias).sigmoid()
