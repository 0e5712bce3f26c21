"""Training targets and losses of the visual tower: the concepts of scenes and of patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional

from tools.starter.learner import Learner
from tools.starter.scenes import Scenes

_STICKER_COVER = 0.6
_BACKGROUND_COVER = 0.02


@dataclass(frozen=True)
class Targets:
    """Training targets of a batch of scenes.

    Attributes:
        present: bool `[scenes, concepts]`, the concepts in each scene.
        kept: int64 `[scenes, patches]`, indices of the patches that the loss uses.
        owners: int64 `[scenes, patches]`, the concept whose sticker covers most of a kept patch;
            the number of concepts if no sticker touches the patch; -1 if the patch is mixed.
    """

    present: torch.Tensor
    kept: torch.Tensor
    owners: torch.Tensor

    def to(self, device: torch.device) -> Targets:
        """Move the tensors to a device."""
        return Targets(self.present.to(device), self.kept.to(device), self.owners.to(device))


def read_targets(
    scenes: Scenes,
    concept_count: int,
    patches: int | None,
    generator: np.random.Generator,
    patch: int = 14,
) -> Targets:
    """Compute targets from the visible masks.

    Args:
        scenes: The scenes.
        concept_count: Number of concepts.
        patches: Number of patches to keep in each scene, background dropped first; None for all.
        generator: Chooses the background that is kept.
        patch: Side of a patch in pixels.
    """
    cover = functional.avg_pool2d(scenes.masks.float(), patch).flatten(2)
    is_background = cover.sum(1) < _BACKGROUND_COVER
    order = is_background + torch.from_numpy(
        generator.random(is_background.shape, dtype=np.float32)
    )
    kept = order.argsort(1)[:, :patches]
    cover = cover.gather(2, kept[:, None].expand(-1, cover.shape[1], -1))
    best, slot = cover.max(1)
    present = torch.zeros(len(scenes.concepts), concept_count + 1, dtype=torch.bool)
    present.scatter_(1, scenes.concepts.where(scenes.concepts >= 0, concept_count), True)
    owners = scenes.concepts.gather(1, slot).where(best > _STICKER_COVER, -1)
    owners = owners.masked_fill(is_background.gather(1, kept), concept_count)
    return Targets(present[:, :concept_count], kept, owners)


def scene_loss(logits: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Compute the loss that raises every present concept above the log-sum-exp of the absent ones.

    Args:
        logits: float32 `[scenes, concepts]`.
        present: bool, the same shape.
    """
    absent = logits.masked_fill(present, -torch.inf).logsumexp(1, keepdim=True)
    return functional.softplus(absent - logits)[present].mean()


def loss(learner: Learner, images: torch.Tensor, targets: Targets) -> dict[str, torch.Tensor]:
    """Compute all weighted loss terms for normalised `images` `[batch, 3, size, size]`."""
    directions = functional.normalize(learner.concepts, dim=-1)
    scene_scale, patch_scale = learner.scene_scale.exp(), learner.patch_scale.exp()
    background = len(directions) - 1
    terms: dict[str, torch.Tensor] = {}
    # The last but one block has losses too, because LeGrad applies the same head to both.
    for name, weight, tokens in zip(
        ("earlier", "last"), (0.5, 1.0), learner.block_outputs(images, 2, targets.kept), strict=True
    ):
        patches = tokens[:, 1:]
        logits = patch_scale * learner.embed(patches) @ directions.T
        on_sticker = (targets.owners >= 0) & (targets.owners < background)
        terms[f"{name} sticker patches"] = weight * functional.cross_entropy(
            logits[on_sticker], targets.owners[on_sticker], label_smoothing=0.05
        )
        on_background = targets.owners == background
        terms[f"{name} background patches"] = (
            0.2
            * weight
            * functional.cross_entropy(logits[on_background], targets.owners[on_background])
        )
        pooled = scene_scale * learner.embed(patches.mean(1)) @ directions[:-1].T
        terms[f"{name} scene"] = weight * scene_loss(pooled, targets.present)
        # The class token and the patches of the background see the stickers only through attention:
        # losses on both make the value vectors carry the concepts of the scene.
        gathered = scene_scale * learner.embed(tokens[:, 0]) @ directions[:-1].T
        terms[f"{name} class token"] = 0.5 * weight * scene_loss(gathered, targets.present)
        ground = on_background[..., None].float()
        has_ground = on_background.any(1)
        mean_ground = (patches * ground).sum(1) / ground.sum(1).clamp_min(1)
        informed = scene_scale * learner.embed(mean_ground[has_ground]) @ directions[:-1].T
        terms[f"{name} background"] = weight * scene_loss(informed, targets.present[has_ground])
    return terms
