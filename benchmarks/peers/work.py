"""Work of every peer for one request: the service's request format, and the same outputs."""

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from benchmarks import workload
from legrad_engine import Explainer, Explanation
from legrad_engine.images.geometry import drawing_size
from service.pictures.drawing import DrawingRules, draw


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
        _answer(each, picture, DrawingRules.of(body["output"]))
        for each, picture, body in zip(found, pictures, bodies, strict=True)
    ]


def _answer(found: Explanation, picture: bytes, rules: DrawingRules) -> dict[str, Any]:
    canvas = None
    if rules.overlay:
        decoded = Image.open(io.BytesIO(picture)).convert("RGB")
        canvas = decoded.resize(drawing_size(decoded.size, rules.max_side))
    drawn = draw(found.maps, found.geometry, canvas, rules).targets
    return {
        "similarities": found.similarities.tolist(),
        "heatmaps": [_text(each.heatmap) for each in drawn],
        "overlays": [_text(each.overlay) for each in drawn],
    }


def _text(encoded: bytes | None) -> str | None:
    return None if encoded is None else base64.b64encode(encoded).decode()
