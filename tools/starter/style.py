"""Augmentation of stickers and scenes in training.

The model shall learn concepts, not the styles of a few artists.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional

from tools.starter.backgrounds import background

_LUMINANCE = np.array([0.299, 0.587, 0.114])


def _colour_matrix(
    generator: np.random.Generator,
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Draw a random 3 x 4 affine map of colour: hue, saturation, contrast, brightness and tint."""
    grey = np.tile(_LUMINANCE, (3, 1))
    # Rotation about the grey axis (Rodrigues): mostly small, sometimes of any angle.
    angle = (
        generator.uniform(-np.pi, np.pi) if generator.random() < 0.15 else generator.normal(0, 0.25)
    )
    axis = np.full(3, 1 / np.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    saturation = 0.0 if generator.random() < 0.15 else generator.uniform(0.5, 1.5)
    saturated = grey + saturation * (np.eye(3) - grey)
    contrast = generator.uniform(0.6, 1.4)
    if generator.random() < 0.03:
        contrast = -contrast
    linear = contrast * saturated @ rotation
    offset = (
        0.5 * (1 - contrast)
        + generator.uniform(-0.15, 0.15)
        + generator.uniform(-0.08, 0.08, size=3)
    )
    return np.concatenate([linear, offset[:, None]], axis=1)


def vary_style(stickers: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Vary the style of each sticker independently.

    Args:
        stickers: float32 `[stickers, 4, size, size]`, premultiplied RGBA in 0..1; may be
            overwritten.
        generator: Source of every random choice.

    Returns:
        The same shape, still premultiplied.
    """
    count = stickers.shape[0]
    alpha = stickers[:, 3:]
    black = stickers[:, :3].sum((1, 2, 3)) < 0.05 * alpha.sum((1, 2, 3))
    matrices = torch.from_numpy(
        np.stack([_colour_matrix(generator) for _ in range(count)]).astype(np.float32)
    )
    # On premultiplied colour the offset scales with alpha, which makes the affine map one product
    # over all four channels.
    colour = torch.bmm(matrices, stickers.flatten(2)).view(count, 3, *stickers.shape[2:])

    def some(share: float) -> torch.Tensor:
        return torch.from_numpy(np.flatnonzero(generator.random(count) < share))

    posterised = some(0.15)
    if len(posterised):
        levels = float(generator.integers(2, 6))
        colour[posterised] = torch.round(colour[posterised] * levels) / levels
    repainted = torch.from_numpy(
        np.flatnonzero(generator.random(count) < np.where(black.numpy(), 0.7, 0.08))
    )
    if len(repainted):
        # One colour for all dark pixels, so that line art is not always black.
        ink = torch.from_numpy(
            generator.uniform(0, 1, size=(len(repainted), 3, 1, 1)).astype(np.float32)
        )
        darkness = (alpha[repainted] - 1.5 * colour[repainted].mean(1, keepdim=True)).clamp(0, 1)
        colour[repainted] = colour[repainted] + ink * darkness
    flattened = some(0.08)
    if len(flattened):
        # A single flat colour with weak shading, as in silhouettes and icons.
        mean = colour[flattened].sum((2, 3), keepdim=True) / alpha[flattened].sum(
            (2, 3), keepdim=True
        ).clamp_min(1)
        colour[flattened] = torch.lerp(
            colour[flattened], mean * alpha[flattened], float(generator.uniform(0.5, 0.8))
        )
    painted = some(0.2)
    if len(painted):
        surfaces = [background(generator, colour.shape[-1]).mean(0) for _ in painted]
        strength = torch.from_numpy(generator.uniform(0.2, 1.2, len(painted)).astype(np.float32))
        relief = torch.stack(surfaces)[:, None] - 0.5
        colour[painted] = colour[painted] * (1 + strength.view(-1, 1, 1, 1) * relief)
    thickened = some(0.08)
    if len(thickened):
        # Dark lines grow; what lies beside the sticker counts as white.
        paper = 1 - alpha[thickened]
        grown = -functional.max_pool2d(-(colour[thickened] + paper), 3, 1, 1) - paper
        colour[thickened] = grown.clamp_min(0)
    thinned = some(0.05)
    if len(thinned):
        colour[thinned] = functional.max_pool2d(colour[thinned], 3, 1, 1)
    blurred = some(0.12)
    if len(blurred):
        both = torch.cat([colour[blurred], alpha[blurred]], 1)
        both = functional.avg_pool2d(both, 3, 1, 1)
        colour[blurred], alpha[blurred] = both[:, :3], both[:, 3:]
    edged = some(0.2)
    if len(edged):
        colour[edged] = _with_inner_edges(colour[edged], float(generator.uniform(0.5, 2.5)))
    drawn = some(0.08)
    if len(drawn):
        colour[drawn] = _as_line_art(colour[drawn], alpha[drawn], generator)
    colour = torch.minimum(colour.clamp_min_(0), alpha)
    result = torch.cat([colour, alpha], 1)
    outlined = some(0.15)
    if len(outlined):
        result[outlined] = _with_outline(result[outlined], generator)
    return result


def _with_inner_edges(colour: torch.Tensor, strength: float) -> torch.Tensor:
    """Darken edges of the luminance, like ink lines."""
    luminance = colour.mean(1, keepdim=True)
    local = functional.max_pool2d(luminance, 3, 1, 1) + functional.max_pool2d(-luminance, 3, 1, 1)
    return colour * (1 - strength * local).clamp(0, 1)


def _as_line_art(
    colour: torch.Tensor, alpha: torch.Tensor, generator: np.random.Generator
) -> torch.Tensor:
    """Draw the edges of each sticker with one ink on paper of one colour."""
    shown = torch.cat([colour, alpha], 1)
    contrast = functional.max_pool2d(shown, 3, 1, 1) + functional.max_pool2d(-shown, 3, 1, 1)
    edges = (float(generator.uniform(1.5, 5)) * contrast.amax(1, keepdim=True)).clamp(0, 1)
    count = len(colour)
    paper = generator.uniform(0.6, 1, (count, 3, 1, 1))
    paper[generator.random(count) < 0.5] = 1
    ink = generator.uniform(0, 0.3, (count, 3, 1, 1))
    papers, inks = (torch.from_numpy(each.astype(np.float32)) for each in (paper, ink))
    return alpha * torch.lerp(papers.expand_as(colour), inks.expand_as(colour), edges)


def _with_outline(stickers: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Lay each sticker on its dilated silhouette, mostly white like paper, else dark like ink."""
    grow = int(generator.integers(1, 3))
    grown = functional.max_pool2d(stickers[:, 3:], 2 * grow + 1, 1, grow)
    shade = 1.0 if generator.random() < 0.6 else float(generator.uniform(0, 0.25))
    under = torch.cat([(shade * grown).expand(-1, 3, -1, -1), grown], 1)
    return stickers + under * (1 - stickers[:, 3:])


def vary_scenes(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Vary brightness, contrast, saturation, sharpness and noise of whole pictures.

    Args:
        images: float32 `[scenes, 3, size, size]` in 0..1.
        generator: Source of every random choice.
    """
    count = images.shape[0]

    def column(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(
            generator.uniform(low, high, size=(count, 1, 1, 1)).astype(np.float32)
        )

    varied = torch.lerp(images.mean(1, keepdim=True), images, column(0.6, 1.25))
    mean = varied.mean((1, 2, 3), keepdim=True)
    varied = (varied - mean) * column(0.7, 1.25) + mean * column(0.8, 1.15)
    soft = torch.from_numpy(np.flatnonzero(generator.random(count) < 0.15))
    if len(soft):
        varied[soft] = functional.avg_pool2d(
            functional.pad(varied[soft], (1, 1, 1, 1), mode="replicate"), 3, 1
        )
    coarse = torch.from_numpy(np.flatnonzero(generator.random(count) < 0.08))
    if len(coarse):
        small = functional.avg_pool2d(varied[coarse], 2)
        varied[coarse] = functional.interpolate(
            small, varied.shape[2:], mode="bilinear", align_corners=False
        )
    grey = torch.from_numpy(np.flatnonzero(generator.random(count) < 0.06))
    varied[grey] = varied[grey].mean(1, keepdim=True).expand(-1, 3, -1, -1)
    varied += column(0, 0.03) * torch.from_numpy(
        generator.standard_normal(images.shape, dtype=np.float32)
    )
    return varied.clamp_(0, 1)
