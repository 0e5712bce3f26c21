"""Attribution: from a trace and resolved targets to explanations."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from legrad_engine.errors import InvalidOptionError
from legrad_engine.explanation import Explanation
from legrad_engine.families import Tower
from legrad_engine.families.heads import at_least_float32
from legrad_engine.legrad.acceleration import Accelerator
from legrad_engine.legrad.closed_form import FoldedBlock
from legrad_engine.legrad.route import BlockTrace, attribute_block
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.probabilities import weigh
from legrad_engine.targets.resolved import ResolvedTargets
from legrad_engine.trace import Trace


@dataclass(frozen=True, slots=True)
class Attribution:
    """Computes explanations from traces with the parts of one model.

    Attributes:
        model: the model.
        tower: its image tower.
        classifier: its classifier, or None.
        folded: from the index of a block with a closed form to its folded weights.
        accelerator: the way of computing on the model's device.
    """

    model: nn.Module
    tower: Tower
    classifier: Classifier | None
    folded: Callable[[int], FoldedBlock]
    accelerator: Accelerator

    def explanations(self, trace: Trace, resolved: Sequence[ResolvedTargets]) -> list[Explanation]:
        """Compute one explanation for each traced image.

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
        explanations: dict[int, Explanation] = {}
        for images in groups.values():
            part = trace if len(images) == len(trace) else trace.select(images)
            vectors = torch.stack([rows[image] for image in images])
            maps = self._maps(part, vectors).cpu().numpy()
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
            numbers = torch.stack([similarities, probabilities]).float().cpu().numpy()
            for position, image in enumerate(images):
                count, geometry = len(resolved[image]), trace.geometries[image]
                explanations[image] = Explanation(
                    resolved[image].corrected(maps[position], geometry),
                    numbers[0, position, :count],
                    numbers[1, position, :count],
                    geometry,
                )
        return [explanations[image] for image in range(len(trace))]

    def _maps(self, trace: Trace, targets: Tensor) -> Tensor:
        """Compute maps ``[B, P, rows, columns]``, summed over layers, for targets ``[B, P, e]``."""
        head = self.tower.score_head(trace.score)
        width, height = trace.geometries[0].input_size
        tower = self.tower.at((height, width))

        def compute(blocks: tuple[BlockTrace, ...], targets: Tensor) -> Tensor:
            product = self.accelerator.product
            maps = (
                attribute_block(tower, index, block, head, targets, self.folded, product)
                for index, block in zip(trace.layers, blocks, strict=True)
            )
            return reduce(torch.add, maps)

        if not trace.layers:
            raise InvalidOptionError("The trace holds no layer.", field="layers")
        total = self.accelerator.run(
            (width, height), ("maps", trace.layers, trace.score), compute, trace.blocks, targets
        )
        return total.reshape(*total.shape[:2], *trace.geometries[0].grid)
