"""LeGrad with LibraGrad's rules equals autograd through modules that follow the rules."""

import copy
from typing import Any

import open_clip.transformer as openclip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families import find_tower
from legrad_engine.methods.registry import find_method
from tests.support.architectures import STANDARD, seeded_model
from tests.support.explicit_legrad import explicit_maps
from tests.support.explicit_timm import explicit, explicit_timm_maps
from tests.support.plain_timm import ReadsFeatures, plain_model
from tests.support.tower_methods import (
    largest_difference,
    maps_of,
    seeded_pixels,
    seeded_targets,
)

NAME = "legrad-libra"


class ConstantDeviation(nn.Module):
    """A layer norm whose deviation is a constant in the backward pass."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, tokens: Tensor) -> Tensor:
        centred = tokens - tokens.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.norm.eps).sqrt().detach()
        normalized: Tensor = centred / deviation * self.norm.weight + self.norm.bias
        return normalized


class ConstantGate(nn.Module):
    """An activation ``x Phi(x)`` whose factor is a constant in the backward pass."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, hidden: Tensor) -> Tensor:
        if isinstance(self.activation, openclip.QuickGELU):
            return hidden * torch.sigmoid(1.702 * hidden).detach()
        if getattr(self.activation, "approximate", "none") == "tanh":
            inner: Tensor = (2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)
            gate: Tensor = 0.5 * (1 + inner.tanh())
            return hidden * gate.detach()
        return hidden * (0.5 * (1 + torch.erf(hidden / 2**0.5))).detach()


def by_the_rules(visual: nn.Module) -> Any:
    """Return a float64 copy of a tower with the same values and other gradients."""
    changed = copy.deepcopy(visual).double()
    for name, module in list(changed.named_modules()):
        replacement: nn.Module | None = None
        if isinstance(module, nn.LayerNorm):
            replacement = ConstantDeviation(module)
        if isinstance(module, (nn.GELU, openclip.QuickGELU)):
            replacement = ConstantGate(module)
        if replacement is not None:
            parent, _, last = name.rpartition(".")
            setattr(changed.get_submodule(parent), last, replacement)
    return changed


@pytest.mark.parametrize("score", ["mean", "cls"])
@pytest.mark.parametrize(
    "variant",
    [
        "class token",
        "class token, quick GELU",
        "tanh GELU",
        "average, norm before pooling",
        "average, norm after pooling, no ln_pre, layer scale, patch 14",
        "image higher than wide",
    ],
)
def test_openclip_towers(variant: str, score: Any) -> None:
    model: Any = seeded_model(**STANDARD[variant])
    tower = find_tower(model)
    if score not in tower.scores:
        return
    pixels = seeded_pixels(2, *tower.image_size)
    targets = seeded_targets(2, 3, tower.embedding_size)
    found = maps_of(tower, NAME, pixels, targets, layers="all", score=score)
    usual = maps_of(tower, "legrad", pixels, targets, layers="all", score=score)
    visual = by_the_rules(model.visual)
    for image in range(2):
        expected = explicit_maps(visual, pixels[image], targets[image], range(3), score)
        assert expected.max() > 0
        assert largest_difference(found[image], expected) < 1e-5
        assert largest_difference(usual[image], expected) > 1e-2


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "vit_medium_patch16_rope_reg1_gap_256"])
def test_timm_towers(model: str) -> None:
    tower = find_tower(plain_model(model))
    pixels = seeded_pixels(1, *tower.image_size).double()
    targets = F.normalize(seeded_targets(1, 2, tower.embedding_size).double(), dim=-1)
    visual = ReadsFeatures(by_the_rules(explicit(plain_model(model))))
    for score in tower.scores:
        found = maps_of(tower, NAME, pixels, targets, layers="all", score=score)
        expected = explicit_timm_maps(visual, pixels[0], targets[0], range(2), score)
        assert largest_difference(found[0], expected) < 1e-9


def test_blocks_without_a_closed_form_are_refused() -> None:
    tower = find_tower(seeded_model(scale_heads=True))
    with pytest.raises(InvalidOptionError, match="derivative has a closed form"):
        find_method(NAME, tower)
