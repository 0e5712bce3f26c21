"""Work of every peer for one request: the service's request format, and numbers as the answer."""

import base64
from collections.abc import Sequence
from typing import Any

from benchmarks import workload
from legrad_engine import Explainer
from legrad_engine.images.encoding import encode_npy


def load(name: str, pretrained: str | None) -> Explainer:
    """Load the explainer on the CPU and explain once, as the service does to warm up."""
    explainer = Explainer.load(name, pretrained, device="cpu")
    explainer.explain(workload.picture(*explainer.own_size), ["a cat"])
    return explainer


def explain(explainer: Explainer, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answer bodies with the same prompts as one batch."""
    pictures = [base64.b64decode(body["image"]) for body in bodies]
    found = explainer.explain(pictures, bodies[0]["prompts"])
    return [
        {
            "similarities": each.similarities.tolist(),
            "heatmaps": [base64.b64encode(encode_npy(map_)).decode() for map_ in each.maps],
        }
        for each in found
    ]
