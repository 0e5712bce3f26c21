"""Tiny, seeded models of transformers, saved as ``save_pretrained`` writes them."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.architectures import disturb
from tests.support.word_tokenizer import WORDS, write_tokenizer

transformers: Any = pytest.importorskip("transformers")

CONTEXT = 8
END = WORDS.index("</s>")
LABELS = ("tabby, tabby cat", "dog", "owl", "red fox", "newt")

_BLOCKS: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_PICTURE: dict[str, Any] = {**_BLOCKS, "image_size": 32, "patch_size": 8}
_VIT: dict[str, Any] = {**_PICTURE, "intermediate_size": 52, "id2label": dict(enumerate(LABELS))}
_DINOV2: dict[str, Any] = {**_PICTURE, "id2label": dict(enumerate(LABELS))}
_DINOV3: dict[str, Any] = {**_PICTURE, "intermediate_size": 52}
_TEXT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 50,
    "vocab_size": len(WORDS),
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": END,
}


def _clip(vision: Mapping[str, Any], text: Mapping[str, Any]) -> Any:
    config = transformers.CLIPConfig(
        vision_config={**_PICTURE, "intermediate_size": 52, **vision},
        text_config={**_TEXT, **text},
        projection_dim=20,
    )
    return transformers.CLIPModel(config)


def _siglip(version: str, **vision: Any) -> Any:
    config = getattr(transformers, f"{version}Config")(
        vision_config={**_BLOCKS, "patch_size": 8, "intermediate_size": 52, **vision},
        text_config={**_TEXT, "projection_size": 32},
    )
    return getattr(transformers, f"{version}Model")(config)


def _of(model: str, config: str, settings: Mapping[str, Any], **more: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, model)(
        getattr(transformers, f"{config}Config")(**{**settings, **more})
    )


# Every supported class, and every setting that changes how it computes.
MODELS: dict[str, Callable[[], Any]] = {
    "CLIPModel": lambda: _clip({}, {}),
    "CLIPModel, other activations and epsilons": lambda: _clip(
        {"hidden_act": "gelu", "layer_norm_eps": 1e-2},
        {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
    ),
    "CLIPModel, old end token": lambda: _clip({"num_attention_heads": 2}, {"eos_token_id": 2}),
    "SiglipModel": lambda: _siglip("Siglip", image_size=32),
    "SiglipModel, other activation": lambda: _siglip(
        "Siglip", image_size=32, hidden_act="relu", layer_norm_eps=1e-2
    ),
    "Siglip2Model": lambda: _siglip("Siglip2", num_patches=16),
    "ViTForImageClassification": _of("ViTForImageClassification", "ViT", _VIT),
    "ViTForImageClassification, not square": _of(
        "ViTForImageClassification", "ViT", _VIT, image_size=[48, 32], patch_size=[16, 8]
    ),
    "ViTForImageClassification, no biases, quick GELU": _of(
        "ViTForImageClassification",
        "ViT",
        _VIT,
        qkv_bias=False,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-2,
    ),
    "ViTModel": _of("ViTModel", "ViT", _VIT),
    "DeiTModel": _of("DeiTModel", "DeiT", _VIT),
    "DeiTForImageClassification": _of("DeiTForImageClassification", "DeiT", _VIT),
    "DeiTForImageClassificationWithTeacher": _of(
        "DeiTForImageClassificationWithTeacher", "DeiT", _VIT
    ),
    "Dinov2Model": _of("Dinov2Model", "Dinov2", _DINOV2),
    "Dinov2Model, SwiGLU": _of("Dinov2Model", "Dinov2", _DINOV2, use_swiglu_ffn=True),
    "Dinov2ForImageClassification": _of("Dinov2ForImageClassification", "Dinov2", _DINOV2),
    "Dinov2WithRegistersModel": _of("Dinov2WithRegistersModel", "Dinov2WithRegisters", _DINOV2),
    "Dinov2WithRegistersForImageClassification": _of(
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegisters",
        _DINOV2,
        use_swiglu_ffn=True,
        num_register_tokens=2,
    ),
    "DINOv3ViTModel": _of("DINOv3ViTModel", "DINOv3ViT", _DINOV3, num_register_tokens=4),
    "DINOv3ViTModel, gated, few biases": _of(
        "DINOv3ViTModel",
        "DINOv3ViT",
        _DINOV3,
        use_gated_mlp=True,
        hidden_act="silu",
        query_bias=False,
        key_bias=True,
        proj_bias=False,
        mlp_bias=False,
        rope_theta=50.0,
    ),
    "DINOv3ViTModel, no biases in its attention": _of(
        "DINOv3ViTModel", "DINOv3ViT", _DINOV3, query_bias=False, value_bias=False
    ),
    "BeitForImageClassification": _of(
        "BeitForImageClassification", "Beit", _VIT, use_relative_position_bias=True
    ),
    "BeitForImageClassification, shared bias, class token": _of(
        "BeitForImageClassification",
        "Beit",
        _VIT,
        use_shared_relative_position_bias=True,
        use_absolute_position_embeddings=True,
        use_mean_pooling=False,
        layer_scale_init_value=0.0,
        hidden_act="relu",
    ),
}
TEXT_MODELS = tuple(name for name in MODELS if name.startswith(("CLIP", "Siglip")))
CLASSIFIERS = tuple(name for name in MODELS if "ForImageClassification" in name)
ANY_SIZE = tuple(name for name in MODELS if name.startswith(("Siglip2", "Dinov2", "DINOv3")))


@cache
def seeded(name: str) -> Any:
    """Return one of :data:`MODELS` in float32, with attention matrices as tensors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    # A fresh model pays nearly even attention.
                    parameter.add_(0.15 * torch.randn(parameter.shape))
    disturb(model)
    model.set_attn_implementation("eager")
    return model.eval()


def saved(name: str, folder: Path, *, processor: bool = True) -> Path:
    """Write one of :data:`MODELS` with its tokenizer and an image processor; return the folder."""
    model = seeded(name)
    model.save_pretrained(folder)
    if name in TEXT_MODELS:
        write_tokenizer(folder)
    if processor:
        processor_for(name).save_pretrained(folder)
    return folder


def processor_for(name: str, **settings: Any) -> Any:
    """Return an image processor with numbers that no model has by default."""
    numbers = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}
    if name.startswith("Siglip2"):
        numbers |= {"patch_size": 8, "max_num_patches": 16}
        return transformers.Siglip2ImageProcessor(**{**numbers, **settings})
    height, width = (48, 32) if "not square" in name else (32, 32)
    numbers |= {"size": {"height": height, "width": width}}
    return transformers.ViTImageProcessor(**{**numbers, **settings})
