"""Weights fine-tuned at another input size than their config's, or the other way round."""

import json
import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from legrad_engine import Explainer, models
from legrad_engine.errors import ModelLoadError
from tests.support.architectures import config
from tests.support.own_models import (
    TIMM_NAME,
    Weights,
    build,
    own_weights,
    settings_file,
    timm_config,
)

PICTURE = Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 40).convert("RGB")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return own_weights()


@pytest.mark.parametrize(
    ("trained", "asked", "grid"),
    [
        (64, 112, (7, 7)),
        (112, 64, (4, 4)),
        (64, [96, 64], (6, 4)),
        ([96, 64], [96, 64], (6, 4)),
        ([96, 64], [192, 128], (12, 8)),
    ],
)
def test_weights_of_another_input_size_are_resampled(
    trained: Any, asked: Any, grid: tuple[int, int], tmp_path: Path
) -> None:
    original = build(config(image_size=trained), tmp_path)
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    path = settings_file(tmp_path, image_size=asked)
    explainer = Explainer.load(str(path), str(tmp_path / "w.safetensors"))
    assert explainer.tower.image_size == (
        (asked, asked) if isinstance(asked, int) else tuple(asked)
    )
    picture = PICTURE.resize((grid[1] * 16, grid[0] * 16))
    # Native fitting keeps the area of a square of this side.
    size = round(math.sqrt(grid[0] * grid[1])) * 16
    (explanation,) = explainer.explain(picture, ["a cat"], size=size, fit="native")
    assert explanation.grid == grid
    assert explanation.maps.shape == (1, *grid)
    # Our own towers resample at every other size as open_clip does when it loads.
    prepared = explainer.prepare(picture, size=size, fit="native")
    other = Explainer(original, open_clip.get_tokenizer("ViT-B-16"), name="original")
    assert torch.allclose(
        explainer.trace([prepared]).embeddings, other.trace([prepared]).embeddings, atol=1e-5
    )


def test_weights_of_another_size_are_resampled_as_open_clip_does(
    tmp_path: Path, weights: Weights
) -> None:
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    settings = config(image_size=[96, 64])
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    name = f"local-dir:{tmp_path}"
    theirs = open_clip.create_model(name).state_dict()
    ours = models.load(name).model.state_dict()
    for key, value in ours.items():
        assert torch.allclose(value, theirs[key], atol=1e-6), key


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 96),
        ("vit_tiny_patch16_224", [96, 64]),
        ("eva02_tiny_patch14_224", 112),
        ("eva02_tiny_patch14_224", [112, 56]),
        ("swin_tiny_patch4_window7_224", [448, 224]),
    ],
)
def test_a_timm_tower_takes_another_input_size(name: str, size: Any, tmp_path: Path) -> None:
    built: Any = build(timm_config(name, 224), tmp_path)
    save_file(built.state_dict(), tmp_path / "native.safetensors")
    built.visual.set_input_size(size)
    save_file(built.state_dict(), tmp_path / "tuned.safetensors")
    (tmp_path / "own.json").write_text(json.dumps(timm_config(name, size)))
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = built.encode_image(pixels)
        for file in ("native", "tuned"):
            found = models.load(str(tmp_path / "own.json"), str(tmp_path / f"{file}.safetensors"))
            model: Any = found.model
            assert tuple(model.visual.image_size) == (height, width)
            assert torch.allclose(model.encode_image(pixels), expected, atol=1e-5), file


def test_weights_of_a_third_size_fit_a_timm_tower_of_yet_another(tmp_path: Path) -> None:
    built: Any = build(timm_config(TIMM_NAME, 224), tmp_path)
    built.visual.set_input_size([128, 128])
    save_file(built.state_dict(), tmp_path / "w.safetensors")
    built.visual.set_input_size([96, 64])
    (tmp_path / "own.json").write_text(json.dumps(timm_config(TIMM_NAME, [96, 64])))
    model: Any = models.load(str(tmp_path / "own.json"), str(tmp_path / "w.safetensors")).model
    own = built.visual.trunk.pos_embed
    assert torch.allclose(model.visual.trunk.pos_embed, own, atol=1e-6)


def test_a_size_that_a_timm_tower_cannot_take_is_refused(tmp_path: Path) -> None:
    built: Any = build(timm_config(TIMM_NAME, 224), tmp_path)
    save_file(built.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "own.json").write_text(json.dumps(timm_config(TIMM_NAME, [8, 8])))
    with pytest.raises(ModelLoadError, match="image_size"):
        models.load(str(tmp_path / "own.json"), str(tmp_path / "w.safetensors"))


def test_position_embeddings_of_an_unknown_grid_are_refused(
    tmp_path: Path, weights: Weights
) -> None:
    positions = torch.zeros(1 + 15, weights["visual.positional_embedding"].shape[1])
    save_file({**weights, "visual.positional_embedding": positions}, tmp_path / "w.safetensors")
    with pytest.raises(ModelLoadError, match=r"15 patches.*image_size"):
        Explainer.load(str(settings_file(tmp_path)), str(tmp_path / "w.safetensors"))
