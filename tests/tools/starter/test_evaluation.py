"""The shipped weights: names are recognised, and heatmaps land where they should."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import legrad_engine.starter
from legrad_engine import Explainer, Explanation, ImageTarget
from legrad_engine.images.geometry import upsample
from legrad_engine.models import ModelReference
from legrad_engine.presence import built_in
from tests.support.art import cut_stickers
from tools.starter import evaluation
from tools.starter.evaluation_page import to_markdown

pytestmark = pytest.mark.slow

FOLDER = Path(legrad_engine.starter.__file__).parent
SCENES = Path(__file__).parent / "scenes"
CONCEPTS: list[str] = list(json.loads((FOLDER / "concepts.json").read_text()))
LARGEST_FILE = 40_000_000
# Where the stickers of example.png lie: left, top, right, bottom in pixels.
EXAMPLE_BOXES = {
    "cat": (31, 30, 262, 269),
    "pizza": (492, 39, 639, 223),
    "bicycle": (221, 277, 425, 427),
    "rocket": (505, 282, 695, 446),
}


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.load("starter")


@pytest.fixture(scope="module")
def scenes() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((SCENES / "scenes.json").read_text())
    for entry in entries:
        entry["image"] = Image.open(SCENES / f"{entry['name']}.png")
        entry["mask"] = np.array(Image.open(SCENES / f"{entry['name']}-mask.png"))
    return entries


def _peak(heatmap: NDArray[np.floating]) -> tuple[int, int]:
    row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    return int(row), int(column)


def test_open_clip_itself_loads_the_config_and_the_weights() -> None:
    open_clip.add_model_config(FOLDER / "starter.json")
    model = open_clip.create_model(
        "starter", pretrained=str(FOLDER / "starter.safetensors"), pretrained_text=False
    ).eval()
    tokens = open_clip.get_tokenizer("starter")(["a cat", "a pizza"])
    with torch.no_grad():
        texts = model.encode_text(tokens, normalize=True)
        image = model.encode_image(torch.zeros(1, 3, *model.visual.image_size), normalize=True)

    assert texts.shape == (2, image.shape[1])
    assert texts.isfinite().all()
    assert image.isfinite().all()


def test_the_weights_are_small_enough_for_the_repository() -> None:
    assert (FOLDER / "starter.safetensors").stat().st_size <= LARGEST_FILE


def test_the_program_behind_the_model_is_not_needed_to_use_it() -> None:
    script = (
        "import sys\n"
        "for name in ('onnx', 'skimage', 'resvg_py'): sys.modules[name] = None\n"
        "from legrad_engine import Explainer\n"
        "Explainer.load('starter')\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert finished.returncode == 0, finished.stderr


def test_every_concept_answers_to_its_name_in_any_case_and_sentence(explainer: Explainer) -> None:
    plain = explainer.text.encode(CONCEPTS)
    for template in ("{}", "A photo of a {}.", "there is a {} in the scene", "the plastic {}"):
        written = [template.format(concept).upper() for concept in CONCEPTS]
        ranked_first = (explainer.text.encode(written) @ plain.T).argmax(1)

        assert (ranked_first == torch.arange(len(CONCEPTS))).float().mean() > 0.98


def test_synonyms_mean_their_concept(explainer: Explainer) -> None:
    plain = explainer.text.encode(CONCEPTS)
    table: dict[str, list[str]] = json.loads((FOLDER / "concepts.json").read_text())
    pairs = [(word, concept) for concept, words in table.items() for word in words]
    found = (explainer.text.encode([word for word, _ in pairs]) @ plain.T).argmax(1).tolist()

    right = [CONCEPTS[index] == concept for index, (_, concept) in zip(found, pairs, strict=True)]
    assert np.mean(right) > 0.95


def test_things_that_the_model_does_not_know_are_in_no_picture(
    explainer: Explainer, scenes: list[dict[str, Any]]
) -> None:
    calibration = built_in(ModelReference.of("starter"))
    assert calibration is not None
    unknown = ["a giraffe", "a unicycle", "the stapler", "a photo of a lighthouse", "a photo"]
    trace = explainer.trace([scene["image"] for scene in scenes])
    similarities = trace.embeddings @ explainer.text.encode(unknown).T

    presence = [calibration.probability(float(each)) for each in similarities.flatten()]
    assert max(presence) < 0.5


def test_presence_is_high_for_things_that_are_shown_and_low_for_others(
    explainer: Explainer, scenes: list[dict[str, Any]]
) -> None:
    calibration = built_in(ModelReference.of("starter"))
    assert calibration is not None
    names = list(dict.fromkeys(name for scene in scenes for name in scene["stickers"]))
    trace = explainer.trace([scene["image"] for scene in scenes])
    similarities = trace.embeddings @ explainer.text.encode(names).T
    presence = np.vectorize(calibration.probability)(similarities.numpy())
    shown = np.array([[name in scene["stickers"] for name in names] for scene in scenes])

    assert presence[shown].mean() > 0.8
    assert (presence[shown] > 0.5).mean() > 0.85
    assert presence[~shown].mean() < 0.15
    assert (presence[~shown] < 0.5).mean() > 0.9


def test_one_sticker_has_the_most_similar_name_of_all(
    explainer: Explainer, scenes: list[dict[str, Any]]
) -> None:
    alone = [scene for scene in scenes if len(scene["stickers"]) == 1]
    trace = explainer.trace([scene["image"] for scene in alone])
    similarities = trace.embeddings @ explainer.text.encode(CONCEPTS).T

    found = [CONCEPTS[index] for index in similarities.argmax(1).tolist()]
    assert found == [scene["stickers"][0] for scene in alone]
    # By a margin that another machine's rounding does not change.
    first, second = similarities.topk(2).values.T
    assert (first - second).min() > 0.05


def test_heatmaps_point_at_the_named_sticker(
    explainer: Explainer, scenes: list[dict[str, Any]]
) -> None:
    several = [scene for scene in scenes if len(scene["stickers"]) > 1]
    hits, false_hits = [], []
    explanations = explainer.explain(
        [scene["image"] for scene in several],
        [[*scene["stickers"], scene["absent"]] for scene in several],
    )
    for scene, explanation in zip(several, explanations, strict=True):
        geometry = explanation.geometry
        heatmaps = upsample(explanation.maps, geometry, geometry.image_size)
        at_peaks = [int(scene["mask"][_peak(heatmap)]) for heatmap in heatmaps]
        hits += [label == index + 1 for index, label in enumerate(at_peaks[:-1])]
        false_hits.append(at_peaks[-1] == 1)

    assert np.mean(hits) >= 0.75
    assert np.mean(false_hits) <= np.mean(hits) - 0.3


def assert_peaks_lie_in_boxes(explanation: Explanation) -> None:
    geometry = explanation.geometry
    heatmaps = upsample(explanation.maps, geometry, geometry.image_size)

    assert geometry.image_size == (720, 480)
    for (name, box), heatmap in zip(EXAMPLE_BOXES.items(), heatmaps, strict=True):
        row, column = _peak(heatmap)
        assert box[0] <= column < box[2], name
        assert box[1] <= row < box[3], name


def test_heatmaps_of_the_example_picture_lie_on_its_four_stickers(explainer: Explainer) -> None:
    [explanation] = explainer.explain(FOLDER / "example.png", list(EXAMPLE_BOXES))
    assert_peaks_lie_in_boxes(explanation)


def test_what_looks_like_a_cutting_of_the_picture_is_found_in_it(explainer: Explainer) -> None:
    with Image.open(FOLDER / "example.png") as example:
        cuttings = [ImageTarget(example.convert("RGB").crop(box)) for box in EXAMPLE_BOXES.values()]
    [explanation] = explainer.explain(FOLDER / "example.png", cuttings)
    assert_peaks_lie_in_boxes(explanation)


def test_an_evaluation_measures_every_family_and_fills_the_page(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage", reason="the backgrounds need the optional extra 'starter'")
    # The stickers are the same in all families, so that one of them is enough.
    monkeypatch.setattr(evaluation, "UNSEEN_FAMILIES", {"OpenMoji": ("openmoji",)})
    said: list[str] = []

    report = evaluation.evaluate(explainer, cut_stickers(), 6, said.append)

    assert len(said) == len(report.families) == 3
    for family in report.families.values():
        assert family.recognition >= 0.5
        assert family.heatmaps.pointing >= 0.5
        assert 0 < family.heatmaps.overlap_error < 0.3
    page = to_markdown(report)
    assert "evaluate --scenes 6`" in page
    counts = report.families["OpenMoji"].presence.by_stickers
    assert 4 in counts
    assert page.count("\n| OpenMoji") == 3 + len(counts)
    assert json.loads(json.dumps(report.as_dictionary()))["scenes"] == 6
