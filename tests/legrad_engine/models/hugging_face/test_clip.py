"""``CLIPModel`` against the same weights in open_clip."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from legrad_engine import Explainer
from tests.support.architectures import CONTEXT_LENGTH, config, disturb
from tests.support.pictures import picture
from tests.support.transformers_models import transformers

PROMPTS = ["a photo of a Cat", "dogs, and  owls!", "naïve café 3.14"]


def save_as_open_clip(folder: Path, model: torch.nn.Module, settings: dict[str, Any]) -> str:
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def save_as_transformers(folder: Path, model: Any, settings: dict[str, Any]) -> str:
    """Copy every tensor by hand into a CLIPModel, and save that."""
    vision, text = settings["vision_cfg"], settings["text_cfg"]
    common = {"hidden_act": "quick_gelu" if settings["quick_gelu"] else "gelu"}
    own = transformers.CLIPModel(
        transformers.CLIPConfig(
            projection_dim=settings["embed_dim"],
            vision_config={
                **common,
                "hidden_size": vision["width"],
                "intermediate_size": 4 * vision["width"],
                "num_hidden_layers": vision["layers"],
                "num_attention_heads": vision["width"] // vision["head_width"],
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
            },
            text_config={
                **common,
                "hidden_size": text["width"],
                "intermediate_size": 4 * text["width"],
                "num_hidden_layers": text["layers"],
                "num_attention_heads": text["heads"],
                "vocab_size": text["vocab_size"],
                "max_position_embeddings": text["context_length"],
            },
        )
    )
    visual = model.visual
    pairs = [
        (own.vision_model.embeddings.class_embedding, visual.class_embedding),
        (own.vision_model.embeddings.patch_embedding.weight, visual.conv1.weight),
        (own.vision_model.embeddings.position_embedding.weight, visual.positional_embedding),
        (own.text_model.embeddings.token_embedding.weight, model.token_embedding.weight),
        (own.text_model.embeddings.position_embedding.weight, model.positional_embedding),
        (own.visual_projection.weight, visual.proj.T),
        (own.text_projection.weight, model.text_projection.T),
        (own.logit_scale, model.logit_scale),
        *of_modules(own.vision_model.pre_layrnorm, visual.ln_pre),
        *of_modules(own.vision_model.post_layernorm, visual.ln_post),
        *of_modules(own.text_model.final_layer_norm, model.ln_final),
        *of_blocks(own.vision_model.encoder.layers, visual.transformer.resblocks),
        *of_blocks(own.text_model.encoder.layers, model.transformer.resblocks),
    ]
    assert len(pairs) == len(list(own.parameters()))
    with torch.no_grad():
        for theirs, ours in pairs:
            assert theirs.shape == ours.shape
            theirs.copy_(ours)
    own.save_pretrained(folder)
    transformers.CLIPImageProcessor().save_pretrained(folder)
    write_clip_tokenizer(folder)
    return f"transformers:{folder}"


def write_clip_tokenizer(folder: Path) -> None:
    """Write OpenAI's vocabulary as the published models have it."""
    simple = open_clip.SimpleTokenizer()
    merges = "\n".join(f"{first} {second}" for first, second in simple.bpe_ranks)
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): index for token, index in simple.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))


def of_modules(theirs: Any, ours: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    yield theirs.weight, ours.weight
    yield theirs.bias, ours.bias


def of_blocks(theirs: Any, ours: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for block, known in zip(theirs, ours, strict=True):
        attention = block.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        for projection, weight, bias in zip(
            projections,
            known.attn.in_proj_weight.chunk(3),
            known.attn.in_proj_bias.chunk(3),
            strict=True,
        ):
            yield projection.weight, weight
            yield projection.bias, bias
        yield from of_modules(attention.out_proj, known.attn.out_proj)
        yield from of_modules(block.layer_norm1, known.ln_1)
        yield from of_modules(block.layer_norm2, known.ln_2)
        yield from of_modules(block.mlp.fc1, known.mlp.c_fc)
        yield from of_modules(block.mlp.fc2, known.mlp.c_proj)


@pytest.mark.parametrize("quick_gelu", [False, True], ids=["GELU", "quick GELU"])
def test_a_clip_model_answers_as_the_same_weights_in_open_clip(
    quick_gelu: bool, tmp_path: Path
) -> None:
    settings = config(quick_gelu=quick_gelu)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**settings)
    disturb(model)
    (tmp_path / "theirs").mkdir()
    ours = Explainer.load(save_as_open_clip(tmp_path, model, settings))
    theirs = Explainer.load(save_as_transformers(tmp_path / "theirs", model, settings))
    assert settings["text_cfg"]["context_length"] == CONTEXT_LENGTH
    torch.testing.assert_close(theirs.text.encode(PROMPTS), ours.text.encode(PROMPTS))
    image = picture(70, 50)
    for options in ({}, {"score": "cls", "layers": "all"}, {"fit": "native", "size": 96}):
        (expected,) = ours.explain(image, PROMPTS, **options)
        (found,) = theirs.explain(image, PROMPTS, **options)
        assert expected.maps.max() > 0
        np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-4)
        np.testing.assert_allclose(found.similarities, expected.similarities, rtol=1e-4, atol=1e-6)
