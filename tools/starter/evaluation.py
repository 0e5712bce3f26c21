"""Measurement of the starter model's heatmaps against exact ground truth, with the engine.

Every measured scene has a seed that training did not use. Families of art that were held out of
training are measured one by one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from legrad_engine import Explainer
from legrad_engine.evaluation.baselines import centre_map, random_map
from legrad_engine.evaluation.metrics.localisation import points_inside
from legrad_engine.evaluation.metrics.segmentation import Counts, above
from legrad_engine.images.geometry import upsample
from legrad_engine.layers import DEFAULT_LAYERS
from tools.starter.art import Sprites
from tools.starter.bootstrap import standard_error
from tools.starter.presence import PresenceReport, measure_presence, shipped_calibration
from tools.starter.scenes import chunks, pictures
from tools.starter.styles import (
    TRAINING_STYLES,
    UNSEEN_FAMILIES,
    VALIDATION_FAMILY,
    VALIDATION_STYLE,
)

_ONE_STICKER_SEED = 1_000_000
_FEW_STICKERS_SEED = 2_000_000
_ABSENT_SEED = 3_000_000

Maps = NDArray[np.floating]
Part = Literal["training", "validation", "unseen"]
# From pictures and their prompts to each picture's maps `[prompts, rows, columns]`, by method.
MapMaker = Callable[[list[Image.Image], list[list[str]]], dict[str, list[Maps]]]


@dataclass(frozen=True)
class Localisation:
    """Measures of how well heatmaps find the named sticker.

    Attributes:
        pointing: Share of (scene, sticker) pairs whose map peaks on the sticker's visible pixels.
        overlap: Mean intersection over union of those pixels and the min-max normalised map above
            0.5.
        overlap_at_mean: The same with each map's own mean as the threshold.
        absent: Share of scenes in which the map of an absent concept peaks on one sticker, which is
            chosen at random.
        pairs: Number of (scene, sticker) pairs.
        area: Mean share of the picture that a sticker's visible pixels cover.
        pointing_error: Standard error of `pointing`, by a bootstrap over drawings.
        overlap_error: That of `overlap`.
        absent_error: That of `absent`, over the drawings at which the map must not point.
    """

    pointing: float
    overlap: float
    overlap_at_mean: float
    absent: float
    pairs: int
    area: float
    pointing_error: float
    overlap_error: float
    absent_error: float


def as_drawn(sprites: Sprites, styles: Sequence[str]) -> dict[str, float]:
    """Weight styles by their numbers of drawings, so that every drawing is equally frequent."""
    return {style: float(sprites.present[sprites.styles.index(style)].sum()) for style in styles}


def _named_first(
    explainer: Explainer, sprites: Sprites, styles: Mapping[str, float], total: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Compare one-sticker scenes with all names.

    Returns:
        For each scene, whether the concept has the most similar name of all, and its drawing.
    """
    names = [concept.name for concept in sprites.concepts]
    texts = explainer.text.encode(names)
    right, drawings = [], []
    for scenes in chunks(sprites, styles, (1,), _ONE_STICKER_SEED, total):
        embeddings = explainer.trace(pictures(scenes), layers=1).embeddings
        right.append(((embeddings @ texts.T).argmax(1).cpu() == scenes.concepts[:, 0]).numpy())
        drawings.append(scenes.drawings(len(names))[:, 0])
    return np.concatenate(right), np.concatenate(drawings)


def recognition(
    explainer: Explainer, sprites: Sprites, styles: Mapping[str, float], total: int
) -> float:
    """Measure the share of one-sticker scenes whose concept has the most similar name of all."""
    right, _ = _named_first(explainer, sprites, styles, total)
    return float(right.mean())


@dataclass
class _Tally:
    """Measurements of one method, a value for each pair or scene."""

    hits: list[bool] = field(default_factory=list)
    false_hits: list[bool] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    overlaps_at_mean: list[float] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    drawings: list[int] = field(default_factory=list)
    given_drawings: list[int] = field(default_factory=list)

    def add(
        self, rendered: Maps, masks: NDArray[np.bool_], given: int, drawings: Sequence[int]
    ) -> None:
        """Count one scene.

        Args:
            rendered: `[stickers + 1, height, width]`, the last one for the absent concept.
            masks: bool `[stickers, height, width]`.
            given: Index of the sticker at which the absent concept's map must not point.
            drawings: The drawing of each sticker.
        """
        self.drawings += drawings
        self.given_drawings.append(drawings[given])
        self.false_hits.append(points_inside(rendered[-1], masks[given]))
        for mask, heatmap in zip(masks, rendered[:-1], strict=True):
            self.hits.append(points_inside(heatmap, mask))
            middle = (heatmap.min() + heatmap.max()) / 2
            for threshold, overlaps in (
                (middle, self.overlaps),
                (heatmap.mean(), self.overlaps_at_mean),
            ):
                overlaps.append(Counts.of(above(heatmap, threshold), mask).foreground_iou or 0.0)
            self.areas.append(float(mask.mean()))

    def summary(self) -> Localisation:
        return Localisation(
            pointing=float(np.mean(self.hits)),
            overlap=float(np.mean(self.overlaps)),
            overlap_at_mean=float(np.mean(self.overlaps_at_mean)),
            absent=float(np.mean(self.false_hits)),
            pairs=len(self.hits),
            area=float(np.mean(self.areas)),
            pointing_error=standard_error(self.hits, self.drawings),
            overlap_error=standard_error(self.overlaps, self.drawings),
            absent_error=standard_error(self.false_hits, self.given_drawings),
        )


def localisation(
    explainer: Explainer,
    sprites: Sprites,
    styles: Mapping[str, float],
    total: int,
    make_maps: Sequence[MapMaker],
) -> dict[str, Localisation]:
    """Measure maps on scenes of two and three stickers.

    Args:
        explainer: The engine, for the geometry of the maps.
        sprites: The rendered art.
        styles: The art styles to draw from.
        total: Number of scenes.
        make_maps: The methods to measure.
    """
    generator = np.random.default_rng(_ABSENT_SEED)
    names = [concept.name for concept in sprites.concepts]
    tallies: dict[str, _Tally] = {}
    for scenes in chunks(sprites, styles, (2, 3), _FEW_STICKERS_SEED, total):
        shown = [[c for c in row if c >= 0] for row in scenes.concepts.tolist()]
        prompts = []
        for present in shown:
            absent = generator.choice(np.setdiff1d(np.arange(len(names)), present))
            prompts.append([names[concept] for concept in (*present, absent)])
        given = [int(generator.integers(len(present))) for present in shown]
        drawings = scenes.drawings(len(names)).tolist()
        images = pictures(scenes)
        for maker in make_maps:
            for method, maps_of_all in maker(images, prompts).items():
                tally = tallies.setdefault(method, _Tally())
                for index, maps in enumerate(maps_of_all):
                    geometry = explainer.plan(images[index].size)
                    rendered = upsample(maps, geometry, geometry.image_size)
                    stickers = len(shown[index])
                    masks = scenes.masks[index, :stickers].numpy()
                    tally.add(rendered, masks, given[index], drawings[index][:stickers])
    return {method: tally.summary() for method, tally in tallies.items()}


def legrad_name(layers: int) -> str:
    """Name the table row of LeGrad over the last `layers` blocks."""
    return "LeGrad, last block" if layers == 1 else f"LeGrad, last {layers} blocks"


def legrad_maps(explainer: Explainer, numbers_of_layers: Sequence[int]) -> MapMaker:
    """Compute LeGrad as the service does, over several numbers of blocks.

    The maps of single blocks are summed, so that one forward pass serves every number.
    """
    deepest = max(numbers_of_layers)

    def make(images: list[Image.Image], prompts: list[list[str]]) -> dict[str, list[Maps]]:
        trace = explainer.trace(images, layers=deepest)
        by_block = []
        for block, layer in zip(trace.blocks, trace.layers, strict=True):
            alone = dataclasses.replace(trace, blocks=(block,), layers=(layer,))
            by_block.append([found.maps for found in explainer.attribute(alone, prompts)])
        return {
            legrad_name(number): [
                np.sum(parts, 0) for parts in zip(*by_block[-number:], strict=True)
            ]
            for number in numbers_of_layers
        }

    return make


def default_heatmaps(
    explainer: Explainer, sprites: Sprites, styles: Mapping[str, float], total: int
) -> Localisation:
    """Measure the heatmaps of LeGrad's default blocks, see `localisation`."""
    makers = [legrad_maps(explainer, [DEFAULT_LAYERS])]
    return localisation(explainer, sprites, styles, total, makers)[legrad_name(DEFAULT_LAYERS)]


def _same_for_every_prompt(
    explainer: Explainer, name: str, one_map: Callable[[Image.Image, tuple[int, int]], Maps]
) -> MapMaker:
    def make(images: list[Image.Image], prompts: list[list[str]]) -> dict[str, list[Maps]]:
        singles = [one_map(image, explainer.plan(image.size).grid) for image in images]
        return {
            name: [
                np.repeat(single[None], len(texts), axis=0)
                for single, texts in zip(singles, prompts, strict=True)
            ]
        }

    return make


def centre_maps(explainer: Explainer) -> MapMaker:
    """Compute a prior that always points at the middle of the picture."""
    return _same_for_every_prompt(explainer, "Centre prior", lambda _, grid: centre_map(grid))


def random_maps(explainer: Explainer, seed: int = 0) -> MapMaker:
    """Draw uniform noise over the patch grid for every picture."""
    generator = np.random.default_rng(seed)
    return _same_for_every_prompt(
        explainer, "Random map", lambda _, grid: random_map(grid, generator)
    )


def attention_maps(explainer: Explainer) -> MapMaker:
    """Compute the attention that each patch receives in the last block, over heads and queries."""

    @torch.no_grad()
    def one_map(image: Image.Image, grid: tuple[int, int]) -> Maps:
        visual: Any = explainer.model.visual
        pixels = explainer.input_of([explainer.prepare(image)])
        tokens = visual._embeds(pixels)
        for block in visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
        last = visual.transformer.resblocks[-1]
        attention = last.attn
        projected = F.linear(last.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
        queries, keys, _ = (
            part.reshape(*part.shape[:2], attention.num_heads, -1).transpose(1, 2)
            for part in projected.chunk(3, dim=-1)
        )
        weights = (queries @ keys.transpose(-1, -2) / math.sqrt(keys.shape[-1])).softmax(-1)
        received: Maps = weights.mean((0, 1, 2))[1:].reshape(grid).cpu().numpy()
        return received

    return _same_for_every_prompt(explainer, "Raw attention, last block", one_map)


@dataclass(frozen=True)
class Family:
    """Measurements on one family of art.

    Attributes:
        part: Its part in the making of the model.
        concepts: Number of concepts that it shows.
        drawings: Number of its drawings.
        recognition: Share of one-sticker scenes recognised.
        recognition_error: Its standard error, by a bootstrap over drawings.
        heatmaps: Measures of the default heatmaps.
        presence: Measures of the calibrated presence.
    """

    part: Part
    concepts: int
    drawings: int
    recognition: float
    recognition_error: float
    heatmaps: Localisation
    presence: PresenceReport


@dataclass(frozen=True)
class Report:
    """All measurements of `evaluate`.

    Attributes:
        scenes: Scenes per measurement.
        families: The families of art by name; the styles of training count as one.
        methods: Heatmaps of other layers and of baselines, on the validation family.
    """

    scenes: int
    families: dict[str, Family]
    methods: dict[str, Localisation]

    def as_dictionary(self) -> dict[str, object]:
        """Convert to a dictionary for JSON."""
        return dataclasses.asdict(self)


def _measure(
    explainer: Explainer,
    sprites: Sprites,
    part: Part,
    styles: Mapping[str, float],
    total: int,
) -> Family:
    rows = [sprites.present[sprites.styles.index(style)] for style in styles]
    right, drawings = _named_first(explainer, sprites, styles, total)
    return Family(
        part=part,
        concepts=int(np.any(rows, 0).sum()),
        drawings=int(np.sum(rows)),
        recognition=float(right.mean()),
        recognition_error=standard_error(right, drawings),
        heatmaps=default_heatmaps(explainer, sprites, styles, total),
        presence=measure_presence(explainer, sprites, styles, total),
    )


def evaluate(
    explainer: Explainer, sprites: Sprites, total: int, progress: Callable[[str], None]
) -> Report:
    """Measure everything.

    Args:
        explainer: The engine with the starter model.
        sprites: The rendered art.
        total: Scenes per measurement.
        progress: Called with a line of text after each measurement.

    Raises:
        StarterError: The shipped calibration is of other weights than the shipped ones.
    """
    # Refused before anything is measured.
    shipped_calibration()
    families: dict[str, Family] = {}
    measured: list[tuple[str, Part, Mapping[str, float]]] = [
        *((name, "unseen", as_drawn(sprites, each)) for name, each in UNSEEN_FAMILIES.items()),
        (VALIDATION_FAMILY, "validation", {VALIDATION_STYLE: 1.0}),
        ("Styles of training", "training", TRAINING_STYLES),
    ]
    for name, part, styles in measured:
        found = families[name] = _measure(explainer, sprites, part, styles, total)
        progress(
            f"{name}: names {found.recognition:.1%}, pointing {found.heatmaps.pointing:.1%}, "
            f"IoU {found.heatmaps.overlap:.3f}, absent {found.heatmaps.absent:.1%}"
        )
    methods = localisation(
        explainer,
        sprites,
        {VALIDATION_STYLE: 1.0},
        total,
        [
            legrad_maps(explainer, range(1, explainer.tower.depth + 1)),
            centre_maps(explainer),
            random_maps(explainer),
            attention_maps(explainer),
        ],
    )
    return Report(total, families, methods)
