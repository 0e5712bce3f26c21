"""The raw outcome of the use case: arrays, encoded pictures and numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from legrad_engine.families import Score
from legrad_engine.images.geometry import Geometry
from service.explaining.targets import TargetName
from service.pictures.drawing import DrawnTarget


@dataclass(frozen=True, slots=True)
class MethodUse:
    """The explanation method of a command, on its model.

    Attributes:
        name: its name.
        targeted: whether the map depends on the target.
        note: how it is defined for the model, if that is not evident.
    """

    name: str
    targeted: bool
    note: str | None


@dataclass(frozen=True, slots=True)
class ExplainedTarget:
    """One target of one picture.

    Attributes:
        name: name of the target in an answer.
        similarity: cosine between picture and target, as the model serves it.
        probability: the model's probability, or None if it gives none.
        presence: calibrated probability that the picture shows the thing that a text names; None
            for other targets, and for a model without calibration.
        drawn: the heatmap with its encoded pictures, regions and statistics.
        measured: the target's results of measurements, by their names.
    """

    name: TargetName
    similarity: float
    probability: float | None
    presence: float | None
    drawn: DrawnTarget
    measured: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExplainedImage:
    """One picture.

    Attributes:
        geometry: how the patch grid maps to the picture.
        batch_size: number of images that were computed together with it.
        cached: whether the cached trace of an equal picture was used.
        method: the method that made the maps.
        targets: one for each target, in order; or one for each head.
        measured: the picture's results of measurements, by their names.
    """

    geometry: Geometry
    batch_size: int
    cached: bool
    method: MethodUse
    targets: Sequence[ExplainedTarget]
    measured: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Seconds of each stage, for the slowest of several images.

    Attributes:
        decode: decoding and fitting; 0 if not needed.
        queue: waiting for the worker.
        compute: the model and LeGrad, for the whole batch.
        render: drawing and encoding.
        total: from the arrival of the request to the outcome.
    """

    decode: float
    queue: float
    compute: float
    render: float
    total: float


@dataclass(frozen=True, slots=True)
class ExplainOutcome:
    """The explanations of a command's pictures, in order.

    Attributes:
        model: id of the model.
        layers: indices of the explained blocks.
        score: the explained score.
        cached_prompts: number of texts whose embedding was cached.
        images: one for each picture.
        seconds: seconds of each stage.
    """

    model: str
    layers: tuple[int, ...]
    score: Score
    cached_prompts: int
    images: Sequence[ExplainedImage]
    seconds: StageSeconds

    @property
    def target_count(self) -> int:
        """Number of maps, those of all pictures."""
        return sum(len(image.targets) for image in self.images)
