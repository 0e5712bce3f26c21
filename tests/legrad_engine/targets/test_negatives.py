"""Negatives correct the maps of what is asked about, and cost no second forward pass."""

import os
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from benchmarks.reference_package import ensure_installed
from legrad_engine import Explainer
from legrad_engine.errors import InvalidOptionError, InvalidTargetError
from legrad_engine.images.geometry import Geometry, plan
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.targets import EmbeddingTarget, ImageTarget, TextTarget
from legrad_engine.targets.negatives import SIGLIP, Negatives
from tests.support.architectures import seeded_explainer, tokenizer
from tests.support.paths import ROOT, TESTS
from tests.support.pictures import picture

PROMPTS = ["a cat", "two dogs on a sofa", "red"]
PATCH = 16


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return seeded_explainer()


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float32]]:
    """What the authors' own code made of one picture with a small SigLIP-like model."""
    output = tmp_path_factory.mktemp("siglip") / "reference.npz"
    script = TESTS / "legrad_engine" / "reference" / "run_siglip.py"
    subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(ensure_installed()), str(output)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with np.load(output) as arrays:
        return dict(arrays)


def finished(maps: NDArray[np.floating]) -> NDArray[np.float32]:
    """Stretched on the patch grid and then upsampled, as the reference does for SigLIP."""
    stretched = torch.from_numpy((maps - maps.min()) / (maps.max() - maps.min()))
    upsampled = F.interpolate(stretched[None], scale_factor=PATCH, mode="bilinear")
    return upsampled[0].numpy()


def siglip_explainer(siglip: dict[str, NDArray[np.float32]], *, skips_norm: bool) -> Explainer:
    """The reference's model in ours, with the trunk's final norm or, as in the reference, without.

    The model applies that norm before its pooler.
    """
    side = siglip["image"].shape[-1]
    trunk = VisionTransformer(
        img_size=side,
        patch_size=PATCH,
        embed_dim=siglip["targets"].shape[1],
        depth=3,
        num_heads=4,
        class_token=False,
        global_pool="map",
        num_classes=0,
    )
    weights = {
        name.removeprefix("trunk."): torch.from_numpy(weight)
        for name, weight in siglip.items()
        if name.startswith("trunk.")
    }
    trunk.load_state_dict(weights)
    if skips_norm:
        trunk.norm = nn.Identity()
    trunk.pretrained_cfg = {"input_size": (3, side, side)}
    model = nn.Module()
    model.visual = trunk
    cfg = asdict(PreprocessCfg(size=side))
    open_clip.set_model_preprocess_cfg(model, cfg)
    return Explainer(model, tokenizer(), name="reference's")


def square(rows: int, columns: int) -> Geometry:
    size = columns * PATCH, rows * PATCH
    return Geometry(size, size, (0, 0, *size), (PATCH, PATCH))


def test_the_preset_is_the_reference_s_correction(siglip: dict[str, NDArray[np.float32]]) -> None:
    raw, correction = siglip["raw"][0], siglip["raw_correction"][0]
    assert np.abs(siglip["plain"] - siglip["corrected"]).max() > 0.1
    np.testing.assert_allclose(finished(raw), siglip["plain"][0], atol=1e-5)
    corrected = SIGLIP.apply(raw, correction, square(*raw.shape[1:]))
    np.testing.assert_allclose(finished(corrected), siglip["corrected"][0], atol=1e-5)


@pytest.mark.parametrize("skips_norm", [True, False], ids=["as the reference", "as the model"])
def test_a_pooler_s_corrected_map_is_the_reference_s_but_for_the_norm_that_it_skips(
    siglip: dict[str, NDArray[np.float32]], skips_norm: bool
) -> None:
    explainer = siglip_explainer(siglip, skips_norm=skips_norm)
    image, (prompt, correction) = torch.from_numpy(siglip["image"]), siglip["targets"]
    rows = columns = image.shape[-1] // PATCH
    prepared = PreparedImage(image[0].numpy(), square(rows, columns))
    rule = replace(SIGLIP, targets=(EmbeddingTarget(correction),))
    trace = explainer.trace([prepared], layers=2)
    (found,) = explainer.attribute(trace, [EmbeddingTarget(prompt)], negatives=rule)
    difference = np.abs(finished(found.maps) - siglip["corrected"][0]).max()
    assert difference <= 1e-5 if skips_norm else difference > 0.1


def test_the_preset_s_rule_and_prompt_are_the_reference_s() -> None:
    assert Negatives(("a photo of a",), mode="mask", threshold=0.8) == SIGLIP


def test_subtracting_takes_the_largest_negative_away() -> None:
    maps = np.array([[[1.0, 2.0, 3.0]], [[0.5, 0.5, 0.5]]])
    negatives = np.array([[[1.0, 0.0, 1.0]], [[0.0, 4.0, 0.0]]])
    found = Negatives(("x", "y"), weight=0.5).apply(maps, negatives, square(1, 3))
    np.testing.assert_allclose(found, [[[0.5, 0.0, 2.5]], [[0.0, 0.0, 0.0]]])


def test_masking_zeroes_where_any_negative_is_strong() -> None:
    maps = np.ones((2, 1, 4))
    negatives = np.array([[[10.0, 14.0, 15.0, 20.0]], [[5.0, 1.0, 1.0, 1.0]]])
    found = Negatives(("x", "y"), "mask", threshold=0.5).apply(maps, negatives, square(1, 4))
    np.testing.assert_array_equal(found, [[[0, 1, 1, 0]]] * 2)
    np.testing.assert_array_equal(maps, 1)


def test_a_constant_negative_masks_nothing() -> None:
    found = Negatives(("x",), "mask", threshold=0).apply(
        np.ones((1, 2, 2)), np.full((1, 2, 2), 0.3), square(2, 2)
    )
    np.testing.assert_array_equal(found, 1)


def test_the_padding_does_not_decide_where_a_negative_is_strong() -> None:
    geometry = plan((64, 32), size=64, patch_size=(16, 16), fit="pad")
    negative = np.zeros((1, 4, 4))
    negative[0, 0, 0] = 100
    negative[0, 1] = [0, 1, 2, 10]
    found = Negatives(("x",), "mask").apply(np.ones((1, 4, 4)), negative, geometry)
    assert found[0, 1].tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("mode", ["subtract", "mask"])
def test_an_explanation_is_corrected_with_the_maps_of_its_negatives(
    explainer: Explainer, mode: Any
) -> None:
    words = ("a photo of a", "grass")
    rule = Negatives(words, mode, threshold=0.6, weight=0.9)
    pictures = [picture(seed=seed) for seed in range(2)]
    plain = explainer.explain(pictures, [*PROMPTS, *words])
    corrected = explainer.explain(pictures, PROMPTS, negatives=rule)
    for found, each in zip(corrected, plain, strict=True):
        expected = rule.apply(each.maps[:3], each.maps[3:], each.geometry)
        np.testing.assert_allclose(found.maps, expected, atol=1e-7)
        assert np.abs(found.maps - each.maps[:3]).max() > 1e-5
        np.testing.assert_allclose(found.similarities, each.similarities[:3], atol=1e-6)
        assert found.probabilities.sum() == pytest.approx(1)


def test_each_prompt_has_a_corrected_map_of_its_own(explainer: Explainer) -> None:
    (together,) = explainer.explain([picture()], PROMPTS, negatives="siglip")
    for row, prompt in enumerate(PROMPTS):
        (alone,) = explainer.explain([picture()], [prompt], negatives="siglip")
        np.testing.assert_allclose(together.maps[row], alone.maps[0], atol=1e-7)


def test_negatives_cost_one_forward_pass(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    embed = explainer.tower.embed

    def embed_counted(pixels: torch.Tensor) -> torch.Tensor:
        passes.append(len(pixels))
        return embed(pixels)

    monkeypatch.setattr(explainer.tower, "embed", embed_counted)
    explainer.explain([picture(seed=seed) for seed in range(3)], PROMPTS, negatives="siglip")
    assert passes == [3]


def test_templates_are_for_the_targets_alone(explainer: Explainer) -> None:
    template = ["a {} in the rain"]
    trace = explainer.trace([picture()])
    (found,) = explainer.attribute(
        trace, ["cat"], templates=template, negatives=Negatives(("dog",))
    )
    (target,) = explainer.attribute(trace, ["a cat in the rain"])
    (negative,) = explainer.attribute(trace, ["dog"])
    expected = np.maximum(target.maps - negative.maps, 0)
    np.testing.assert_allclose(found.maps, expected, atol=1e-7)


def test_any_target_can_be_a_negative(explainer: Explainer) -> None:
    other = picture(seed=9)
    vectors = explainer.embed_images([other])
    trace = explainer.trace([picture()])
    for negative in (ImageTarget(other), EmbeddingTarget(3 * vectors[0])):
        (found,) = explainer.attribute(trace, PROMPTS, negatives=Negatives((negative,)))
        (plain,) = explainer.attribute(trace, PROMPTS)
        (taken,) = explainer.attribute(trace, vectors)
        np.testing.assert_allclose(found.maps, np.maximum(plain.maps - taken.maps, 0), atol=1e-7)


def test_target_vectors_take_negatives_too(explainer: Explainer) -> None:
    trace = explainer.trace([picture()])
    vectors = explainer.text.encode(PROMPTS)
    (found,) = explainer.attribute(trace, vectors, negatives="siglip")
    (expected,) = explainer.attribute(trace, PROMPTS, negatives="siglip")
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        {"targets": ()},
        {"targets": "grass"},
        {"mode": "multiply"},
        {"threshold": 1.0},
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"weight": 0.0},
        {"weight": float("inf")},
        {"weight": float("nan")},
    ],
    ids=str,
)
def test_rules_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError) as refusal:
        Negatives(**{"targets": ("grass",), **settings})
    assert refusal.value.field == "negatives"


def test_an_unknown_preset_is_refused(explainer: Explainer) -> None:
    unknown: Any = "clip"
    with pytest.raises(InvalidOptionError, match="siglip"):
        explainer.explain([picture()], PROMPTS, negatives=unknown)


@pytest.mark.parametrize("negative", ["", TextTarget("word " * 40)], ids=["blank", "long"])
def test_negatives_that_cannot_be_read_are_refused(explainer: Explainer, negative: Any) -> None:
    with pytest.raises(InvalidTargetError) as refusal:
        explainer.explain([picture()], PROMPTS, negatives=Negatives((negative,)))
    assert refusal.value.field == "negatives"
