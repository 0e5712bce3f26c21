"""Media types of the pictures in answers, and the endings of their files."""

from typing import Literal

from legrad_engine.images import file_formats
from legrad_engine.images.file_formats import HeatmapFormat, PictureFormat

PictureType = Literal["image/jpeg", "image/webp", "image/png"]
HeatmapType = Literal["image/png", "image/jpeg", "image/webp", "application/x-npy"]

PICTURE_TYPES: dict[PictureFormat, PictureType] = {
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "png": "image/png",
}
"""The media type of each format of overlays, the default one first."""

HEATMAP_TYPES: dict[HeatmapFormat, HeatmapType | None] = {
    "png": "image/png",
    "png16": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    # NumPy has not registered one.
    "npy": "application/x-npy",
    "none": None,
}
"""The media type of each format of heatmaps."""

ENDINGS: dict[HeatmapType, str] = {
    **{PICTURE_TYPES[name]: ending for name, ending in file_formats.ENDINGS.items()},
    "application/x-npy": ".npy",
}
"""The ending of a file of each media type."""
