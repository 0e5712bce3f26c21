"""Attribution: from a trace and resolved targets to explanations."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from legrad_engine.errors import InvalidOptionError
from legrad_engine.explanation import Explanation
from legrad_engine.families import Tower
from legrad_engine.families.heads import at_least_float32
from legrad_engine.images.geometry import Geometry
from legrad_engine.legrad.acceleration import Accelerator
from legrad_engine.methods import Heads
from legrad_engine.methods.base import BlockTrace, Method, ModelParts
from legrad_engine.methods.registry import find_method
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.probabilities import weigh
from legrad_engine.targets.resolved import ResolvedTargets
from legrad_engine.trace import Trace
from legrad_engine.transfers import Download


@dataclass(frozen=True, slots=True)
class PendingExplanations:
    """Explanations that the device computes.

    Attributes:
        download: maps, similarities and probabilities of each group, on their way to the host.
        groups: the images of each group.
        resolved: the targets of each image.
        geometries: the geometry of each image.
    """

    download: Download
    groups: tuple[tuple[int, ...], ...]
    resolved: tuple[ResolvedTargets, ...]
    geometries: tuple[Geometry, ...]

    @property
    def done(self) -> bool:
        """Whether :meth:`finish` returns without waiting for the device."""
        return self.download.done

    def finish(self) -> list[Explanation]:
        """Wait for the device; return one explanation for each image."""
        arrays = iter([tensor.numpy() for tensor in self.download.wait()])
        explanations: dict[int, Explanation] = {}
        for images in self.groups:
            maps, similarities, probabilities = next(arrays), next(arrays), next(arrays)
            for position, image in enumerate(images):
                count, geometry = len(self.resolved[image]), self.geometries[image]
                explanations[image] = Explanation(
                    self.resolved[image].corrected(maps[position], geometry),
                    similarities[position, :count].astype(np.float32),
                    probabilities[position, :count].astype(np.float32),
                    geometry,
                )
        return [explanations[image] for image in range(len(self.geometries))]


@dataclass(frozen=True, slots=True)
class Attribution:
    """Computes explanations from traces with the parts of one model.

    Attributes:
        model: the model.
        tower: its image tower.
        classifier: its classifier, or None.
        parts: parts of the model that are computed once.
        accelerator: the way of computing on the model's device.
    """

    model: nn.Module
    tower: Tower
    classifier: Classifier | None
    parts: ModelParts
    accelerator: Accelerator

    def launch(
        self, trace: Trace, resolved: Sequence[ResolvedTargets], heads: Heads = "mean"
    ) -> "PendingExplanations":
        """Begin to compute one explanation for each traced image; do not wait for the device.

        Args:
            trace: a trace of B images, made by the same model.
            resolved: the targets of each of the B images; their numbers may differ.
            heads: whether the maps of an image are those of its targets or of the heads.

        Raises:
            InvalidOptionError: the trace was made by another model, or the trace's method does not
                do what the question asks for.
        """
        method = find_method(trace.method, self.tower)
        for each in resolved:
            method.check(heads, len(each), negatives=each.negatives is not None)
        groups: defaultdict[int, list[int]] = defaultdict(list)
        rows = [each.rows for each in resolved]
        for image, vectors in enumerate(rows):
            groups[len(vectors)].append(image)
        computed: list[Tensor] = []
        for images in groups.values():
            part = trace if len(images) == len(trace) else trace.select(images)
            vectors = torch.stack([rows[image] for image in images])
            similarities = torch.einsum(
                "be,bpe->bp", at_least_float32(part.embeddings), at_least_float32(vectors)
            )
            probabilities = weigh(
                self.model,
                self.classifier,
                part.features,
                similarities,
                [resolved[image] for image in images],
            )
            computed += [self._maps(method, part, vectors, heads), similarities, probabilities]
        download = Download.start(computed)
        return PendingExplanations(
            download, tuple(map(tuple, groups.values())), tuple(resolved), trace.geometries
        )

    def _maps(self, method: Method[Any], trace: Trace, targets: Tensor, heads: Heads) -> Tensor:
        """Compute maps ``[B, P or heads, rows, columns]`` for targets ``[B, P, e]``."""
        if not trace.layers:
            raise InvalidOptionError("The trace holds no layer.", field="layers")
        head = self.tower.score_head(trace.score)
        width, height = trace.geometries[0].input_size
        tower = self.tower.at((height, width))

        def compute(blocks: tuple[BlockTrace, ...], targets: Tensor) -> Tensor:
            if heads == "each":
                return method.head_maps(tower, blocks, trace.layers)
            return method.maps(tower, blocks, trace.layers, head, targets, self.parts)

        key = ("maps", trace.method, heads, trace.layers, trace.score)
        total = self.accelerator.run((width, height), key, compute, trace.blocks, targets)
        return total.reshape(*total.shape[:2], *trace.geometries[0].grid)
