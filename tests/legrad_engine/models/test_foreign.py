"""Models of the literature that cannot be explained are refused by name and by checkpoint."""

from pathlib import Path

import pytest
import timm
import torch

from legrad_engine import Explainer
from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families import timm_refusal
from legrad_engine.models.foreign import FOREIGN, refused_name, refused_weights
from tests.support.plain_timm import MODELS

# Names of weights as the repositories of the authors save them.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "FCViT": (
        "patch_embed.proj.weight",
        "network.0.0.layer_scale_1",
        "network.0.0.token_mixer.gc1.fc.0.weight",
        "network.0.0.token_mixer.dw1.weight",
        "network.0.0.token_mixer.fc1.0.weight",
        "network.0.0.channel_mixer.dwconv.weight",
        "head.weight",
    ),
    "SiT": (
        "cls_token",
        "pos_embed",
        "patch_embed.conv1.weight",
        "blocks.0.attn.qkv.weight",
        "tsm.0.scale",
        "tsm.0.weight.1.weight",
        "rtsm.3.mlp1.fc1.weight",
        "aux_head.weight",
        "head.weight",
    ),
    "ViTAE": (
        "tokens_to_token.0.PRM.convs.0.0.weight",
        "tokens_to_token.0.PCM.0.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.PCM.0.weight",
        "blocks.0.PCM.1.running_mean",
        "head.weight",
    ),
    "T2T-ViT": (
        "tokens_to_token.attention1.kqv.weight",
        "tokens_to_token.project.weight",
        "blocks.0.attn.qkv.weight",
    ),
    "DynamicViT": ("blocks.0.attn.qkv.weight", "score_predictor.0.in_conv.1.weight"),
    "CvT": ("stage0.blocks.0.attn.conv_proj_q.conv.weight", "stage0.patch_embed.proj.weight"),
}
NAMES = {
    "FCViT": ("fcvit_tiny", "fcvit_b12"),
    "SiT": ("sit_lvvit_tiny", "SiT-lvvit-small"),
    "ViTAE": ("ViTAEv2_S", "ViTAE_basic_Tiny"),
    "T2T-ViT": ("t2t_vit_14", "T2T-ViT-14"),
    "DynamicViT": ("dynamicvit_deit_s",),
    "CvT": ("CvT-13", "cvt_21"),
}


def test_every_model_is_tried_here() -> None:
    assert set(LAYOUTS) == set(NAMES) == {each.title for each in FOREIGN}


@pytest.mark.parametrize("wrapped", ["model", "state_dict", None])
@pytest.mark.parametrize("title", LAYOUTS)
def test_a_checkpoint_is_refused_whatever_architecture_it_is_given_for(
    title: str, wrapped: str | None, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(2, 2, generator=generator) for name in LAYOUTS[title]}
    if wrapped == "state_dict":
        weights = {f"module.{name}": value for name, value in weights.items()}
    path = tmp_path / "weights.pth"
    torch.save(weights if wrapped is None else {wrapped: weights, "epoch": 3}, path)
    nearest = next(each.nearest for each in FOREIGN if each.title == title)
    for reference in (f"timm:test_vit@{path}", f"ViT-B-32@{path}"):
        with pytest.raises(UnsupportedModelError, match=f"it is {title}, ") as refused:
            Explainer.load(reference)
        assert nearest in str(refused.value)


@pytest.mark.parametrize("title", NAMES)
def test_a_name_is_refused(title: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    for name in NAMES[title]:
        for reference in (f"timm:{name}", f"timm:{name}@{path}", f"{name}@{path}"):
            with pytest.raises(UnsupportedModelError, match=f"it is {title}, "):
                Explainer.load(reference)


def test_the_nearest_models_are_explained() -> None:
    for each in FOREIGN:
        name = each.nearest.removeprefix("timm:")
        assert timm.is_model(name)
        assert timm_refusal(name) is None


@pytest.mark.parametrize("name", MODELS)
def test_no_model_that_is_explained_is_taken_for_another(name: str) -> None:
    with torch.device("meta"):
        weights = timm.create_model(name, **MODELS[name]).state_dict()
    assert refused_weights(weights) is None
    assert refused_name(name) is None
