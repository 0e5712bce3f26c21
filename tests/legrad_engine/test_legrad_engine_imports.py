"""What is imported without torch: picture work and quick commands must not pay for it."""

import subprocess
import sys
from importlib import import_module

import pytest

IMAGES = "legrad_engine.images"


def modules_after(code: str) -> set[str]:
    """Names in ``sys.modules`` after some code has run in a fresh interpreter."""
    program = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    return set(finished.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import legrad_engine",
        "from legrad_engine import LegradError, Explanation, Geometry, Negatives, TextTarget",
        f"import {IMAGES}.colors",
        f"import {IMAGES}.decoding",
        f"import {IMAGES}.deep",
        f"import {IMAGES}.encoding",
        f"import {IMAGES}.formats",
        f"import {IMAGES}.geometry",
        f"import {IMAGES}.heif",
        f"import {IMAGES}.inputs",
        f"import {IMAGES}.png",
        f"import {IMAGES}.readers",
        f"import {IMAGES}.regions",
        f"import {IMAGES}.rendering",
        f"import {IMAGES}.slow_formats",
        f"import {IMAGES}.statistics",
        "from legrad_engine.families import SCORES, Score, find_tower, refusal",
        "from legrad_engine.models import STARTER, ModelReference\n"
        "assert ModelReference.parse('ViT-B-16/openai').id == 'vit-b-16-openai'",
        "from legrad_engine.layers import Layers, resolve_layers",
        "from legrad_engine.targets.negatives import NegativePreset",
        "from legrad_engine.targets.questions import Question",
        "from legrad_engine.targets.templates import TemplateSet, resolve_templates\n"
        "resolve_templates(['a {}'])",
    ],
)
def test_torch_is_not_imported_before_a_model_is_used(code: str) -> None:
    loaded = modules_after(code)
    assert "legrad_engine" in loaded
    assert not loaded & {"torch", "torchvision", "timm", "open_clip"}


def test_a_picture_is_prepared_and_drawn_without_torch() -> None:
    loaded = modules_after(
        "import numpy as np\n"
        "from PIL import Image\n"
        f"from {IMAGES}.decoding import decode\n"
        f"from {IMAGES}.geometry import upsample\n"
        f"from {IMAGES}.inputs import InputRules\n"
        f"from {IMAGES}.regions import find_regions\n"
        f"from {IMAGES}.encoding import encode_picture\n"
        f"from {IMAGES}.rendering import normalize, overlay\n"
        f"from {IMAGES}.statistics import summarize\n"
        "picture = decode(Image.new('RGB', (40, 30), 'red'))\n"
        "prepared = InputRules(32, (16, 16), 'pad', 'bicubic').prepare(picture)\n"
        "geometry = prepared.geometry\n"
        "assert prepared.pixels.shape == (24, 32, 3)\n"
        "maps = np.arange(4, dtype=np.float32).reshape(1, 2, 2)\n"
        "heatmap = normalize(upsample(maps, geometry, picture.size))[0]\n"
        "encode_picture(overlay(picture, heatmap), 'jpeg')\n"
        "find_regions(maps[0], geometry)\n"
        "summarize(maps[0], geometry)"
    )
    assert "torch" not in loaded


def test_the_names_that_need_torch_are_imported_on_first_use() -> None:
    loaded = modules_after(
        "import legrad_engine\n"
        "assert 'Explainer' in legrad_engine.__all__\n"
        "assert legrad_engine.Explainer.__module__ == 'legrad_engine.explainer'\n"
        "assert legrad_engine.Trace.__module__ == 'legrad_engine.trace'\n"
        "from legrad_engine.models import catalogue\n"
        "assert catalogue.__module__ == 'legrad_engine.models.loading'\n"
        "from legrad_engine.families import Tower\n"
        "assert Tower.__module__ == 'legrad_engine.families.base'"
    )
    assert "torch" in loaded


@pytest.mark.parametrize(
    "package", ["legrad_engine", "legrad_engine.families", "legrad_engine.models"]
)
@pytest.mark.parametrize("name", ["nothing"])
def test_a_name_that_does_not_exist_is_refused_as_usual(package: str, name: str) -> None:
    module = import_module(package)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(module, name)
