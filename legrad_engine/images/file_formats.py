"""Names and defaults of the formats of drawings. Importing this module loads no NumPy."""

from typing import Literal, get_args

PictureFormat = Literal["jpeg", "webp", "png"]
PICTURE_FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)
DEFAULT_QUALITY = 80
DEFAULT_MAX_SIDE = 1024
"""Longest side of heatmaps and overlays in pixels, where none is asked for."""

HeatmapFormat = Literal["png", "png16", "jpeg", "webp", "npy", "none"]

ENDINGS: dict[PictureFormat, str] = {"jpeg": ".jpg", "webp": ".webp", "png": ".png"}
"""The ending of a file of each format."""
