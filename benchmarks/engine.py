"""Engine benchmarks: explaining / a plain forward pass, and the reference / this engine.

Pixels and target vectors are computed beforehand: no row includes decoding or the text tower.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from benchmarks import workload
from benchmarks.reference import ReferenceProcess
from benchmarks.report import Row
from benchmarks.timing import details, interleave, ratio, timed
from legrad_engine import Explainer
from legrad_engine.images.inputs import PreparedImage

SIZES = (224, 448)
TARGETS = 8
# By (size, targets): the target ratio, and the ratio of the multiplications alone.
OVER_PLAIN = {
    (224, 1): (1.12, 1.07),
    (224, 8): (1.75, 1.56),
    (448, 1): (1.15, 1.07),
    (448, 8): (1.75, 1.57),
}
HELD_TRACE_OVER_PLAIN = (0.75, 0.56)
REFERENCE_OVER_OURS = 5.0


def measure_over_plain(weights: Path, repeats: int) -> list[Row]:
    """Measure explaining, and attribution on a held trace, against open_clip's ``encode_image``."""
    explainer = Explainer.load(workload.ARCHITECTURE, str(weights))
    rows: list[Row] = []
    held: list[Row] = []
    for size in SIZES:
        # Built for this size, so that the plain forward pass is open_clip's own code.
        plain: Any = open_clip.create_model(
            workload.ARCHITECTURE,
            pretrained=str(weights),
            force_image_size=size,
            weights_only=True,
        ).eval()
        prepared = _prepared(explainer, size)
        trace = explainer.trace([prepared])
        vectors = {f"{count} targets": workload.targets(count) for count in (1, TARGETS)}
        many = vectors[f"{TARGETS} targets"]
        samples = interleave(
            {
                "plain": _timer(plain.encode_image, explainer.input_of([prepared])),
                **{
                    name: _timer(_explain, explainer, prepared, targets)
                    for name, targets in vectors.items()
                },
                "held trace": _timer(explainer.attribute, trace, many),
            },
            repeats,
        )
        for (name, targets), noun in zip(vectors.items(), ("target", "targets"), strict=True):
            target, floor = OVER_PLAIN[size, len(targets)]
            rows.append(
                Row(
                    f"{size} px, {len(targets)} {noun} / plain encode_image",
                    ratio(samples, name, "plain"),
                    target,
                    floor=floor,
                    details=details(samples, name, "plain"),
                )
            )
        if (size, size) == explainer.own_size:
            target, floor = HELD_TRACE_OVER_PLAIN
            held.append(
                Row(
                    f"{TARGETS} new targets on a held trace / plain, {size} px",
                    ratio(samples, "held trace", "plain"),
                    target,
                    floor=floor,
                    details=details(samples, "held trace", "plain"),
                )
            )
    return rows + held


def measure_against_reference(weights: Path, repeats: int) -> list[Row]:
    """Measure the authors' code against this engine in turns, with the same torch and threads."""
    explainer = Explainer.load(workload.ARCHITECTURE, str(weights))
    targets = workload.targets(TARGETS)
    rows = []
    with ReferenceProcess(weights, TARGETS) as reference:
        for size in SIZES:
            samples = interleave(
                {
                    "reference": partial(reference.explain, size),
                    "ours": _timer(_explain, explainer, _prepared(explainer, size), targets),
                },
                repeats,
            )
            rows.append(
                Row(
                    f"reference (legrad_torch) / ours, {TARGETS} targets, {size} px",
                    ratio(samples, "reference", "ours"),
                    REFERENCE_OVER_OURS,
                    "at least",
                    details=details(samples, "reference", "ours"),
                )
            )
    return rows


def _prepared(explainer: Explainer, size: int) -> PreparedImage:
    return explainer.prepare(workload.picture(size, size), size)


def _explain(explainer: Explainer, prepared: PreparedImage, targets: Tensor) -> None:
    explainer.attribute(explainer.trace([prepared]), targets)


def _timer(work: Callable[..., object], *arguments: Any) -> Callable[[], float]:
    return torch.no_grad()(partial(timed, partial(work, *arguments)))
