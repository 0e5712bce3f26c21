"""Annotations from label maps: pictures whose pixels hold indices of classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from legrad_engine.evaluation.errors import SampleError
from legrad_engine.evaluation.samples import Annotation


def annotations_of(
    labels: NDArray[np.integer], classes: Sequence[str], *, ignored: int | None, source: object
) -> tuple[Annotation, ...]:
    """Make an annotation of each class in a label map.

    Args:
        labels: [height, width]: 0 for none of the classes, else 1 + the index of a class.
        classes: names of the classes.
        ignored: label of pixels that count nowhere; None if there is none.
        source: the file, for the error.

    Raises:
        SampleError: a label is of no class.
    """
    present = [int(label) for label in np.unique(labels) if label != 0 and label != ignored]
    unknown = [label for label in present if label > len(classes)]
    if unknown:
        raise SampleError(
            f"{source} has the label {unknown[0]}, but there are {len(classes)} classes.",
            field="data",
        )
    without = None if ignored is None else labels == ignored
    return tuple(
        Annotation(classes[label - 1], label - 1, mask=labels == label, ignored=without)
        for label in present
    )
