"""The raw outcome of the use case: arrays, encoded pictures and numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from legrad_engine.families import Score
from legrad_engine.images.geometry import Geometry
from service.explaining.targets import TargetName
from service.pictures.drawing import DrawnTarget


@dataclass(frozen=True, slots=True)
class ExplainedTarget:
    """One target of one picture.

    Attributes:
        name: name of the target in an answer.
        similarity: cosine between picture and target, as the model serves it.
        probability: the model's probability, or None if it gives none.
        drawn: the heatmap with its encoded pictures, regions and statistics.
    """

    name: TargetName
    similarity: float
    probability: float | None
    drawn: DrawnTarget


@dataclass(frozen=True, slots=True)
class ExplainedImage:
    """One picture.

    Attributes:
        geometry: how the patch grid maps to the picture.
        batch_size: number of images that were computed together with it.
        cached: whether the cached trace of an equal picture was used.
        targets: one for each target, in order.
    """

    geometry: Geometry
    batch_size: int
    cached: bool
    targets: Sequence[ExplainedTarget]


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
        """Number of targets, those of all pictures."""
        return sum(len(image.targets) for image in self.images)
