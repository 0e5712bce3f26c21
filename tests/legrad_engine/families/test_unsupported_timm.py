"""Every architecture of timm is explained or refused with a reason of its own."""

import open_clip
import pytest
import timm
from timm.models import model_entrypoint

from legrad_engine.families import timm_refusal
from legrad_engine.families.registry import families, refusals

MODULES = {
    model_entrypoint(name).__module__.rpartition(".")[2]: name for name in timm.list_models()
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_file_of_timm_is_either_explained_or_refused(module: str) -> None:
    explained = any(module in each.timm_modules for each in families())
    refused = [each for each in refusals() if module in each.timm_modules]
    assert len(refused) == (0 if explained else 1)
    reason = timm_refusal(MODULES[module])
    assert (reason is None) == explained
    if reason is not None:
        assert MODULES[module] in reason
        assert "not supported yet" not in reason
        assert "; the nearest that is explained is " in reason


def test_the_nearest_models_are_explained() -> None:
    for refused in refusals():
        scheme, _, name = refused.nearest.rpartition(":")
        if scheme == "timm":
            assert timm.is_model(name)
            assert timm_refusal(name) is None
        else:
            assert name in open_clip.list_models()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("poolformer_s12", "MetaFormer"),
        ("gmlp_s16_224", "MLP mixer"),
        ("mixer_b16_224", "MLP mixer"),
        ("convnext_tiny", "ConvNeXt"),
        ("nextvit_small", "attention in some of its blocks"),
        ("tnt_s_patch16_224", "two streams of tokens"),
        ("levit_128", "attention in some of its blocks"),
        ("xcit_nano_12_p16_224", "among channels"),
        ("cait_xxs24_224", "class attention"),
        ("swinv2_tiny_window8_256", "Swin of another version"),
    ],
)
def test_the_reason_says_how_the_patches_mix(name: str, kind: str) -> None:
    reason = timm_refusal(name)
    assert reason is not None
    assert kind in reason
