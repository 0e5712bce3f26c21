"""A family of architectures is one file: found, explained, catalogued and refused by itself."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from PIL import Image
from timm.models import _registry as timm_registry
from torch import Tensor, nn
from torch.nn import functional as F

from legrad_engine import Explainer, families
from legrad_engine.discovery import import_modules
from legrad_engine.errors import UnsupportedModelError
from legrad_engine.families import find_tower, refusal, registry, timm_refusal
from legrad_engine.families.registry import Family, Refusal, register
from legrad_engine.models import catalogue
from legrad_engine.models.image_model import ImageModel
from tools import models_page

NEW_FAMILY = Path(__file__).parent / "new_family"
NAME = "legrad_engine.families.made_up"


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of a family whose file has been put beside the others."""
    registry.families()
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    monkeypatch.setattr(registry, "_refusals", dict(registry._refusals))
    # The made-up file refuses the same module.
    registry._refusals.pop("timm-mlp")
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(NEW_FAMILY)])
    monkeypatch.setattr(timm_registry, "_model_entrypoints", dict(timm_registry._model_entrypoints))
    import_modules.cache_clear()
    registry.families()
    yield sys.modules[NAME]
    del sys.modules[NAME]
    del families.made_up


class Plain(nn.Module):
    """A model with an image encoder and nothing else."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual


def explicit_map(model: Any, pixels: Tensor, target: Tensor, heads: int) -> Tensor:
    """LeGrad's definition on the made-up architecture: the softmax written out, autograd."""
    tokens = model.tokens(pixels[None])
    parts = model.attention(tokens).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = parts
    weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    output = (weights @ value).transpose(1, 2).flatten(2)
    score = F.normalize(model.forward_head(output), dim=-1)[0] @ target
    (gradient,) = torch.autograd.grad(score, weights)
    mean: Tensor = gradient.clamp(min=0).mean((0, 1, 2))
    return mean


def test_a_new_file_is_explained(made_up: Any) -> None:
    torch.manual_seed(0)
    visual = timm.create_model("made_up_tiny").double().eval()
    explainer = Explainer(ImageModel(visual), None, name="made up")
    assert explainer.tower.family == "made-up"
    prepared = explainer.prepare(Image.effect_noise((32, 32), 90).convert("RGB"))
    target = F.normalize(torch.randn(1, made_up.WIDTH, dtype=torch.float64), dim=-1)
    (found,) = explainer.attribute(explainer.trace([prepared]), target)
    pixels = explainer.input_of([prepared])[0]
    expected = explicit_map(visual, pixels, target[0], made_up.HEADS).detach().view(4, 4).numpy()
    assert expected.max() > 0
    assert np.abs(found.maps[0] - expected).max() <= 1e-9 * expected.max()


def test_a_new_file_is_in_the_catalogue_and_on_the_page(
    made_up: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "embed_dim": made_up.WIDTH,
        "vision_cfg": {"timm_model_name": "made_up_tiny", "timm_proj": "none", "image_size": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1},
    }
    (tmp_path / "Made-Up.json").write_text(json.dumps(config))
    monkeypatch.setattr(
        open_clip.factory, "_MODEL_CONFIGS", {**open_clip.factory._MODEL_CONFIGS, "Made-Up": config}
    )
    assert refusal(config) is None
    (entry,) = [entry for entry in catalogue() if entry.name == "Made-Up"]
    assert entry.refusal is None
    found = models_page.coverage("Made-Up")
    assert models_page.row("Made-Up", found) == (
        "| Made-Up | made-up | made-up attention, 1 block | 4 x 4 | general | mean |"
    )
    assert "MadeUp (nothing else)" in models_page._plain_models()


def test_a_new_file_may_refuse(made_up: Any) -> None:
    del made_up
    reason = "its image tower is timm's {}, a mixer: it has no attention"
    assert timm_refusal("mixer_s32_224") == reason.format("mixer_s32_224")
    config = {"vision_cfg": {"timm_model_name": "mixer_s32_224"}}
    assert refusal(config) == reason.format("mixer_s32_224")
    with torch.device("meta"):
        model = Plain(timm.create_model("mixer_s32_224"))
    with pytest.raises(UnsupportedModelError, match="a mixer: it has no attention"):
        find_tower(model)


def test_without_the_file_nothing_of_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "made-up" not in {family.name for family in registry.families()}
    assert timm_refusal("made_up_tiny") is None
    monkeypatch.delitem(registry._refusals, "timm-mlp")
    assert timm_refusal("mixer_s32_224") == (
        "its image tower is timm's mixer_s32_224, an architecture that is not supported yet"
    )


@pytest.mark.parametrize(
    "entry",
    [
        Family(name="timm-eva", classes=(), build=lambda _: pytest.fail("built")),
        Family(
            name="other",
            classes=(TimmModel, timm.models.eva.Eva),
            build=lambda _: pytest.fail("built"),
        ),
        Refusal(name="timm-eva", reason="it is registered twice"),
    ],
    ids=["a name", "a class", "the name of a refusal"],
)
def test_a_name_or_a_class_is_registered_once(entry: Family | Refusal) -> None:
    before = registry.families()
    with pytest.raises(ValueError, match=r"twice|of another family"):
        register(entry)
    assert registry.families() == before


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        ({"timm_model_name": "convnext_tiny"}, "timm's convnext_tiny, a ConvNeXt"),
        ({"timm_model_name": "resnet50"}, "timm's resnet50, a ResNet"),
        ({"timm_model_name": "resnetv2_50"}, "timm's resnetv2_50, a ResNet"),
        ({"timm_model_name": "tresnet_m"}, "timm's tresnet_m, a ResNet"),
        ({"timm_model_name": "efficientnet_b0"}, "efficientnet_b0, a convolutional network"),
        ({"layers": [3, 4, 6, 3]}, "its image tower is a ResNet"),
        (
            {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "abs_attn"},
            "two-dimensional attention pool",
        ),
    ],
)
def test_the_reason_of_a_refusal_names_the_architecture(
    vision: dict[str, Any], reason: str
) -> None:
    found = refusal({"vision_cfg": vision})
    assert found is not None
    assert reason in found
    assert "attention" in found or "supported" in found


@pytest.mark.parametrize("vision", [{"layers": 12}, {"timm_model_name": "vit_tiny_patch16_224"}])
def test_a_config_of_a_family_is_not_refused(vision: dict[str, Any]) -> None:
    assert refusal({"vision_cfg": vision}) is None


def test_built_models_are_refused_with_the_same_reasons() -> None:
    with torch.device("meta"):
        resnet = ModifiedResNet([1, 1, 1, 1], 16, 4, image_size=32)
        pooled = TimmModel("resnet18", 16, image_size=64, pool="rot_attn", proj="")
    with pytest.raises(UnsupportedModelError, match="its patches do not attend to each other"):
        find_tower(Plain(resnet))
    pooled.trunk = nn.Identity()
    with pytest.raises(UnsupportedModelError, match="two-dimensional attention pool"):
        find_tower(Plain(pooled))
    with pytest.raises(UnsupportedModelError, match="Linear is not an image tower"):
        find_tower(Plain(nn.Linear(2, 2)))
    with pytest.raises(UnsupportedModelError, match="NoneType is not an image tower"):
        find_tower(nn.Linear(2, 2))
