"""Wrong prompt: maps of a class that the picture does not show."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from legrad_engine.errors import InvalidOptionError
from legrad_engine.evaluation.baselines import generator_of
from legrad_engine.evaluation.metrics.ranking import auroc
from legrad_engine.evaluation.protocols.base import Figure, Protocol, Record
from legrad_engine.evaluation.protocols.segmentation import CONVENTIONS, figures, overlaps
from legrad_engine.evaluation.registry import register_protocol
from legrad_engine.evaluation.samples import DataSet
from legrad_engine.evaluation.subject import Batch, Case
from legrad_engine.images.geometry import Geometry

_MEASURES = ("mean", "maximum", "energy")


@register_protocol
class WrongPrompt(Protocol):
    """Segmentation under a wrong prompt, and whether raw maps tell it from a right one."""

    name = "wrong-prompt"
    title = "Wrong prompt"
    conventions = (
        "Each pair of picture and class has one class of the data set that the picture does not "
        "show, another one for each pair, drawn with a fixed seed; its map is compared with the "
        "mask of the present class.",
        *CONVENTIONS,
        "AUROC: the chance that the raw map of a present class has a higher mean, maximum or "
        "energy (mean square), over the patches that show the picture, than that of an absent one.",
    )
    needs = frozenset({"masks"})

    def measure(self, batch: Batch, method: str) -> Sequence[Record]:
        """See :class:`Protocol`."""
        data_set = batch.subject.data_set
        absent = [absent_classes(data_set, case) for case in batch.cases]
        wrong = batch.maps_of(absent, method)
        records = []
        for case, right_maps, wrong_maps in zip(
            batch.cases, batch.maps(method), wrong, strict=True
        ):
            geometry = case.prepared.geometry
            records.append(
                {
                    "pairs": overlaps(wrong_maps, case.sample.annotations, geometry),
                    "right": [_measures(each, geometry) for each in right_maps],
                    "wrong": [_measures(each, geometry) for each in wrong_maps],
                }
            )
        return records

    def summarize(self, records: Iterable[Record]) -> list[Figure]:
        """See :class:`Protocol`."""
        kept = list(records)
        found = [
            Figure(each.name, each.value, each.better and "lower", each.percent)
            for each in figures([pair for record in kept for pair in record["pairs"]])
        ]
        for place, name in enumerate(_MEASURES):
            right, wrong = (
                np.array([values[place] for record in kept for values in record[side]])
                for side in ("right", "wrong")
            )
            found.append(Figure(f"AUROC of the raw {name}", auroc(right, wrong)))
        return found


def absent_classes(data_set: DataSet, case: Case) -> list[int]:
    """Draw a class that a picture does not show for each of its annotations.

    Raises:
        InvalidOptionError: the picture shows all classes of the data set.
    """
    shown = {annotation.name for annotation in case.sample.annotations}
    shown.update(case.sample.also_shown)
    absent = [index for index, name in enumerate(data_set.classes) if name not in shown]
    if not absent:
        raise InvalidOptionError(
            f"{case.key} shows all classes of the data set: none is a wrong prompt.",
            field="protocol",
        )
    wanted = len(case.sample.annotations)
    # Distinct ones: the maps of some methods depend on the other targets of the picture.
    drawn = generator_of(case.key, "absent").choice(absent, wanted, replace=len(absent) < wanted)
    return [int(index) for index in drawn]


def _measures(heatmap: NDArray[np.floating], geometry: Geometry) -> list[float]:
    """Return the mean, the maximum and the energy of a raw map where it shows the picture."""
    values = heatmap[geometry.content_cells].astype(np.float64)
    return [float(values.mean()), float(values.max()), float((values**2).mean())]
