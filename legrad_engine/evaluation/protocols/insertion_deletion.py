"""Insertion and deletion: how a score follows the pixels that a map calls important."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.baselines import generator_of, random_map
from legrad_engine.evaluation.metrics.faithfulness import blur
from legrad_engine.evaluation.metrics.perturbation import area, first, order_of
from legrad_engine.evaluation.protocols.base import Better, Figure, Protocol, Record, enlarged
from legrad_engine.evaluation.protocols.faithfulness import (
    CURVE_SHARES,
    SCORES,
    Pixels,
    comparisons,
    content_of,
    neutral_of,
    replaced,
    scorer,
)
from legrad_engine.evaluation.registry import register_protocol
from legrad_engine.evaluation.subject import Batch, Case

_FIGURES: tuple[tuple[str, Better], ...] = (("deletion", "lower"), ("insertion", "higher"))

Areas = Mapping[str, Mapping[str, float]]
"""Areas by the name of the score, then of the curve."""


@register_protocol
class InsertionDeletion(Protocol):
    """Both curves of the faithfulness protocol alone, at a sixth of its cost."""

    name = "insertion-deletion"
    title = "Insertion and deletion"
    conventions = (
        "Deletion and insertion of the faithfulness protocol, in the same steps and with the same "
        "score, without ROAD and SaCo.",
        "One random order for each class of a picture is measured once for all methods.",
    )
    needs = frozenset({"class", "masks", "boxes", "points"})
    compares_classes = True

    def measure(self, batch: Batch, method: str) -> Sequence[Record]:
        """See :class:`Protocol`."""
        records = []
        for case, maps in zip(batch.cases, batch.maps(method), strict=True):
            heatmaps = enlarged(maps, case.prepared.geometry)
            records.append(
                {
                    "pairs": [
                        _pair(batch, case, heatmap, annotation.index)
                        for heatmap, annotation in zip(
                            heatmaps, case.sample.annotations, strict=True
                        )
                    ]
                }
            )
        return records

    def summarize(self, records: Iterable[Record]) -> list[Figure]:
        """See :class:`Protocol`."""
        pairs = [pair for record in records for pair in record["pairs"]]
        figures = []
        for each in comparisons(pairs, _FIGURES):
            figures += [
                Figure(each.title, each.own, each.better),
                Figure(f"{each.title}, less random", each.gain, each.better),
            ]
        return [*figures, Figure("pairs", float(len(pairs)), None, percent=False)]


def _pair(batch: Batch, case: Case, heatmap: NDArray[np.float32], index: int) -> Record:
    """Measure a map and the random order of the same picture and class."""
    score = scorer(batch.subject, case, index)
    pixels = content_of(batch.subject, case)
    neutral = neutral_of(batch.subject)
    blurred = blur(pixels)
    key = (InsertionDeletion.name, case.key, str(index))
    # No pixel changed, all of them the mean colour, all of them blurred: the same for every order.
    ends = batch.once(
        (*key, "ends"),
        lambda: score([pixels, np.broadcast_to(neutral, pixels.shape), blurred]).astype(np.float64),
    )

    def areas(order: NDArray[np.intp]) -> Areas:
        shape = (heatmap.shape[0], heatmap.shape[1])
        selections = [first(order, share, shape) for share in CURVE_SHARES[1:-1]]
        changed: list[Pixels] = [replaced(pixels, selected, neutral) for selected in selections]
        changed += [replaced(blurred, selected, pixels) for selected in selections]
        found: dict[str, dict[str, float]] = {}
        for name, column, end in zip(SCORES, score(changed).T, ends.T, strict=True):
            whole, empty, blank = end
            deleted, inserted = np.split(column.astype(np.float64), 2)
            found[name] = {
                "deletion": area(CURVE_SHARES, [whole, *deleted, empty]),
                "insertion": area(CURVE_SHARES, [blank, *inserted, whole]),
            }
        return found

    def random_areas() -> Areas:
        generator = generator_of(case.key, str(index), "faithfulness")
        noise = random_map(case.prepared.geometry.grid, generator)[np.newaxis]
        return areas(order_of(enlarged(noise, case.prepared.geometry)[0]))

    return {"map": areas(order_of(heatmap)), "random": batch.once((*key, "random"), random_areas)}
