"""Composition of scenes: stickers on backgrounds, with the exact visible mask of every sticker.

Every scene is a pure function of its seed, so that test sets need not be stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image

from tools.starter.art import Sprites
from tools.starter.backgrounds import background
from tools.starter.errors import StarterError
from tools.starter.sources import SPRITE_SIZE
from tools.starter.style import vary_style

MOST_STICKERS = 6
_VISIBLE_ALPHA = 0.5
_CHUNK = 25
_HALVE_BELOW = 0.6 * SPRITE_SIZE


@dataclass(frozen=True)
class Recipe:
    """Parameters of scenes.

    Attributes:
        size: Side of the square picture in pixels.
        sticker_counts: The possible numbers of stickers.
        count_weights: Probability of each number of stickers.
        sides: For each number of stickers, the smallest and largest sticker side as a share of the
            picture's side.
        tilt: Largest rotation to either side, in degrees.
        overlap: Largest share of a sticker's square that another one may cover, if there is room.
        warp: Largest elastic displacement as a share of the sticker's side.
        perspective: Largest change of scale from a sticker's middle to its edge.
        cut: Share of stickers of which a straight cut removes a part.
        vary_style: Whether to vary colours, outlines and sharpness, so that a model does not depend
            on one art style.
    """

    size: int
    sticker_counts: tuple[int, ...]
    count_weights: tuple[float, ...]
    sides: dict[int, tuple[float, float]]
    tilt: float
    overlap: float
    warp: float
    perspective: float
    cut: float
    vary_style: bool


# Sides in measured scenes. These vary little, so that the art style stays the artist's.
EVALUATION_SIDES = {1: (0.35, 0.75), 2: (0.28, 0.5), 3: (0.26, 0.44), 4: (0.24, 0.4)}
# Probabilities of one to six stickers. Small pictures are crowded, because every sticker is a
# training example; full-size pictures resemble the measured scenes.
_FULL_SIZE = 140
_CROWDED_WEIGHTS = (0.12, 0.18, 0.2, 0.2, 0.15, 0.15)
_FULL_SIZE_WEIGHTS = (0.4, 0.2, 0.2, 0.1, 0.05, 0.05)
_TRAINING_SIDES = EVALUATION_SIDES | {5: (0.22, 0.36), 6: (0.22, 0.34)}


def evaluation_recipe(counts: tuple[int, ...], size: int = 224) -> Recipe:
    """Make the recipe of the test sets: `counts` equally likely, no style variation."""
    return Recipe(
        size=size,
        sticker_counts=counts,
        count_weights=tuple(1 / len(counts) for _ in counts),
        sides=EVALUATION_SIDES,
        tilt=15,
        overlap=0.15,
        warp=0.0,
        perspective=0.0,
        cut=0.0,
        vary_style=False,
    )


def training_recipe(size: int) -> Recipe:
    """Make the recipe of training scenes at `size` pixels.

    Stickers have about the same size in pixels for every `size`, so that a model that is trained on
    small pictures first sees stickers of the scale in larger ones.
    """
    magnification = _FULL_SIZE / size
    widest = {1: 1.0, 2: 0.66, 3: 0.54, 4: 0.5, 5: 0.46, 6: 0.44}
    return Recipe(
        size=size,
        sticker_counts=(1, 2, 3, 4, 5, 6),
        count_weights=_FULL_SIZE_WEIGHTS if size >= _FULL_SIZE else _CROWDED_WEIGHTS,
        sides={
            count: (
                min(low * magnification, 0.7 * widest[count]),
                min(high * magnification, widest[count]),
            )
            for count, (low, high) in _TRAINING_SIDES.items()
        },
        tilt=25,
        overlap=0.25,
        warp=0.06,
        perspective=0.3,
        cut=0.1,
        vary_style=True,
    )


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes.

    Attributes:
        images: float32 `[scenes, 3, size, size]` in 0..1.
        masks: bool `[scenes, MOST_STICKERS, size, size]`, the visible pixels of each sticker.
        concepts: int64 `[scenes, MOST_STICKERS]`, -1 where there is no sticker.
        styles: int64, the same shape, the style of each sticker as its place in the sprites.
    """

    images: torch.Tensor
    masks: torch.Tensor
    concepts: torch.Tensor
    styles: torch.Tensor

    def drawings(self, concept_count: int) -> NDArray[np.int64]:
        """Number the drawing of each sticker: `[scenes, MOST_STICKERS]`, below 0 without one."""
        numbers: NDArray[np.int64] = (self.styles * concept_count + self.concepts).numpy()
        return numbers


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
    generator: np.random.Generator,
    recipe: Recipe,
    drawable: list[NDArray[np.int64]],
    weights: NDArray[np.float64],
    scene: int,
) -> list[_Placement]:
    count = int(generator.choice(recipe.sticker_counts, p=recipe.count_weights))
    low, high = recipe.sides[count]
    placed: list[_Placement] = []
    used: set[int] = set()
    for slot in range(count):
        style = int(generator.choice(len(weights), p=weights))
        concept = int(generator.choice(drawable[style]))
        while concept in used:
            concept = int(generator.choice(drawable[style]))
        used.add(concept)
        side = float(generator.uniform(low, high))
        best, best_cover = np.zeros(2), np.inf
        for _ in range(12):
            centre = (
                generator.uniform(side * 0.5, 1 - side * 0.5, size=2)
                if side < 1
                else np.full(2, 0.5)
            )
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
                angle=float(np.deg2rad(generator.uniform(-recipe.tilt, recipe.tilt))),
                flip=bool(generator.random() < 0.5),
            )
        )
    return placed


def _sampling_grid(
    generator: np.random.Generator, placements: list[_Placement], recipe: Recipe
) -> torch.Tensor:
    """Compute the sampling positions in each sticker: float32 `[stickers, size, size, 2]`."""
    matrices = np.zeros((len(placements), 2, 3), dtype=np.float32)
    for index, placement in enumerate(placements):
        # From picture coordinates (-1..1) to sprite coordinates: undo the shift, then the tilt,
        # then the size, then the flip.
        cosine, sine = (
            np.cos(placement.angle) / placement.side,
            np.sin(placement.angle) / placement.side,
        )
        linear = np.array([[cosine, sine], [-sine, cosine]])
        if placement.flip:
            linear[0] *= -1
        matrices[index, :, :2] = linear
        matrices[index, :, 2] = -linear @ (2 * np.array(placement.centre) - 1)
    shape = [len(placements), 1, recipe.size, recipe.size]
    grid = functional.affine_grid(torch.from_numpy(matrices), shape, align_corners=False)
    if recipe.warp > 0:
        field = generator.uniform(
            -2 * recipe.warp, 2 * recipe.warp, size=(len(placements), 2, 5, 5)
        ).astype(np.float32)
        smooth = functional.interpolate(
            torch.from_numpy(field), shape[2:], mode="bilinear", align_corners=False
        )
        grid += smooth.permute(0, 2, 3, 1)
    if recipe.perspective > 0:
        slope = generator.uniform(-recipe.perspective, recipe.perspective, (len(placements), 2, 1))
        # A point behind the viewer must not come back into the sticker.
        depth = (1 + grid.flatten(1, 2) @ torch.from_numpy(slope.astype(np.float32))).clamp_min(0.4)
        grid /= depth.view(*grid.shape[:3], 1)
    return grid


def _stickers(
    sprites: Sprites, placements: list[_Placement], recipe: Recipe, generator: np.random.Generator
) -> torch.Tensor:
    """Place the stickers: float32 `[stickers, 4, size, size]`, premultiplied RGBA."""
    grid = _sampling_grid(generator, placements, recipe)
    result = torch.empty(len(placements), 4, recipe.size, recipe.size)
    # Sprites that are shrunk much are halved first, because bilinear sampling alone would alias.
    shrunk = np.array([placement.side * recipe.size < _HALVE_BELOW for placement in placements])
    for chosen, source in ((shrunk, sprites.halved), (~shrunk, sprites.premultiplied)):
        index = torch.from_numpy(np.flatnonzero(chosen))
        if len(index):
            art = np.stack(
                [source(placements[i].style, placements[i].concept) for i in index.tolist()]
            )
            planes = torch.from_numpy(art).permute(0, 3, 1, 2).contiguous()
            result[index] = functional.grid_sample(
                planes, grid[index], mode="bilinear", align_corners=False
            )
    if recipe.cut > 0:
        for number in np.flatnonzero(generator.random(len(placements)) < recipe.cut):
            angle, reach = generator.uniform(0, 2 * np.pi), generator.uniform(0.1, 0.7)
            across = torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32)
            result[number] *= grid[number] @ across < reach
    return result


def _shadow(alpha: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Compute the soft shadow of a sticker with `alpha` `[size, size]`, shifted down: 0 to 0.5."""
    size = alpha.shape[-1]
    shift = max(1, round(size * 0.016))
    radius = max(1, round(size * 0.007))
    blurred = alpha[None, None, ::2, ::2]
    for window in ((2 * radius + 1, 1), (1, 2 * radius + 1)) * 2:
        blurred = functional.avg_pool2d(blurred, window, 1, (window[0] // 2, window[1] // 2))
    blurred = functional.interpolate(blurred, alpha.shape, mode="bilinear", align_corners=False)
    sideways = int(generator.integers(-shift, shift + 1))
    return float(generator.uniform(0.2, 0.5)) * torch.roll(blurred[0, 0], (shift, sideways), (0, 1))


def _check_styles(sprites: Sprites, styles: Mapping[str, float], recipe: Recipe) -> None:
    """Check that every style can draw a scene by itself, as chance may want.

    Raises:
        StarterError: The art lacks a style, or a style has too few drawings for a scene.
    """
    most = max(recipe.sticker_counts)
    for style in styles:
        if style not in sprites.styles:
            raise StarterError(
                f"The art lacks the style {style}: run `python -m tools.starter art` again."
            )
        drawings = int(sprites.present[sprites.styles.index(style)].sum())
        if drawings < most:
            raise StarterError(
                f"A scene may need {most} different stickers in the style {style}, which draws "
                f"{drawings} concepts. Leave the style out, or run `python -m tools.starter art` "
                "again if it should draw more."
            )


def compose(
    sprites: Sprites, styles: Mapping[str, float], recipe: Recipe, seed: int, count: int
) -> Scenes:
    """Draw `count` scenes.

    Args:
        sprites: The rendered art.
        styles: The art styles and their relative frequencies.
        recipe: The parameters of the scenes.
        seed: Seed of all random choices.
        count: Number of scenes.

    Raises:
        StarterError: The art lacks a style, or a style has too few drawings for a scene.
    """
    _check_styles(sprites, styles, recipe)
    generator = np.random.default_rng(seed)
    weights = np.array([styles.get(name, 0.0) for name in sprites.styles])
    weights /= weights.sum()
    drawable = [np.flatnonzero(sprites.present[style]) for style in range(len(sprites.styles))]
    placements = [
        p for scene in range(count) for p in _place(generator, recipe, drawable, weights, scene)
    ]
    stickers = _stickers(sprites, placements, recipe, generator)
    if recipe.vary_style:
        stickers = vary_style(stickers, generator)
    else:
        tint = torch.from_numpy(
            generator.uniform(0.9, 1.1, size=(len(placements), 3, 1, 1)).astype(np.float32)
        )
        stickers[:, :3] = torch.minimum(stickers[:, :3] * tint, stickers[:, 3:])
    images = torch.stack([background(generator, recipe.size) for _ in range(count)])
    masks = torch.zeros(count, MOST_STICKERS, recipe.size, recipe.size, dtype=torch.bool)
    concepts, drawn_in = torch.full((2, count, MOST_STICKERS), -1, dtype=torch.int64)
    for index, placement in enumerate(placements):
        scene, colour, alpha = placement.scene, stickers[index, :3], stickers[index, 3]
        if not recipe.vary_style or generator.random() < 0.4:
            images[scene] *= 1 - _shadow(alpha, generator)
        images[scene].mul_(1 - alpha).add_(colour)
        visible = alpha > _VISIBLE_ALPHA
        masks[scene, : placement.slot] &= ~visible
        masks[scene, placement.slot] = visible
        concepts[scene, placement.slot] = placement.concept
        drawn_in[scene, placement.slot] = placement.style
    return Scenes(images.clamp_(0, 1), masks, concepts, drawn_in)


def pictures(scenes: Scenes) -> list[Image.Image]:
    """Convert scenes to 8-bit RGB pictures."""
    pixels = (scenes.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in pixels]


def chunks(
    sprites: Sprites,
    styles: Mapping[str, float],
    counts: tuple[int, ...],
    seed: int,
    total: int,
    size: int = 224,
) -> Iterator[Scenes]:
    """Draw measured scenes in batches.

    Args:
        sprites: The rendered art.
        styles: The art styles and their relative frequencies.
        counts: The possible numbers of stickers.
        seed: Seed of the first batch; each batch adds the number of its first scene.
        total: Number of scenes over all batches.
        size: Side of the pictures in pixels.
    """
    for start in range(0, total, _CHUNK):
        count = min(_CHUNK, total - start)
        yield compose(sprites, styles, evaluation_recipe(counts, size), seed + start, count)
