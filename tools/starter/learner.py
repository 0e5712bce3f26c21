"""Model in training: open_clip's visual tower and one direction per concept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as functional
from open_clip.transformer import VisionTransformer
from torch import nn

import legrad_engine.starter
from tools.starter.backbone import read_backbone

CONFIG_PATH = Path(legrad_engine.starter.__file__).parent / "starter.json"
# DINOv2 was trained on inputs normalised with ImageNet's statistics.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_FROZEN_BLOCKS = 3
_MIXED_SHARE = 0.5


def build_model(image_size: int | None = None) -> Any:
    """Create the open_clip model of `starter.json` with fresh weights, at `image_size` if given."""
    open_clip.add_model_config(CONFIG_PATH)
    overrides = {} if image_size is None else {"force_image_size": image_size}
    return open_clip.create_model(CONFIG_PATH.stem, **overrides)


class Learner(nn.Module):
    """Visual tower with the parameters that only training needs.

    Attributes:
        visual: open_clip's tower.
        concepts: float32 `[concepts + 1, embed_dim]`; rows are directions, the last one is the
            background's.
        scene_scale: Logarithm of the inverse temperature for whole scenes.
        patch_scale: Logarithm of the inverse temperature for single patches.
    """

    def __init__(self, visual: VisionTransformer, concept_count: int) -> None:
        super().__init__()
        self.visual = visual
        width = visual.output_dim
        self.concepts = nn.Parameter(torch.randn(concept_count + 1, width) / math.sqrt(width))
        self.scene_scale = nn.Parameter(torch.tensor(math.log(16.0)))
        self.patch_scale = nn.Parameter(torch.tensor(math.log(16.0)))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Apply the tower's head to tokens `[..., width]`: unit vectors `[..., embed_dim]`."""
        return functional.normalize(self.visual.ln_post(tokens) @ self.visual.proj, dim=-1)

    def block_outputs(
        self, images: torch.Tensor, count: int, kept: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Compute the outputs of the last `count` blocks.

        Args:
            images: float32 `[batch, 3, size, size]`, normalised.
            count: Number of blocks.
            kept: int64 `[batch, patches]`, the patches to keep; None for all.

        Returns:
            float32 `[batch, 1 + patches, width]` each, the class token first.
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=has_fast_bfloat16(images)):
            outputs = self._block_outputs(images, kept)
        return [tokens.float() for tokens in outputs[-count:]]

    def _block_outputs(self, images: torch.Tensor, kept: torch.Tensor | None) -> list[torch.Tensor]:
        blocks = self.visual.transformer.resblocks
        with torch.no_grad():
            tokens = self.visual._embeds(images)
            if kept is not None:
                index = functional.pad(kept + 1, (1, 0))[..., None].expand(-1, -1, tokens.shape[-1])
                tokens = tokens.gather(1, index)
            for block in blocks[:_FROZEN_BLOCKS]:
                tokens = _apply(block, tokens)
            if self.training:
                tokens = mix_statistics(tokens)
        outputs = []
        for block in blocks[_FROZEN_BLOCKS:]:
            tokens = _apply(block, tokens)
            outputs.append(tokens)
        return outputs


def has_fast_bfloat16(tensor: torch.Tensor) -> bool:
    """Tell whether products of bfloat16 are faster than those of float32 on a tensor's device."""
    capabilities = torch.cpu.get_capabilities()
    return tensor.is_cuda or any(capabilities.get(f"{name}_bf16") for name in ("amx", "avx512"))


def _apply(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Compute a block as open_clip does, by products that are fast in bfloat16."""
    attention = block.attn
    batch, length, width = tokens.shape
    projected = functional.linear(
        block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias
    )
    queries, keys, values = projected.view(
        batch, length, 3, attention.num_heads, attention.head_dim
    ).permute(2, 0, 3, 1, 4)
    weights = (queries @ keys.transpose(-1, -2) * attention.head_dim**-0.5).softmax(-1)
    mixed = (weights @ values).transpose(1, 2).reshape(batch, length, width)
    tokens = tokens + block.ls_1(attention.out_proj(mixed))
    result: torch.Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return result


def mix_statistics(tokens: torch.Tensor) -> torch.Tensor:
    """Mix each picture's means and deviations of features with another picture's, half of the time.

    These carry style more than content (MixStyle, Zhou et al. 2021, arXiv 2104.02008).

    Args:
        tokens: float32 `[batch, 1 + patches, width]`.
    """
    batch = len(tokens)
    share = torch.distributions.Beta(0.1, 0.1).sample((batch, 1, 1)).to(tokens.device)
    share = share.where(torch.rand_like(share) < _MIXED_SHARE, 1.0)
    deviation, mean = torch.std_mean(tokens, 1, keepdim=True)
    other = torch.randperm(batch, device=tokens.device)
    mixed_mean = torch.lerp(mean[other], mean, share)
    mixed_deviation = torch.lerp(deviation[other], deviation, share)
    return (tokens - mean) / (deviation + 1e-6) * mixed_deviation + mixed_mean


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Apply `MEAN` and `STD` to pictures `[..., 3, height, width]` in 0..1."""
    mean, deviation = (images.new_tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    return (images - mean) / deviation


def initialise(backbone: Path, concept_count: int, size: int, seed: int) -> Learner:
    """Make a learner whose first blocks have the weights of the DINOv2 export at `backbone`."""
    torch.manual_seed(seed)
    learner = Learner(build_model(size).visual, concept_count)
    weights = read_backbone(
        backbone, layers=len(learner.visual.transformer.resblocks), grid=size // 14
    )
    missing, unexpected = learner.visual.load_state_dict(weights, strict=False)
    if unexpected or set(missing) != {"ln_post.weight", "ln_post.bias", "proj"}:
        raise ValueError(f"the backbone does not fit: missing {missing}, unexpected {unexpected}")
    visual = learner.visual
    for frozen in (visual.conv1, *visual.transformer.resblocks[:_FROZEN_BLOCKS]):
        frozen.requires_grad_(False)
    visual.class_embedding.requires_grad_(False)
    visual.positional_embedding.requires_grad_(False)
    return learner
