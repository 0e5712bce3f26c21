"""Scenes: what is drawn, and that the masks say exactly what can be seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tools.starter.art import Sprites
from tools.starter.errors import StarterError
from tools.starter.losses import read_targets, scene_loss
from tools.starter.scenes import (
    MOST_STICKERS,
    Scenes,
    compose,
    evaluation_recipe,
    training_recipe,
)
from tools.starter.sources import SPRITE_SIZE, Concept
from tools.starter.style import vary_scenes

pytest.importorskip("skimage", reason="the backgrounds need the optional extra 'starter'")

STYLES = {"plain": 1.0}


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    """Eight discs, each of a colour of its own; the second style lacks all but the first."""
    axis = np.linspace(-1, 1, SPRITE_SIZE)
    disc = axis[:, None] ** 2 + axis[None, :] ** 2 < 0.9
    pixels = np.zeros((2, 8, SPRITE_SIZE, SPRITE_SIZE, 4), np.uint8)
    for concept in range(8):
        pixels[:, concept, disc, :3] = [255 * (concept >> bit & 1) for bit in range(3)]
        pixels[:, concept, disc, 3] = 255
    present = np.array([[True] * 8, [True] + [False] * 7])
    concepts = tuple(Concept(f"disc{index}", (), "0") for index in range(8))
    return Sprites(pixels, present, ("plain", "sparse"), concepts)


def test_the_same_seed_draws_the_same_scenes(sprites: Sprites) -> None:
    for recipe in (evaluation_recipe((1, 2, 3, 4), 56), training_recipe(56)):
        first, second = (compose(sprites, STYLES, recipe, 5, 6) for _ in range(2))
        other = compose(sprites, STYLES, recipe, 6, 6)

        assert torch.equal(first.images, second.images)
        assert torch.equal(first.masks, second.masks)
        assert torch.equal(first.concepts, second.concepts)
        assert not torch.equal(first.images, other.images)


def test_every_scene_has_as_many_visible_stickers_as_concepts(sprites: Sprites) -> None:
    scenes = compose(sprites, STYLES, evaluation_recipe((2, 3), 112), 0, 20)

    counts = (scenes.concepts >= 0).sum(1)
    assert set(counts.tolist()) == {2, 3}
    assert torch.equal(scenes.masks.any(3).any(2), scenes.concepts >= 0)
    assert scenes.images.min() >= 0
    assert scenes.images.max() <= 1


def test_a_concept_appears_once_in_a_scene(sprites: Sprites) -> None:
    scenes = compose(sprites, STYLES, evaluation_recipe((4,), 56), 0, 20)

    for concepts in scenes.concepts[:, :4].tolist():
        assert len(set(concepts)) == 4


def test_a_style_draws_only_the_concepts_it_has(sprites: Sprites) -> None:
    scenes = compose(sprites, {"sparse": 1.0}, evaluation_recipe((1,), 56), 0, 8)

    assert set(scenes.concepts[:, 0].tolist()) == {0}


def test_every_sticker_tells_the_drawing_that_it_is(sprites: Sprites) -> None:
    scenes = compose(sprites, {"plain": 0.5, "sparse": 0.5}, evaluation_recipe((1,), 56), 0, 20)

    styles, concepts = scenes.styles[:, 0], scenes.concepts[:, 0]
    assert set(styles.tolist()) == {0, 1}
    assert set(concepts[styles == 1].tolist()) == {0}
    assert scenes.drawings(8)[:, 0].tolist() == (8 * styles + concepts).tolist()
    assert (scenes.drawings(8)[:, 1:] < 0).all()


def test_a_style_that_the_art_lacks_is_refused_with_the_remedy(sprites: Sprites) -> None:
    with pytest.raises(StarterError, match=r"style other: run `python -m tools\.starter art`"):
        compose(sprites, {"plain": 0.5, "other": 0.5}, evaluation_recipe((1,), 56), 0, 1)


@pytest.mark.timeout(20)
def test_a_style_with_fewer_drawings_than_a_scene_has_stickers_is_refused(
    sprites: Sprites,
) -> None:
    with pytest.raises(StarterError, match="2 different stickers in the style sparse"):
        compose(sprites, {"plain": 0.5, "sparse": 0.5}, evaluation_recipe((1, 2), 56), 0, 8)


def test_visible_masks_exclude_covered_pixels(sprites: Sprites) -> None:
    scenes = compose(sprites, STYLES, training_recipe(112), 3, 20)

    assert scenes.masks.shape[1] == MOST_STICKERS
    assert int(scenes.masks.sum(1).max()) == 1


def test_pixels_inside_a_mask_show_that_sticker(sprites: Sprites) -> None:
    scenes = compose(sprites, STYLES, evaluation_recipe((3, 4), 112), 1, 20)

    for image, masks, concepts in zip(scenes.images, scenes.masks, scenes.concepts, strict=True):
        for mask, concept in zip(masks, concepts.tolist(), strict=True):
            if concept >= 0:
                colour = image[:, mask].median(1).values
                wanted = torch.tensor([float(concept >> bit & 1) for bit in range(3)])
                assert (colour - wanted).abs().max() < 0.12  # the tint


def test_a_cut_removes_one_side_of_a_sticker_and_of_its_mask(sprites: Sprites) -> None:
    recipe = replace(evaluation_recipe((1,), 112), cut=1.0)
    whole = compose(sprites, STYLES, replace(recipe, cut=0.0), 2, 12).masks[:, 0]
    cut = compose(sprites, STYLES, recipe, 2, 12).masks[:, 0]

    shares = (cut & whole).sum((1, 2)) / whole.sum((1, 2))
    assert not (cut & ~whole).any()
    assert (shares > 0.4).all()
    assert (shares < 1).float().mean() > 0.7


def test_perspective_keeps_the_middle_and_moves_the_edge(sprites: Sprites) -> None:
    recipe = replace(evaluation_recipe((1,), 112), tilt=0)
    flat, seen = (
        compose(sprites, STYLES, replace(recipe, perspective=each), 2, 12).masks[:, 0]
        for each in (0.0, 0.3)
    )

    overlaps = (flat & seen).sum((1, 2)) / (flat | seen).sum((1, 2))
    assert (overlaps > 0.5).all()
    assert overlaps.min() < 0.98


def test_varied_pictures_are_pictures(sprites: Sprites) -> None:
    scenes = compose(sprites, STYLES, training_recipe(112), 4, 40)
    varied = vary_scenes(scenes.images, np.random.default_rng(0))

    for images in (scenes.images, varied):
        assert images.isfinite().all()
        assert images.min() >= 0
        assert images.max() <= 1
    assert varied.shape == scenes.images.shape


def _two_patches() -> Scenes:
    """One scene of 14 x 28 pixels squared up: concept 4 on the left half, nothing on the right."""
    masks = torch.zeros(1, MOST_STICKERS, 28, 28, dtype=torch.bool)
    masks[0, 0, :, :14] = True
    concepts = torch.full((1, MOST_STICKERS), -1)
    concepts[0, 0] = 4
    return Scenes(torch.zeros(1, 3, 28, 28), masks, concepts, torch.zeros_like(concepts))


def test_targets_name_the_owner_of_each_patch() -> None:
    targets = read_targets(_two_patches(), 6, None, np.random.default_rng(0))

    owners = torch.empty(4, dtype=torch.int64)
    owners[targets.kept[0]] = targets.owners[0]
    assert owners.tolist() == [4, 6, 4, 6]
    assert targets.present.nonzero().tolist() == [[0, 4]]


def test_background_patches_are_left_out_first() -> None:
    targets = read_targets(_two_patches(), 6, 2, np.random.default_rng(0))

    assert sorted(targets.kept[0].tolist()) == [0, 2]


def test_the_scene_loss_falls_when_the_right_concept_stands_out() -> None:
    targets = read_targets(_two_patches(), 6, None, np.random.default_rng(0))

    undecided, right = torch.zeros(1, 6), 9 * torch.eye(6)[4:5]
    assert scene_loss(right, targets.present) < 0.01 < scene_loss(undecided, targets.present)
