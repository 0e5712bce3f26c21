"""How probable the model itself finds each target of a picture, where it has an opinion."""

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
    """The probability of every row of a batch.

    Args:
        model: the model; one without a logit scale has no opinion on texts.
        classifier: its classifier, if it has one.
        features: ``[B, e]``, the served image embeddings before they are made unit.
        similarities: ``[B, rows]`` cosines.
        resolved: B pictures' targets.

    Returns:
        ``[B, rows]``: of a text, as :func:`legrad_engine.models.probabilities` weighs the picture's
        texts; of a class, the classifier's softmax over all its classes; NaN for any other kind.
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
