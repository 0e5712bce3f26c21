"""Media types of the pictures in answers, and the endings of their files."""

from typing import Literal

from legrad_engine.images.encoding import HeatmapFormat, PictureFormat

PictureType = Literal["image/jpeg", "image/webp", "image/png"]
HeatmapType = Literal["image/png", "image/jpeg", "image/webp", "application/x-npy"]

PICTURE_TYPES: dict[PictureFormat, PictureType] = {
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "png": "image/png",
}
"""The media type of each format of overlays, the default one first."""

HEATMAP_TYPES: dict[HeatmapFormat, HeatmapType | None] = {
    **PICTURE_TYPES,
    "png16": "image/png",
    # NumPy has not registered one.
    "npy": "application/x-npy",
    "none": None,
}
"""The media type of each format of heatmaps."""

ENDINGS: dict[HeatmapType, str] = {
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/png": ".png",
    "application/x-npy": ".npy",
}
"""The ending of a file of each media type."""
