"""Preprocessing of timm's models, against timm's own resolution."""

from typing import Any

import pytest
import timm
from timm.data import resolve_data_config

from legrad_engine.models import timm_preprocessing

HALF = (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "vit_base_patch16_224.dino",
        "vit_base_patch16_224.mae",
        "deit3_small_patch16_224.fb_in1k",
        "vit_base_patch16_clip_224.openai",
        "vit_so400m_patch14_siglip_224.webli",
        "fastvit_t8.apple_in1k",
    ],
)
def test_a_tag_has_what_timm_resolves(name: str) -> None:
    record = timm.models.get_pretrained_cfg(name).to_dict()
    resolved = resolve_data_config(pretrained_cfg=record)
    found = timm_preprocessing.of_tag(name.partition(".")[0], record)
    assert found.mean == tuple(resolved["mean"])
    assert found.std == tuple(resolved["std"])
    assert found.interpolation == resolved["interpolation"]
    assert found.source == f"timm's pretrained tag {name}"
    assert not found.is_guess


@pytest.mark.parametrize(
    ("name", "mean", "is_guess"),
    [
        # augreg's tags have 0.5, those of DINO and MAE ImageNet's numbers.
        ("vit_base_patch16_224", HALF, True),
        ("vit_so400m_patch14_siglip_224", HALF, False),
        ("deit_tiny_patch16_224", IMAGENET, False),
    ],
)
def test_an_architecture_is_certain_where_its_tags_agree(
    name: str, mean: tuple[float, ...], is_guess: bool
) -> None:
    found = timm_preprocessing.of_architecture(name)
    assert (found.mean, found.is_guess) == (mean, is_guess)
    assert name in found.source


def test_an_architecture_without_weights_is_guessed() -> None:
    found = timm_preprocessing.of_architecture("vit_small_patch16_36x1_224")
    assert found.is_guess
    assert "no pretrained weights" in found.source


def test_a_config_without_numbers_has_its_architecture_s() -> None:
    name = "vit_so400m_patch14_siglip_224"
    record = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    for stated in (
        {"architecture": name, "pretrained_cfg": record},
        {"architecture": name, **record},
    ):
        found = timm_preprocessing.of_config(stated, record)
        assert (found.mean, found.is_guess) == ((0.1, 0.2, 0.3), False)
    silents: list[dict[str, Any]] = [
        {"pretrained_cfg": {}},
        {},
        {"mean": [0, 0, 0]},
    ]
    for silent in silents:
        found = timm_preprocessing.of_config({"architecture": name, **silent}, {})
        assert (found.mean, found.is_guess) == (HALF, False)
        guess = timm_preprocessing.of_config({"architecture": "vit_base_patch16_224", **silent}, {})
        assert guess.is_guess
