"""Probabilities that the model itself gives to the targets of a picture."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from legrad_engine import models
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.resolved import ResolvedTargets


def weigh(
    model: nn.Module,
    classifier: Classifier | None,
    features: Tensor,
    similarities: Tensor,
    resolved: Sequence[ResolvedTargets],
) -> Tensor:
    """Compute the probability of every row of a batch.

    Args:
        model: the model; without a logit scale it gives no probabilities to texts.
        classifier: the model's classifier, or None.
        features: ``[B, e]``, the model's image features, not normalised.
        similarities: ``[B, rows]`` cosines.
        resolved: the targets of each of the B pictures.

    Returns:
        ``[B, rows]``: for a text, :func:`legrad_engine.models.probabilities` over the picture's
        texts; for a class, the classifier's probability; NaN for any other kind.
    """
    found = torch.full_like(similarities, torch.nan)
    for image, each in enumerate(resolved):
        texts, classes = each.rows_of("text"), each.rows_of("class")
        if texts and hasattr(model, "logit_scale"):
            weighed = models.probabilities(model, similarities[image, texts])
            found[image, texts] = weighed.to(found.dtype)
        if classes and classifier is not None:
            chosen = [cast(int, each.classes[row]) for row in classes]
            weighed = classifier.probabilities(features[image : image + 1])[0, chosen]
            found[image, classes] = weighed.to(found.dtype)
    return found
