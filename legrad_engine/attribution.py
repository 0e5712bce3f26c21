"""Attribution: from a trace and resolved targets to explanations."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from legrad_engine.errors import InvalidOptionError
from legrad_engine.explanation import Explanation
from legrad_engine.families import Tower
from legrad_engine.families.heads import at_least_float32
from legrad_engine.images.geometry import Geometry
from legrad_engine.legrad.closed_form import FoldedBlock
from legrad_engine.legrad.route import attribute_block
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
        folded: from the index of a block with a closed form to its folded weights.
    """

    model: nn.Module
    tower: Tower
    classifier: Classifier | None
    folded: Callable[[int], FoldedBlock]

    def launch(self, trace: Trace, resolved: Sequence[ResolvedTargets]) -> "PendingExplanations":
        """Begin to compute one explanation for each traced image; do not wait for the device.

        Args:
            trace: a trace of B images, made by the same model.
            resolved: the targets of each of the B images; their numbers may differ.

        Raises:
            InvalidOptionError: the trace was made by another model.
        """
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
            computed += [self._maps(part, vectors), similarities, probabilities]
        download = Download.start(computed)
        return PendingExplanations(
            download, tuple(map(tuple, groups.values())), tuple(resolved), trace.geometries
        )

    def _maps(self, trace: Trace, targets: Tensor) -> Tensor:
        """Compute maps ``[B, P, rows, columns]``, summed over layers, for targets ``[B, P, e]``."""
        head = self.tower.score_head(trace.score)
        width, height = trace.geometries[0].input_size
        tower = self.tower.at((height, width))
        total: Tensor | None = None
        for index, block in zip(trace.layers, trace.blocks, strict=True):
            maps = attribute_block(tower, index, block, head, targets, self.folded)
            total = maps if total is None else total + maps
        if total is None:
            raise InvalidOptionError("The trace holds no layer.", field="layers")
        return total.reshape(*total.shape[:2], *trace.geometries[0].grid)
