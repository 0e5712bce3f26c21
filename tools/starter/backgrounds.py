"""Backgrounds of scenes: flat, gradient, noise, texture, and free photographs."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image

# Pictures that scikit-image documents as CC0 or public domain (see LICENSES.md).
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "rocket.jpg",
)
KINDS = ("flat", "gradient", "noise", "texture", "photograph")
_KIND_WEIGHTS = (0.08, 0.17, 0.2, 0.15, 0.4)
_LONGEST_SIDE = 640


@functools.lru_cache(maxsize=1)
def photographs() -> tuple[torch.Tensor, ...]:
    """Load the photographs that scikit-image ships.

    Returns:
        float32 `[3, height, width]` each, in 0..1, the longest side at most 640 pixels.
    """
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    loaded = []
    for name in PHOTOGRAPHS:
        image = Image.open(folder / name).convert("RGB")
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
        loaded.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)
    return tuple(loaded)


def _colour(generator: np.random.Generator) -> torch.Tensor:
    return torch.tensor(generator.uniform(0.05, 1.0, size=(3, 1, 1)), dtype=torch.float32)


def _resize(image: torch.Tensor, size: int) -> torch.Tensor:
    return functional.interpolate(
        image[None],
        size=(size, size),
        mode="bilinear",
        align_corners=False,
        antialias=min(image.shape[1:]) > size,
    )[0]


def _gradient(generator: np.random.Generator, size: int) -> torch.Tensor:
    angle = generator.uniform(0, 2 * np.pi)
    line = torch.linspace(-0.5, 0.5, size)
    ramp = (np.cos(angle) * line[None, :] + np.sin(angle) * line[:, None]) / 1.42 + 0.5
    return torch.lerp(_colour(generator), _colour(generator), ramp[None])


def _noise(generator: np.random.Generator, size: int) -> torch.Tensor:
    result = _colour(generator).expand(3, size, size).clone()
    for cells in (3, 7, 15, 40):
        amplitude = generator.uniform(0.0, 0.2)
        channels = 3 if generator.random() < 0.5 else 1
        field = torch.from_numpy(
            generator.standard_normal((channels, cells, cells)).astype(np.float32)
        )
        result += amplitude * functional.interpolate(field[None], (size, size), mode="bicubic")[0]
    return result.clamp(0, 1)


def _texture(generator: np.random.Generator, size: int) -> torch.Tensor:
    angle = generator.uniform(0, np.pi)
    period = size * generator.uniform(0.06, 0.3)
    line = torch.arange(size, dtype=torch.float32)
    across = np.cos(angle) * line[None, :] + np.sin(angle) * line[:, None]
    along = -np.sin(angle) * line[None, :] + np.cos(angle) * line[:, None]
    wave_across, wave_along = (torch.sin(2 * np.pi * t / period) for t in (across, along))
    shape = generator.integers(4)
    if shape == 0:
        pattern = wave_across
    elif shape == 1:
        pattern = wave_across * wave_along
    elif shape == 2:
        pattern = wave_across + wave_along - 0.8
    else:
        pattern = torch.maximum(wave_across, wave_along) - 0.9
    sharpness = float(np.exp(generator.uniform(np.log(1.5), np.log(12))))
    return torch.lerp(
        _colour(generator), _colour(generator), torch.sigmoid(sharpness * pattern)[None]
    )


def _photograph(generator: np.random.Generator, size: int, recolour: float) -> torch.Tensor:
    source = photographs()[generator.integers(len(PHOTOGRAPHS))]
    height, width = source.shape[1:]
    side = int(generator.uniform(0.35, 1.0) * min(height, width))
    top, left = generator.integers(height - side + 1), generator.integers(width - side + 1)
    crop = _resize(source[:, top : top + side, left : left + side], size)
    if generator.random() < 0.5:
        crop = crop.flip(2)
    if generator.random() < recolour:
        crop = crop[generator.permutation(3)]
        gain = torch.tensor(generator.uniform(0.6, 1.3, size=(3, 1, 1)), dtype=torch.float32)
        crop = (crop * gain).clamp(0, 1)
    return crop


def background(generator: np.random.Generator, size: int, recolour: float = 0.5) -> torch.Tensor:
    """Draw one background.

    Args:
        generator: Source of every random choice.
        size: Side in pixels.
        recolour: Probability that a photograph's channels are permuted and scaled.

    Returns:
        float32 `[3, size, size]` in 0..1.
    """
    kind = KINDS[generator.choice(len(KINDS), p=_KIND_WEIGHTS)]
    if kind == "flat":
        return _colour(generator).expand(3, size, size).clone()
    if kind == "gradient":
        return _gradient(generator, size)
    if kind == "noise":
        return _noise(generator, size)
    if kind == "texture":
        return _texture(generator, size)
    return _photograph(generator, size, recolour)
