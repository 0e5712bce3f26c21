"""Figures behind two definitions: `python -m benchmarks.questions`.

Words: the rank correlation of contributions with the fall of the similarity when a word is left
out, for three definitions of a contribution. Regions: how well two embeddings of a region stand for
it. On the built-in model and the scenes of tests/tools/starter, whose masks are exact.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from legrad_engine import Explainer
from legrad_engine.evaluation.metrics.localisation import points_inside
from legrad_engine.families.attention import Attention
from legrad_engine.images.cropping import PixelBox
from legrad_engine.images.geometry import upsample
from legrad_engine.legrad import rectified_product
from legrad_engine.targets import ImageTarget
from legrad_engine.targets.image_regions import embed_targets
from legrad_engine.words import towers
from legrad_engine.words.places import words_of

_SCENES = Path("tests/tools/starter/scenes")
_PROMPTS = ("a photo of a {}", "a drawing of a {}", "a {}")


@dataclass(frozen=True)
class Scene:
    """A picture, the names of its stickers and their masks ``[stickers, height, width]``."""

    picture: Image.Image
    names: list[str]
    absent: str
    masks: NDArray[np.bool_]


def read_scenes(folder: Path = _SCENES) -> list[Scene]:
    """Read the scenes of a folder."""
    scenes = []
    for entry in json.loads((folder / "scenes.json").read_text()):
        labels = np.asarray(Image.open(folder / f"{entry['name']}-mask.png"))
        masks = np.stack([labels == 1 + row for row in range(len(entry["stickers"]))])
        picture = Image.open(folder / f"{entry['name']}.png").convert("RGB")
        scenes.append(Scene(picture, entry["stickers"], entry["absent"], masks))
    return scenes


def _rectified(gradient: Tensor, values: Tensor) -> Tensor:
    return torch.einsum("bphrd,bhnd->bphn", gradient, values).relu().sum(2)


_SIGNED = rectified_product.sum_product


def word_figures(explainer: Explainer, scenes: list[Scene]) -> dict[str, float]:
    """Return the mean Spearman correlation with leaving a word out, by definition."""
    cases = [
        (scene, template.format(name))
        for scene in scenes
        for name in (*scene.names, scene.absent)
        for template in _PROMPTS
    ]
    images = explainer.embed_images([scene.picture for scene in scenes])
    image_of = {id(scene): image for scene, image in zip(scenes, images, strict=True)}
    falls = [_falls(explainer, text, image_of[id(scene)]) for scene, text in cases]
    figures = {}
    for name, weighted, product in (
        ("LeGrad: positive gradient", False, _rectified),
        ("gradient with its sign", False, _SIGNED),
        ("gradient times attention", True, _SIGNED),
    ):
        found = []
        for (scene, text), fall in zip(cases, falls, strict=True):
            words = _contributions(explainer, text, image_of[id(scene)], weighted, product)
            found.append(float(spearmanr(words, fall).statistic))
        figures[name] = float(np.nanmean(found))
    return figures


def _contributions(
    explainer: Explainer,
    text: str,
    image: Tensor,
    weighted: bool,
    product: Callable[[Tensor, Tensor], Tensor],
) -> list[float]:
    tower = towers.text_tower_of(explainer.model)
    encoder = explainer.text
    tokens = encoder._tokenize([text])  # type: ignore[union-attr]
    own_product, own_weights = rectified_product.sum_product, Attention.weights
    rectified_product.sum_product = product  # type: ignore[assignment]
    if not weighted:
        # Every token has the attention 1.
        Attention.weights = lambda self: torch.ones_like(own_weights(self))  # type: ignore[method-assign]
    try:
        found = tower.contributions(tokens, range(tower.depth)[-2:], image[None])[0, 0]
    finally:
        rectified_product.sum_product = own_product
        Attention.weights = own_weights  # type: ignore[method-assign]
    # The prompts are of words with one token each, behind the start.
    return [float(found[1 + row]) for row in range(len(words_of(text)))]


def _falls(explainer: Explainer, text: str, image: Tensor) -> list[float]:
    words = [text[word.start : word.end] for word in words_of(text)]
    without = [" ".join(words[:row] + words[row + 1 :]) for row in range(len(words))]
    similarities = explainer.text.encode([text, *without]) @ image
    falls: list[float] = (similarities[0] - similarities[1:]).tolist()
    return falls


def region_figures(explainer: Explainer, scenes: list[Scene]) -> dict[str, tuple[float, float]]:
    """Return recognition and pointing of two embeddings of regions.

    Recognition is the share of regions whose most similar name, of all names of the scenes, is
    their own. Pointing is the share of regions whose map on the mirrored scene peaks on the
    sticker.
    """
    names = sorted({name for scene in scenes for name in scene.names})
    texts = explainer.text.encode([f"a photo of a {name}" for name in names])
    results: dict[str, list[tuple[bool, bool]]] = {"cut out": [], "final tokens": []}
    for scene in scenes:
        mirrored = scene.picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for name, mask in zip(scene.names, scene.masks, strict=True):
            box = _box_of(mask)
            size = scene.picture.size
            vectors = {
                "cut out": explainer.embed_images([scene.picture.crop(box)])[0],
                "final tokens": embed_targets(explainer, [ImageTarget(scene.picture, box=box)])[0],
            }
            for kind, vector in vectors.items():
                (found,) = explainer.explain(mirrored, vector[None])
                heat = upsample(found.maps, found.geometry, size)
                results[kind].append(
                    (
                        names[int((texts @ vector).argmax())] == name,
                        bool(points_inside(heat[0], mask[:, ::-1])),
                    )
                )
    return {
        kind: (
            float(np.mean([recognised for recognised, _ in found])),
            float(np.mean([pointed for _, pointed in found])),
        )
        for kind, found in results.items()
    }


def _box_of(mask: NDArray[np.bool_]) -> PixelBox:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def main() -> None:
    """Print the figures as Markdown."""
    explainer = Explainer.load("starter")
    scenes = read_scenes()
    print("| contribution of a word | correlation with leaving it out |\n| --- | --- |")
    for name, figure in word_figures(explainer, scenes).items():
        print(f"| {name} | {figure:.2f} |")
    print("\n| embedding of a region | recognised | pointing |\n| --- | --- | --- |")
    for name, (recognised, pointed) in region_figures(explainer, scenes).items():
        print(f"| {name} | {recognised:.0%} | {pointed:.0%} |")


if __name__ == "__main__":
    main()
