"""Fidelity of fast decoding: maps and scores of example photographs against exact decoding."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.report import Row
from legrad_engine import Explainer, Explanation
from legrad_engine.images.decoding import decode
from service.pictures.decoding import decode_picture
from service.settings.values import DecodingName, PictureRules

PHOTOGRAPHS = ("astronaut.jpg", "cat.jpg", "coffee.webp", "photographer.png", "rocket.jpg")
PROMPTS = ("a cat", "a person", "a cup of coffee", "the sky")
# The examples are small; a camera's pictures have a few thousand pixels a side.
SCALES = (1, 4)
LEAST_CORRELATION, LARGEST_DIFFERENCE = 0.9995, 1e-3
_EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Agreement of fast and exact decoding for one picture.

    Attributes:
        correlation: the lowest correlation of the maps of a prompt.
        difference: the largest difference of the scores of a prompt.
    """

    correlation: float
    difference: float


def measure() -> list[Row]:
    """Compare both ways of decoding with the built-in model."""
    explainer = Explainer.load("starter")
    found = {
        f"{name} x {scale}": compare(explainer, photograph(name, scale))
        for name in PHOTOGRAPHS
        for scale in SCALES
    }
    return [
        Row(
            "fast decoding / exact decoding, lowest correlation of maps",
            min(each.correlation for each in found.values()),
            LEAST_CORRELATION,
            bound="at least",
            unit="correlation",
            details={name: each.correlation for name, each in found.items()},
        ),
        Row(
            "fast decoding - exact decoding, largest difference of scores",
            max(each.difference for each in found.values()),
            LARGEST_DIFFERENCE,
            unit="similarity",
            details={name: each.difference for name, each in found.items()},
        ),
    ]


def photograph(name: str, scale: int) -> bytes:
    """Enlarge an example photograph, as a JPEG file."""
    picture = decode(_EXAMPLES / name)
    size = picture.width * scale, picture.height * scale
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def compare(explainer: Explainer, encoded: bytes) -> Fidelity:
    """Explain a picture decoded in both ways."""
    fast, exact = (_explained(explainer, encoded, decoding) for decoding in ("fast", "exact"))
    return Fidelity(
        min(
            float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
            for one, other in zip(fast.maps, exact.maps, strict=True)
        ),
        float(np.abs(fast.similarities - exact.similarities).max()),
    )


def _explained(explainer: Explainer, encoded: bytes, decoding: DecodingName) -> Explanation:
    rules = PictureRules(64_000_000, decoding=decoding)
    decoded = decode_picture(encoded, rules, explainer.input_rules(), None, None)
    assert decoded.prepared is not None
    (explained,) = explainer.attribute(explainer.trace([decoded.prepared]), PROMPTS)
    return explained
