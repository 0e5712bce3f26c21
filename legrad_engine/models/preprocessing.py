"""Preprocessing of pictures as a model's own config describes it. Importing it loads no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

from legrad_engine.errors import ModelLoadError

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
ResizeMode = Literal["shortest", "squash", "longest"]
PerChannel = tuple[float, float, float]
Color = tuple[int, int, int]

_BLACK: Color = (0, 0, 0)
_BRIGHTEST = 255
# open_clip has it as well, but loads torch.
_IMAGENET_MEAN: PerChannel = (0.485, 0.456, 0.406)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The way from a decoded picture to the numbers that a model reads.

    Attributes:
        mean: mean per channel, for values in 0 to 1.
        std: standard deviation per channel, for values in 0 to 1.
        interpolation: Pillow's filter for resizing.
        resize_mode: how the model's own evaluation fits a picture that is not square: ``shortest``
            crops its middle, ``squash`` stretches it, ``longest`` pads it; None if unknown. The
            ``fit`` of a request decides here.
        fill_color: colour of padding, in 8-bit RGB; None for :attr:`neutral`.
        source: origin of these values, as a noun phrase for logs and answers.
        is_guess: whether the weights may have been trained with other values.
    """

    mean: PerChannel
    std: PerChannel
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode | None = None
    fill_color: Color | None = None
    source: str
    is_guess: bool = False

    @property
    def neutral(self) -> PerChannel:
        """The colour that stands for no content, normalised: the mean colour, which is 0.

        A model that reads values of 0 to 1 as they are states no mean; ImageNet's stands for it,
        because 0 would be black.
        """
        if any(self.mean):
            return 0.0, 0.0, 0.0
        red, green, blue = (mean / std for mean, std in zip(_IMAGENET_MEAN, self.std, strict=True))
        return red, green, blue

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, source: str, is_guess: bool = False) -> Self:
        """Read a config in the form of open_clip's ``PreprocessCfg``.

        Args:
            settings: ``mean`` and ``std``; ``interpolation`` (bicubic if missing), ``resize_mode``
                and ``fill_color``. Without a fill colour, padding is black for ``longest``, as in
                open_clip, and has the mean colour for any other mode, whose models never saw
                padding. Other keys are ignored.
            source: see the attribute.
            is_guess: see the attribute.

        Raises:
            ModelLoadError: a value is of another type or outside its range.
        """
        interpolation = settings.get("interpolation") or "bicubic"
        # open_clip and timm draw a filter at random in training alone.
        if interpolation == "random":
            interpolation = "bicubic"
        mode = settings.get("resize_mode")
        fill = settings.get("fill_color")
        if fill is None and mode == "longest":
            fill = _BLACK
        return cls(
            mean=_per_channel(settings.get("mean")),
            std=_deviation(settings.get("std")),
            interpolation=cast(
                Interpolation, _one_of(get_args(Interpolation), interpolation, "interpolation")
            ),
            resize_mode=None
            if mode is None
            else cast(ResizeMode, _one_of(get_args(ResizeMode), mode, "resize_mode")),
            fill_color=None if fill is None else _color(fill),
            source=source,
            is_guess=is_guess,
        )


def _per_channel(values: object) -> PerChannel:
    if (
        isinstance(values, (list, tuple))
        and len(values) == 3
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    ):
        red, green, blue = values
        return float(red), float(green), float(blue)
    raise ModelLoadError(
        "The mean and std in a model's config must be three numbers each, with no std of 0.",
        field="model",
    )


def _deviation(values: object) -> PerChannel:
    std = _per_channel(values)
    return std if min(std) > 0 else _per_channel(None)


def _color(value: object) -> Color:
    values = value if isinstance(value, (list, tuple)) else (value,) * 3
    if len(values) == 3 and all(
        isinstance(each, int) and 0 <= each <= _BRIGHTEST for each in values
    ):
        red, green, blue = values
        return red, green, blue
    raise ModelLoadError(
        f"The fill_color in a model's config must be a number from 0 to {_BRIGHTEST}, or three.",
        field="model",
    )


def _one_of(known: tuple[str, ...], value: object, name: str) -> str:
    if isinstance(value, str) and value in known:
        return value
    raise ModelLoadError(
        f"The {name} in a model's config must be one of {', '.join(known)}.", field="model"
    )
