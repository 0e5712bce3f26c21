"""Explaining / a plain forward pass, on architectures other than ViT-B/16.

Weights are random, which does not affect timing.
"""

from functools import partial
from typing import Any

import open_clip
import torch

from benchmarks import workload
from benchmarks.report import Row
from benchmarks.seeded_models import open_clip_model
from benchmarks.timing import details, interleave, ratio, timed
from legrad_engine import Explainer
from legrad_engine.images.inputs import PreparedImage

# By architecture: its name in the table, and the target ratio by number of targets. The general
# route has no target ratio for 8 targets, because each one needs a backward pass through blocks.
ARCHITECTURES: dict[str, tuple[str, dict[int, float | None]]] = {
    "ViT-B-16-SigLIP": ("SigLIP ViT-B/16, pooler route", {1: 1.10, 8: 1.10}),
    "EVA02-B-16": ("EVA02-B/16, general route", {1: 1.50, 8: None}),
}


def measure(repeats: int) -> list[Row]:
    """Measure explaining one picture against open_clip's own ``encode_image`` of it."""
    rows = []
    for architecture, (name, goals) in ARCHITECTURES.items():
        explainer = _explainer(architecture)
        plain: Any = explainer.model
        size, _ = explainer.own_size
        prepared = explainer.prepare(workload.picture(size, size))
        works: dict[str, Any] = {
            "plain": partial(plain.encode_image, explainer.input_of([prepared])),
            **{
                f"{count} targets": partial(_explain, explainer, prepared, count) for count in goals
            },
        }
        samples = interleave(
            {key: torch.no_grad()(partial(timed, work)) for key, work in works.items()}, repeats
        )
        for count, goal in goals.items():
            key = f"{count} targets"
            noun = "target" if count == 1 else "targets"
            rows.append(
                Row(
                    f"{name}, {size} px, {count} {noun} / plain encode_image",
                    ratio(samples, key, "plain"),
                    goal,
                    details=details(samples, key, "plain"),
                )
            )
    return rows


def _explainer(architecture: str) -> Explainer:
    model = open_clip_model(architecture)
    return Explainer(model, open_clip.get_tokenizer(workload.ARCHITECTURE), name=architecture)


def _explain(explainer: Explainer, prepared: PreparedImage, count: int) -> None:
    vectors = workload.targets(count, explainer.tower.embedding_size)
    explainer.attribute(explainer.trace([prepared]), vectors)
