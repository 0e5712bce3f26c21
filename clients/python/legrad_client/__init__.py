"""Python client for legrad-service: heatmaps as NumPy arrays, overlays as Pillow images.

::

    from legrad_client import LegradClient

    with LegradClient("http://localhost:8000") as client:
        explanation = client.explain("cat.jpg", ["a cat", "a dog"])
        explanation["a cat"].map      # float32 [rows, columns], raw
        explanation["a cat"].overlay  # PIL.Image

The package imports neither torch nor the service.
"""

from legrad_client.answers import Explanation, ModelClass, ModelDescription, TargetExplanation
from legrad_client.clients import AsyncLegradClient, LegradClient
from legrad_client.errors import ClientError, DeadlineError, RefusedError, UnreachableError
from legrad_client.requests import ImageLike

__all__ = [
    "AsyncLegradClient",
    "ClientError",
    "DeadlineError",
    "Explanation",
    "ImageLike",
    "LegradClient",
    "ModelClass",
    "ModelDescription",
    "RefusedError",
    "TargetExplanation",
    "UnreachableError",
]
