"""Names of the formats of heatmaps and overlays. Importing this module loads no NumPy."""

from typing import Literal, get_args

PictureFormat = Literal["jpeg", "webp", "png"]
PICTURE_FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)
DEFAULT_QUALITY = 85

HeatmapFormat = Literal["png", "png16", "jpeg", "webp", "npy", "none"]

ENDINGS: dict[PictureFormat, str] = {"jpeg": ".jpg", "webp": ".webp", "png": ".png"}
"""The ending of a file of each format."""
