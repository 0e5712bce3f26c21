"""What every peer does for one request: the service's own question, and numbers as the answer."""

import base64
from collections.abc import Sequence
from typing import Any

from benchmarks import workload
from legrad_engine import Explainer
from legrad_engine.images.rendering import encode_npy


def load(name: str, pretrained: str | None) -> Explainer:
    """The explainer on the CPU, after one explanation, as the service warms it up."""
    explainer = Explainer.load(name, pretrained, device="cpu")
    explainer.explain(workload.picture(*explainer.own_size), ["a cat"])
    return explainer


def explain(explainer: Explainer, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers bodies that ask all the same prompts, as one batch."""
    pictures = [base64.b64decode(body["image"]) for body in bodies]
    found = explainer.explain(pictures, bodies[0]["prompts"])
    return [
        {
            "similarities": each.similarities.tolist(),
            "heatmaps": [base64.b64encode(encode_npy(map_)).decode() for map_ in each.maps],
        }
        for each in found
    ]
