"""Preprocessing of open_clip's models, against open_clip's own records."""

import open_clip
import pytest

from legrad_engine.families import refusal
from legrad_engine.models import openclip_preprocessing
from legrad_engine.models.preprocessing import Preprocessing

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "mean", "std", "interpolation"),
    [
        ("ViT-B-16-SigLIP", HALF, HALF, "bicubic"),
        ("ViT-SO400M-16-SigLIP2-512", HALF, HALF, "bicubic"),
        ("PE-Core-B-16", HALF, HALF, "bilinear"),
        ("MobileCLIP-S1", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear"),
        ("ViT-L-14-CLIPA", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear"),
        ("ViT-B-16", OPENAI_MEAN, OPENAI_STD, "bicubic"),
        # Its tags differ in the resize mode alone, on which the input does not depend.
        ("ViT-H-14-quickgelu", OPENAI_MEAN, OPENAI_STD, "bicubic"),
    ],
)
def test_an_architecture_whose_tags_agree_has_their_preprocessing(
    name: str, mean: tuple[float, ...], std: tuple[float, ...], interpolation: str
) -> None:
    found = openclip_preprocessing.of_architecture(name)
    assert (found.mean, found.std, found.interpolation) == (mean, std, interpolation)
    assert not found.is_guess
    assert found.source == f"all of open_clip's pretrained tags for {name}"


def test_every_tag_that_agrees_with_its_siblings_has_the_architecture_s_preprocessing() -> None:
    def numbers(found: Preprocessing) -> tuple[object, ...]:
        return found.mean, found.std, found.interpolation, found.fill_color

    for name, tag in open_clip.list_pretrained():
        whole = openclip_preprocessing.of_architecture(name)
        of_tag = openclip_preprocessing.of_tag(name, tag)
        record = open_clip.get_pretrained_cfg(name, tag)
        assert numbers(of_tag) == (
            tuple(record["mean"]),
            tuple(record["std"]),
            record["interpolation"],
            None,
        )
        assert of_tag.resize_mode == record["resize_mode"]
        assert whole.is_guess or numbers(whole) == numbers(of_tag)


def test_architectures_whose_tags_differ_are_guessed_by_the_commonest() -> None:
    found = openclip_preprocessing.of_architecture("ViT-L-14")
    assert found.is_guess
    assert (found.mean, found.std) == (OPENAI_MEAN, OPENAI_STD)
    assert found.source == "most of open_clip's pretrained tags for ViT-L-14"
    other = openclip_preprocessing.of_tag("ViT-L-14", "laion2b_s32b_b82k")
    assert (other.mean, other.is_guess) == (HALF, False)


def test_an_architecture_without_tags_is_guessed_by_open_clip_s_default() -> None:
    found = openclip_preprocessing.of_architecture("ViT-S-16")
    assert found.is_guess
    assert (found.mean, found.std, found.interpolation) == (OPENAI_MEAN, OPENAI_STD, "bicubic")
    assert "ViT-S-16 has no pretrained weights" in found.source


def test_few_architectures_have_to_be_guessed() -> None:
    explained = [
        name
        for name in open_clip.list_models()
        if refusal(open_clip.get_model_config(name)) is None
    ]
    guessed = {name for name in explained if openclip_preprocessing.of_architecture(name).is_guess}
    assert "ViT-L-14" in guessed
    assert all(
        name == "ViT-L-14" or not open_clip.list_pretrained_tags_by_model(name) for name in guessed
    )


def test_a_config_without_numbers_is_a_guess() -> None:
    stated = openclip_preprocessing.of_config({"mean": [0, 0, 0], "std": [1, 1, 1]})
    assert (stated.mean, stated.interpolation, stated.is_guess) == ((0, 0, 0), "bicubic", False)
    for settings in ({}, {"mean": [0, 0, 0]}, {"interpolation": "bilinear"}):
        found = openclip_preprocessing.of_config(settings)
        assert found.is_guess
        assert "preprocess_cfg" in found.source
