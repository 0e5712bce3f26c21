"""Start of short trainings: directions from the backbone's features, in place of random ones.

A long training finds the directions of its concepts by itself. A short one would spend itself on
that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as functional

from tools.starter.art import Sprites
from tools.starter.learner import Learner, normalise
from tools.starter.losses import read_targets
from tools.starter.scenes import compose, training_recipe
from tools.starter.style import vary_scenes

_BATCH = 32
# Added to the variances within a concept, as a share of their mean: few patches show each one.
_SHRINKAGE = 0.1


@torch.no_grad()
def start_from_features(
    learner: Learner,
    sprites: Sprites,
    styles: Mapping[str, float],
    size: int,
    seed: int,
    scenes: int,
) -> None:
    """Set the head and the directions of a learner by a linear discriminant analysis of patches.

    Every worker of a training computes a part of the features.

    The projection keeps the directions of features in which concepts differ most, compared with the
    patches of one concept; a concept's direction is the mean of its patches (Fisher 1936).

    Args:
        learner: The learner; its `ln_post.bias`, `proj` and `concepts` are set.
        sprites: The rendered art.
        styles: Art styles and their relative frequencies.
        size: Side of the pictures in pixels.
        seed: Seed of the scenes.
        scenes: Number of scenes.
    """
    device = learner.concepts.device
    classes, width = len(learner.concepts), learner.visual.ln_post.weight.numel()
    counts = torch.zeros(classes, dtype=torch.float64, device=device)
    sums = torch.zeros(classes, width, dtype=torch.float64, device=device)
    products = torch.zeros(width, width, dtype=torch.float64, device=device)
    recipe = training_recipe(size)
    learner.eval()
    rank, workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
    for first in range(seed + rank * _BATCH, seed + scenes, workers * _BATCH):
        composed = compose(sprites, styles, recipe, first, _BATCH)
        generator = np.random.default_rng(first)
        images = normalise(vary_scenes(composed.images, generator).to(device))
        targets = read_targets(composed, classes - 1, None, generator).to(device)
        [tokens] = learner.block_outputs(images, 1, targets.kept)
        known = targets.owners >= 0
        owners = targets.owners[known]
        features = learner.visual.ln_post(tokens[:, 1:])[known].double()
        counts.index_add_(0, owners, torch.ones_like(owners, dtype=torch.float64))
        sums.index_add_(0, owners, features)
        products += features.T @ features
    learner.train()
    for each in (counts, sums, products):
        torch.distributed.all_reduce(each)
    means = sums / counts.clamp_min(1)[:, None]
    within = (products - means.T @ sums) / counts.sum()
    within += _SHRINKAGE * within.diagonal().mean() * torch.eye(width, device=device)
    variances, axes = torch.linalg.eigh(within)
    whitening = axes / variances.sqrt()
    centre = means[counts > 0].mean(0)
    between = functional.normalize((means - centre) @ whitening, dim=-1)[counts > 0]
    kept = torch.linalg.eigh(between.T @ between).eigenvectors[:, -learner.visual.output_dim :]
    projection = whitening @ kept
    projection /= projection.norm(dim=0).mean()
    learner.visual.ln_post.bias.copy_(-centre)
    learner.visual.proj.copy_(projection)
    found = functional.normalize((means - centre) @ projection, dim=-1)
    learner.concepts.copy_(torch.where(counts[:, None] > 0, found, learner.concepts))
