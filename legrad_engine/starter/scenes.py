"""Compose scenes of stickers on backgrounds, with the exact visible mask of every sticker.

Every scene is a pure function of its seed, so that test sets need not be stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from legrad_engine.starter.art import Sprites
from legrad_engine.starter.backgrounds import background
from legrad_engine.starter.style import vary_style

MOST_STICKERS = 4
_VISIBLE_ALPHA = 0.5


@dataclass(frozen=True)
class Recipe:
    """How scenes are drawn.

    Attributes:
        size: Side of the square picture in pixels.
        sticker_counts: The possible numbers of stickers.
        count_weights: Their probabilities.
        sides: For each number of stickers, the smallest and largest sticker side as a share of the picture's side.
        tilt: Largest rotation to either side, in degrees.
        overlap: The largest share of a sticker's square that placement lets another one cover, as far as room allows.
        warp: Largest elastic displacement as a share of the sticker's side.
        vary_style: Whether to vary colours, outlines and sharpness so that a model cannot lean on one art style.
    """

    size: int
    sticker_counts: tuple[int, ...]
    count_weights: tuple[float, ...]
    sides: dict[int, tuple[float, float]]
    tilt: float
    overlap: float
    warp: float
    vary_style: bool


# Measured scenes: mild variation only, so that the art style is what the artist drew.
EVALUATION_SIDES = {1: (0.35, 0.75), 2: (0.28, 0.5), 3: (0.26, 0.44), 4: (0.24, 0.4)}


def evaluation_recipe(counts: tuple[int, ...], size: int = 224) -> Recipe:
    """The recipe of the test sets: `counts` equally likely, no style variation."""
    return Recipe(
        size=size,
        sticker_counts=counts,
        count_weights=tuple(1 / len(counts) for _ in counts),
        sides=EVALUATION_SIDES,
        tilt=15,
        overlap=0.15,
        warp=0.0,
        vary_style=False,
    )


def training_recipe(size: int) -> Recipe:
    """The recipe of training scenes at `size` pixels.

    Stickers keep roughly the same size in pixels whatever `size` is, so that a model trained on small pictures first has seen
    the scale that larger ones show.
    """
    magnification = 168 / size
    widest = {1: 1.0, 2: 0.66, 3: 0.54, 4: 0.5}
    return Recipe(
        size=size,
        sticker_counts=(1, 2, 3, 4),
        count_weights=(0.2, 0.3, 0.3, 0.2),
        sides={
            count: (min(low * magnification, 0.7 * widest[count]), min(high * magnification, widest[count]))
            for count, (low, high) in EVALUATION_SIDES.items()
        },
        tilt=25,
        overlap=0.25,
        warp=0.06,
        vary_style=True,
    )


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes.

    Attributes:
        images: float32 `[scenes, 3, size, size]` in 0..1.
        masks: bool `[scenes, MOST_STICKERS, size, size]`, the visible pixels of each sticker.
        concepts: int64 `[scenes, MOST_STICKERS]`, -1 where there is no sticker.
    """

    images: torch.Tensor
    masks: torch.Tensor
    concepts: torch.Tensor


@dataclass(frozen=True)
class _Placement:
    scene: int
    slot: int
    style: int
    concept: int
    side: float
    centre: tuple[float, float]
    angle: float
    flip: bool


def _covered(centre: NDArray[np.float64], side: float, placed: list[_Placement]) -> float:
    worst = 0.0
    for other in placed:
        reach = (side + other.side) / 2
        width = min(max(0.0, reach - abs(centre[0] - other.centre[0])), side, other.side)
        height = min(max(0.0, reach - abs(centre[1] - other.centre[1])), side, other.side)
        worst = max(worst, width * height / min(side, other.side) ** 2)
    return worst


def _place(
    random: np.random.Generator, recipe: Recipe, drawable: list[NDArray[np.int64]], weights: NDArray[np.float64], scene: int
) -> list[_Placement]:
    count = int(random.choice(recipe.sticker_counts, p=recipe.count_weights))
    low, high = recipe.sides[count]
    placed: list[_Placement] = []
    used: set[int] = set()
    for slot in range(count):
        style = int(random.choice(len(weights), p=weights))
        concept = int(random.choice(drawable[style]))
        while concept in used:
            concept = int(random.choice(drawable[style]))
        used.add(concept)
        side = float(random.uniform(low, high))
        best, best_cover = np.zeros(2), np.inf
        for _ in range(12):
            centre = random.uniform(side * 0.5, 1 - side * 0.5, size=2) if side < 1 else np.full(2, 0.5)
            cover = _covered(centre, side, placed)
            if cover < best_cover:
                best, best_cover = centre, cover
            if cover <= recipe.overlap:
                break
        placed.append(
            _Placement(
                scene=scene,
                slot=slot,
                style=style,
                concept=concept,
                side=side,
                centre=(float(best[0]), float(best[1])),
                angle=float(np.deg2rad(random.uniform(-recipe.tilt, recipe.tilt))),
                flip=bool(random.random() < 0.5),
            )
        )
    return placed


def _sampling_grid(random: np.random.Generator, placements: list[_Placement], recipe: Recipe) -> torch.Tensor:
    """Where each picture pixel samples its sticker: float32 `[stickers, size, size, 2]` in grid_sample's coordinates."""
    matrices = np.zeros((len(placements), 2, 3), dtype=np.float32)
    for index, placement in enumerate(placements):
        # From picture coordinates (-1..1) to sprite coordinates: undo the shift, then the tilt, then the size, then the flip.
        cosine, sine = np.cos(placement.angle) / placement.side, np.sin(placement.angle) / placement.side
        linear = np.array([[cosine, sine], [-sine, cosine]])
        if placement.flip:
            linear[0] *= -1
        matrices[index, :, :2] = linear
        matrices[index, :, 2] = -linear @ (2 * np.array(placement.centre) - 1)
    shape = [len(placements), 1, recipe.size, recipe.size]
    grid = functional.affine_grid(torch.from_numpy(matrices), shape, align_corners=False)
    if recipe.warp > 0:
        field = random.uniform(-2 * recipe.warp, 2 * recipe.warp, size=(len(placements), 2, 5, 5)).astype(np.float32)
        smooth = functional.interpolate(torch.from_numpy(field), shape[2:], mode="bilinear", align_corners=False)
        grid += smooth.permute(0, 2, 3, 1)
    return grid


def _stickers(sprites: Sprites, placements: list[_Placement], recipe: Recipe) -> torch.Tensor:
    """The sprites, premultiplied: float32 `[stickers, 4, sprite, sprite]`, blurred where they will be shrunk much."""
    pixels = np.stack([sprites.pixels[placement.style, placement.concept] for placement in placements])
    result = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    result[:, :3] *= result[:, 3:]
    sprite_size = result.shape[-1]
    small = torch.tensor([placement.side * recipe.size < 0.6 * sprite_size for placement in placements])
    if small.any():
        halved = functional.avg_pool2d(result[small], 2)
        result[small] = functional.interpolate(halved, scale_factor=2, mode="bilinear", align_corners=False)
    return result


def _with_shadow(canvas: torch.Tensor, alpha: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Darken `canvas` `[3, size, size]` under a soft copy of `alpha` `[size, size]`, shifted down and to the side."""
    size = canvas.shape[-1]
    radius = max(1, round(size * 0.014))
    shift = max(1, round(size * 0.016))
    blurred = alpha[None, None]
    for _ in range(2):
        blurred = functional.avg_pool2d(blurred, 2 * radius + 1, 1, radius)
    sideways = int(random.integers(-shift, shift + 1))
    shadow = torch.roll(blurred[0, 0], (shift, sideways), (0, 1))
    return canvas * (1 - float(random.uniform(0.2, 0.5)) * shadow)


def compose(sprites: Sprites, styles: Mapping[str, float], recipe: Recipe, seed: int, count: int) -> Scenes:
    """Draw `count` scenes.

    Args:
        sprites: The rendered art.
        styles: The art styles to draw from and how often each is drawn.
        recipe: How to draw.
        seed: Decides everything random.
        count: Number of scenes.
    """
    random = np.random.default_rng(seed)
    weights = np.array([styles.get(name, 0.0) for name in sprites.styles])
    weights /= weights.sum()
    drawable = [np.flatnonzero(sprites.present[style]) for style in range(len(sprites.styles))]
    placements = [p for scene in range(count) for p in _place(random, recipe, drawable, weights, scene)]
    stickers = functional.grid_sample(
        _stickers(sprites, placements, recipe),
        _sampling_grid(random, placements, recipe),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    if recipe.vary_style:
        stickers = vary_style(stickers, random)
    else:
        tint = torch.from_numpy(random.uniform(0.9, 1.1, size=(len(placements), 3, 1, 1)).astype(np.float32))
        stickers[:, :3] = torch.minimum(stickers[:, :3] * tint, stickers[:, 3:])
    images = torch.stack([background(random, recipe.size) for _ in range(count)])
    masks = torch.zeros(count, MOST_STICKERS, recipe.size, recipe.size, dtype=torch.bool)
    concepts = torch.full((count, MOST_STICKERS), -1, dtype=torch.int64)
    for index, placement in enumerate(placements):
        scene, colour, alpha = placement.scene, stickers[index, :3], stickers[index, 3]
        canvas = images[scene]
        if not recipe.vary_style or random.random() < 0.5:
            canvas = _with_shadow(canvas, alpha, random)
        images[scene] = canvas * (1 - alpha) + colour
        visible = alpha > _VISIBLE_ALPHA
        masks[scene, : placement.slot] &= ~visible
        masks[scene, placement.slot] = visible
        concepts[scene, placement.slot] = placement.concept
    return Scenes(images.clamp_(0, 1), masks, concepts)
