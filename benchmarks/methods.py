"""Explaining by each method / a plain forward pass, on ViT-B/16.

Pixels and target vectors are computed beforehand, as in the rows of LeGrad.
"""

from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch

from benchmarks import workload
from benchmarks.report import Row
from benchmarks.timing import details, interleave, ratio, timed
from legrad_engine import Explainer
from legrad_engine.images.inputs import PreparedImage

TARGETS = (1, 8)
# Of methods that explain the last block alone: the target ratio by number of targets.
LAST_BLOCK = {1: 1.15, 8: 1.30}


@torch.no_grad()
def measure(weights: Path, repeats: int) -> list[Row]:
    """Measure every method that the model offers against open_clip's own ``encode_image``."""
    explainer = Explainer.load(workload.ARCHITECTURE, str(weights))
    plain: Any = open_clip.create_model(
        workload.ARCHITECTURE, pretrained=str(weights), weights_only=True
    ).eval()
    size, _ = explainer.own_size
    prepared = explainer.prepare(workload.picture(size, size))
    encode = partial(timed, partial(plain.encode_image, explainer.input_of([prepared])))
    rows = []
    for method in explainer.methods:
        works = {
            f"{count} targets": partial(
                timed, partial(_explain, explainer, prepared, method.name, count)
            )
            for count in TARGETS
        }
        samples = interleave({"plain": encode, **works}, repeats)
        last_block = method.layers(explainer.tower, None) == (explainer.tower.depth - 1,)
        for count, name in zip(TARGETS, works, strict=True):
            noun = "target" if count == 1 else "targets"
            rows.append(
                Row(
                    f"{method.name}, {size} px, {count} {noun} / plain encode_image",
                    ratio(samples, name, "plain"),
                    LAST_BLOCK[count] if last_block else None,
                    details=details(samples, name, "plain"),
                )
            )
    return rows


def _explain(explainer: Explainer, prepared: PreparedImage, method: str, count: int) -> None:
    trace = explainer.trace([prepared], method=method)
    explainer.attribute(trace, workload.targets(count))
