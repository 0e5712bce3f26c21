"""The numbers of a saved image processor, held against the processor itself."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from legrad_engine import Explainer
from legrad_engine.errors import ModelLoadError
from tests.support.pictures import picture
from tests.support.transformers_models import processor_for, saved, transformers

VIT = "ViTForImageClassification"


def by_transformers(folder: Path, kind: str, image: Image.Image) -> Any:
    """Preprocess with the processor that resizes by Pillow, as the published models were tried."""
    named = getattr(transformers, f"{kind}Pil", None) or getattr(transformers, kind)
    pixels = named.from_pretrained(folder)(image, return_tensors="np")["pixel_values"]
    return np.asarray(pixels)[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        *({"resample": code} for code in range(6)),
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [30.0, 60, 90], "image_std": [50.0, 70, 110]},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [0.5, 1, 2]},
    ],
    ids=str,
)
def test_pixels_equal_those_of_the_image_processor(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    saved(VIT, tmp_path, processor=False)
    processor_for(VIT, **settings).save_pretrained(tmp_path)
    image = picture(70, 50)
    expected = by_transformers(tmp_path, "ViTImageProcessor", image)
    explainer = Explainer.load(f"transformers:{tmp_path}")
    found = explainer.input_of([explainer.prepare(image)])[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())
    assert not explainer.preprocessing.is_guess
    assert explainer.preprocessing.resize_mode == "squash"


def test_a_processor_that_crops_decides_size_and_resize_mode(tmp_path: Path) -> None:
    saved("Dinov2Model", tmp_path, processor=False)
    transformers.BitImageProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(tmp_path)
    explainer = Explainer.load(f"transformers:{tmp_path}")
    assert explainer.own_size == (16, 16)
    assert explainer.preprocessing.resize_mode == "shortest"


@pytest.mark.parametrize(
    ("name", "size"), [("DINOv3ViTModel", 40), ("Dinov2WithRegistersModel", 48)]
)
def test_a_model_that_takes_any_size_has_that_of_its_processor(
    name: str, size: int, tmp_path: Path
) -> None:
    saved(name, tmp_path, processor=False)
    processor_for(name, size={"height": size, "width": size}).save_pretrained(tmp_path)
    assert Explainer.load(f"transformers:{tmp_path}").own_size == (size, size)


def test_a_size_of_the_processor_that_is_not_whole_patches_is_rounded_down(tmp_path: Path) -> None:
    saved("Dinov2Model", tmp_path, processor=False)
    processor_for(VIT, size={"height": 31, "width": 44}).save_pretrained(tmp_path)
    explainer = Explainer.load(f"transformers:{tmp_path}")
    assert explainer.own_size == (40, 24)
    (explanation,) = explainer.explain(picture(), torch.eye(32)[:1])
    assert explanation.grid == (3, 5)


def test_another_size_than_the_model_s_is_told_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(VIT, tmp_path, processor=False)
    processor_for(VIT, size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        explainer = Explainer.load(f"transformers:{tmp_path}")
    assert explainer.own_size == (32, 32)
    assert "64 x 64" in caplog.text


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        (VIT, 0.5),
        ("SiglipModel", 0.5),
        ("CLIPModel", 0.48145466),
        ("Dinov2Model", 0.485),
        ("DeiTForImageClassification", 0.485),
    ],
)
def test_without_a_processor_the_usual_numbers_are_a_guess_that_is_told(
    name: str, mean: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(name, tmp_path, processor=False)
    with caplog.at_level(logging.WARNING):
        explainer = Explainer.load(f"transformers:{tmp_path}")
    assert explainer.preprocessing.is_guess
    assert explainer.preprocessing.mean[0] == pytest.approx(mean)
    assert explainer.own_size == (32, 32)
    assert "preprocessor_config.json" in caplog.text


def test_a_processor_inside_a_joint_file_is_read(tmp_path: Path) -> None:
    saved("CLIPModel", tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    joint = {"image_processor": settings, "processor_class": "CLIPProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(joint))
    explainer = Explainer.load(f"transformers:{tmp_path}")
    assert explainer.preprocessing.mean == (0.1, 0.2, 0.3)
    assert not explainer.preprocessing.is_guess


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"image_processor_type": "NoSuchProcessor"}'],
)
def test_a_damaged_processor_is_refused(content: bytes, tmp_path: Path) -> None:
    saved("ViTModel", tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"processor") as refusal:
        Explainer.load(f"transformers:{tmp_path}")
    assert refusal.value.field == "model"


def test_the_code_of_a_processor_is_never_run(tmp_path: Path) -> None:
    saved("ViTModel", tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    settings = {"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "evil.Evil"}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelLoadError):
        Explainer.load(f"transformers:{tmp_path}")
    assert not (tmp_path / "ran").exists()
