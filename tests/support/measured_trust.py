"""Trust in the maps of small seeded models, measured by the engine alone."""

from typing import Any

import numpy as np
from PIL import Image

from legrad_engine import Explainer, Explanation
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.measurements.base import Measured
from legrad_engine.measurements.batches import explain_and_measure
from legrad_engine.measurements.trust.levels import TrustLevel
from legrad_engine.measurements.trust.measurement import TargetTrust, Trust
from tests.support.pictures import picture

PROMPTS = ["a cat", "two dogs on a sofa"]


def prepared(explainer: Explainer, *seeds: int, **options: Any) -> list[PreparedImage]:
    width, height = explainer.own_size
    return [
        explainer.prepare(picture(width, height, seed=seed), **options) for seed in seeds or (1,)
    ]


def trust_of(
    explainer: Explainer,
    images: list[PreparedImage],
    level: TrustLevel,
    targets: Any = None,
    **options: Any,
) -> list[tuple[Explanation, list[TargetTrust]]]:
    """Return the explanation and each target's trust of every picture."""
    found = []
    for explanation, results in explain_and_measure(
        explainer, images, targets or PROMPTS, [Trust(level)], **options
    ):
        assert not isinstance(results, Exception)
        found.append((explanation, _of_targets(results["trust"])))
    return found


def _of_targets(measured: Measured | None) -> list[TargetTrust]:
    targets = () if measured is None else measured.targets or ()
    return [each for each in targets if isinstance(each, TargetTrust)]


def mirrored(image: PreparedImage) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.pixels[:, ::-1]))
