"""Probabilities that the model itself gives to the targets of a picture."""

from collections import defaultdict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from legrad_engine import models
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.resolved import ResolvedTargets
from legrad_engine.transfers import index_on, to_device


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
    device = found.device
    # Pictures whose texts, or classes, are in the same rows are weighed together.
    by_texts: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    by_classes: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for image, each in enumerate(resolved):
        by_texts[tuple(each.rows_of("text"))].append(image)
        by_classes[tuple(each.rows_of("class"))].append(image)
    for rows, members in by_texts.items():
        if rows and hasattr(model, "logit_scale"):
            place = index_on(device, members)[:, None], index_on(device, rows)
            found[place] = models.probabilities(model, similarities[place]).to(found.dtype)
    for rows, members in by_classes.items():
        if rows and classifier is not None:
            images = index_on(device, members)[:, None]
            chosen = [
                [cast(int, resolved[image].classes[row]) for row in rows] for image in members
            ]
            weighed = classifier.probabilities(features[images[:, 0]])
            weighed = weighed.gather(1, to_device(torch.tensor(chosen), device))
            found[images, index_on(device, rows)] = weighed.to(found.dtype)
    return found
