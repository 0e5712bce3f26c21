"""Attention matrices by the models' own code without fused attention.

An independent check: it shares no code with the engine.
"""

from typing import Any

import torch
from torch import Tensor

from tests.support.explicit_timm import SoftmaxRecorder, explicit

CLASS_TOKEN = slice(0, 1)
TIMM_QUERIES = {
    "vit_tiny_patch16_224": (CLASS_TOKEN, 1),
    "deit_tiny_distilled_patch16_224": (slice(0, 2), 2),
    "vit_medium_patch16_rope_reg1_gap_256": (slice(1, None), 1),
    "vit_relpos_small_patch16_224": (slice(None), 0),
    "vit_base_patch16_siglip_224": (slice(None), 0),
    "beitv2_base_patch16_224": (CLASS_TOKEN, 1),
}
"""Of some models of :mod:`tests.support.plain_timm`: the query rows that the score reads in the
last attention, which is the pooler's in a SigLIP model, and the number of tokens before the
patches."""


def timm_weights(model: Any, pixels: Tensor) -> list[Tensor]:
    """Return the weights ``[heads, Q, N]`` of every attention of one image, in order.

    Args:
        model: a model with a timm tower; its pooler comes last.
        pixels: ``[3, H, W]``.
    """
    visual = explicit(model)
    with SoftmaxRecorder() as recorder, torch.no_grad():
        visual(pixels.double().unsqueeze(0))
    return [weights[0] for weights in recorder.results]


def openclip_weights(visual: Any, pixels: Tensor) -> list[Tensor]:
    """Return the weights ``[heads, N, N]`` of every block of an open_clip VisionTransformer.

    Args:
        visual: the tower in float64, at the size of the pixels.
        pixels: ``[3, H, W]``.
    """
    inputs: list[Tensor] = []
    blocks = visual.transformer.resblocks
    handles = [
        block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        for block in blocks
    ]
    found = []
    with torch.no_grad():
        visual(pixels.double().unsqueeze(0))
        for block, tokens in zip(blocks, inputs, strict=True):
            normalized = block.ln_1(tokens)
            _, weights = block.attn(normalized, normalized, normalized, average_attn_weights=False)
            found.append(weights[0])
    for handle in handles:
        handle.remove()
    return found
