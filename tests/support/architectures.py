"""Small open_clip models with seeded weights, in every variant of the architecture."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file

from legrad_engine import Explainer

EMBEDDING_SIZE = 24
CONTEXT_LENGTH = 16

# Everything that open_clip's own VisionTransformer can vary in, one or a few at a time.
STANDARD: dict[str, dict[str, Any]] = {
    "class token": {},
    "class token, no ln_pre": {"no_ln_pre": True},
    "class token, quick GELU": {"quick_gelu": True},
    "class token, layer scale": {"ls_init_value": 0.4},
    "class token, final norm after pooling": {"final_ln_after_pool": True},
    "average, norm before pooling": {"pool_type": "avg"},
    "average, norm before pooling, quick GELU": {"pool_type": "avg", "quick_gelu": True},
    "average, norm after pooling": {"pool_type": "avg", "final_ln_after_pool": True},
    "average, norm after pooling, no ln_pre, layer scale, patch 14": {
        "pool_type": "avg",
        "final_ln_after_pool": True,
        "no_ln_pre": True,
        "ls_init_value": 0.7,
        "patch_size": 14,
        "image_size": 56,
        "norm_kwargs": {"eps": 1e-3},
    },
    "patch 32": {"patch_size": 32, "image_size": 96},
    "patches wider than high": {"patch_size": [8, 16]},
    "image higher than wide": {"image_size": [96, 64]},
    "fixed sine positions": {"pos_embed_type": "sin_cos_2d"},
    "tanh GELU": {"act_kwargs": {"approximate": "tanh"}},
    "narrow MLP, many heads": {"mlp_ratio": 1.5, "head_width": 4},
    "default block named": {"block_type": "default"},
}

CUSTOM: dict[str, dict[str, Any]] = {
    "custom block": {"block_type": "custom"},
    "scaled heads": {"scale_heads": True},
    "norm inside attention": {"scale_attn_inner": True},
    "norm after attention": {"scale_attn": True},
    "norm inside the MLP": {"scale_fc": True},
    "normalised queries and keys": {"qk_norm": True},
    "all of them, averaged, layer scale": {
        "scale_heads": True,
        "scale_attn_inner": True,
        "scale_attn": True,
        "scale_fc": True,
        "qk_norm": True,
        "pool_type": "avg",
        "ls_init_value": 0.6,
    },
}


def config(*, quick_gelu: bool = False, **vision: Any) -> dict[str, Any]:
    """Return an open_clip model config, shrunk to three blocks of width 32."""
    return {
        "embed_dim": EMBEDDING_SIZE,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": 16,
            "layers": 3,
            "width": 32,
            "head_width": 16,
            **vision,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }


@torch.no_grad()
def disturb(model: torch.nn.Module, seed: int = 0) -> None:
    """Move norms, biases and scales away from 0 and 1, and sharpen the attention.

    A test on fresh weights would not notice a forgotten bias.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.squeeze().ndim == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        elif name.endswith("in_proj_weight"):
            parameter.mul_(2)


@cache
def tokenizer() -> open_clip.SimpleTokenizer:
    """Return the CLIP tokenizer, cached because its vocabulary is slow to read."""
    return open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)


def seeded_model(
    *, dtype: torch.dtype = torch.float32, seed: int = 0, **vision: Any
) -> torch.nn.Module:
    """Return a shrunk open_clip model whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module = open_clip.CLIP(**config(**vision))
    disturb(model, seed)
    open_clip.set_model_preprocess_cfg(
        model, {"mean": PreprocessCfg.mean, "std": PreprocessCfg.std, "size": 64}
    )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.to(dtype).eval()


def seeded_explainer(
    *, dtype: torch.dtype = torch.float32, seed: int = 0, **vision: Any
) -> Explainer:
    """Return an explainer of :func:`seeded_model`."""
    model = seeded_model(dtype=dtype, seed=seed, **vision)
    return Explainer(model, tokenizer(), name="shrunk")


def seeded_checkpoint(
    architecture: str,
    folder: Path,
    *,
    layers: int = 4,
    text_layers: int = 1,
    text_width: int = 32,
    name: str | None = None,
) -> tuple[Path, Path]:
    """Write a shallow copy of a real architecture: real width, few blocks, small text tower.

    Returns:
        The paths of the open_clip config and of its weights (safetensors).
    """
    settings = open_clip.get_model_config(architecture)
    settings["vision_cfg"]["layers"] = layers
    settings["text_cfg"] |= {"layers": text_layers, "width": text_width, "heads": 2}
    stem = name or f"{architecture}-shallow"
    config_path, weights_path = folder / f"{stem}.json", folder / f"{stem}.safetensors"
    config_path.write_text(json.dumps(settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**settings)
    disturb(model)
    save_file(model.state_dict(), weights_path)
    return config_path, weights_path
