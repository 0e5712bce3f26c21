"""One served model: its worker, what the worker computes, and what is known about it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from legrad_engine import Explainer, Explanation, LegradError
from legrad_engine.devices import dtype_name, is_out_of_memory, release_cached_memory
from legrad_engine.errors import InvalidTargetError
from legrad_engine.families import Score
from legrad_engine.geometry import Geometry
from legrad_engine.images import PreparedImage
from legrad_engine.models import ModelReference
from legrad_engine.questions import Question
from legrad_engine.resolution import TextCount
from legrad_engine.resolved import ResolvedTargets
from legrad_engine.targets import ImageTarget
from legrad_engine.text import Templates
from service.batching import BatcherState, BatchLimits, MicroBatcher
from service.metrics import BatchMetrics, Metrics
from service.schemas import Grid, ModelInfo, ModelState, Size
from service.settings import Settings

# A walk back through one block costs about 0.42 of a forward pass through it, for each target.
_WALK_BACK_SHARE = 0.42
# A short prompt in a text tower of the usual proportions, against its image tower.
_TEXT_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class ExplainItem:
    """One picture with what is asked of it, ready for the worker.

    Attributes:
        digest: identifies the picture's bytes, so that equal pictures share one forward pass.
        prepared: the picture as the model will see it.
        question: what to look for; it is checked, and its pictures are prepared.
        layers: resolved block indices.
        score: the explained score.
        templates: prompt templates.
    """

    digest: bytes
    prepared: PreparedImage
    question: Question
    layers: tuple[int, ...]
    score: Score
    templates: Templates

    @property
    def bucket(self) -> tuple[object, ...]:
        """Items with an equal bucket can be computed in one batch."""
        return (self.prepared.geometry.input_size, self.layers, self.score, self.templates)


class ExplainProcessor:
    """Loads a model on the worker's thread and computes batches with it."""

    def __init__(self, reference: ModelReference, settings: Settings, metrics: Metrics) -> None:
        self._reference = reference
        self._settings = settings
        self._metrics = metrics
        self.explainer: Explainer | None = None
        self.error: str | None = None

    def start(self) -> None:
        """Loads the model, unless a worker before this one has, and warms it up."""
        model = self._reference.id
        try:
            if self.explainer is None:
                explainer = Explainer.load(
                    self._reference.name,
                    self._reference.pretrained,
                    device=self._settings.device,
                    dtype=self._settings.dtype,
                )
                _warm_up(explainer)
                self.explainer = explainer
        except Exception as error:
            self.error = str(error) or type(error).__name__
            raise
        self.error = None
        self._metrics.model_bytes.labels(model).set(self.explainer.nbytes)
        self._metrics.model_loaded.labels(model).set(1)

    def process(self, items: Sequence[ExplainItem]) -> Sequence[Explanation | Exception]:
        """One explanation for each item; all are of one bucket."""
        explainer = self.explainer
        if explainer is None:
            raise RuntimeError("The worker computes only after it has started.")
        first = items[0]
        try:
            started = time.perf_counter()
            answers = _resolve(explainer, items)
            started = self._observe("text", started)
            resolved = [each for each in answers if isinstance(each, ResolvedTargets)]
            if not resolved:
                return [each for each in answers if isinstance(each, LegradError)]
            items = [
                item
                for item, each in zip(items, answers, strict=True)
                if isinstance(each, ResolvedTargets)
            ]
            keys = [(item.digest, item.prepared.geometry) for item in items]
            distinct = dict(zip(keys, (item.prepared for item in items), strict=True))
            trace = explainer.trace(list(distinct.values()), layers=first.layers, score=first.score)
            if len(distinct) < len(items):
                place_of = {key: place for place, key in enumerate(distinct)}
                trace = trace.select([place_of[key] for key in keys])
            started = self._observe("forward", started)
            explanations = iter(explainer.attribute(trace, resolved))
            self._observe("backward", started)
        except Exception as error:
            if is_out_of_memory(error):
                release_cached_memory()
            raise
        return [each if isinstance(each, LegradError) else next(explanations) for each in answers]

    def stop(self) -> None:
        """The model itself is kept: a worker that replaces this one starts at once."""
        self._metrics.model_loaded.labels(self._reference.id).set(0)

    def _observe(self, stage: str, started: float) -> float:
        now = time.perf_counter()
        self._metrics.compute.labels(self._reference.id, stage).observe(now - started)
        return now


class ServedModel:
    """A model with its worker."""

    def __init__(
        self, reference: ModelReference, settings: Settings, metrics: Metrics, *, default: bool
    ) -> None:
        self.id = reference.id
        self._reference = reference
        self._default = default
        self._processor = ExplainProcessor(reference, settings, metrics)
        self.batcher: MicroBatcher[ExplainItem, Explanation] = MicroBatcher(
            reference.id,
            self._processor,
            BatchLimits(
                max_batch_items=settings.max_batch_images,
                max_batch_cost=settings.max_batch_cost,
                max_queue_cost=settings.max_queue_cost,
                max_wait_seconds=settings.max_wait_ms / 1000,
            ),
            observer=BatchMetrics(metrics, reference.id),
            is_out_of_memory=is_out_of_memory,
        )

    @property
    def explainer(self) -> Explainer | None:
        """The loaded model, or None before it is loaded."""
        return self._processor.explainer

    @property
    def state(self) -> ModelState:
        """What the model can do now."""
        if self.batcher.ready:
            return "ready"
        if self.batcher.state in (BatcherState.DRAINING, BatcherState.STOPPED):
            return "stopped"
        if self.batcher.state in (BatcherState.CREATED, BatcherState.STARTING):
            return "loading"
        return "failed"

    @property
    def error(self) -> str | None:
        """Why the model could not be loaded, if that is so."""
        error = self._processor.error
        for path in filter(None, (self._reference.name, self._reference.pretrained)):
            error = error and error.replace(path, Path(path).name)
        return error

    def cost(self, geometry: Geometry, layers: Sequence[int], targets: int) -> float:
        """The work of one picture, in forward passes at the model's own size."""
        explainer = self.explainer
        if explainer is None:
            return 1.0
        tower = explainer.tower
        rows, columns = geometry.grid
        own = (tower.image_size[0] // tower.patch_size[0]) * (
            tower.image_size[1] // tower.patch_size[1]
        )
        walk_back = _WALK_BACK_SHARE * len(layers) * targets / tower.depth
        return rows * columns / own * (1 + walk_back)

    @staticmethod
    def target_cost(question: Question, texts: TextCount) -> float:
        """The work of embedding a question's texts and distinct pictures, in the same unit."""
        pictures = {part.digest for part, _ in question.parts if isinstance(part, ImageTarget)}
        return _TEXT_SHARE * texts.strings + len(pictures)

    def info(self) -> ModelInfo:
        """What `/models` tells."""
        explainer = self.explainer
        pretrained = self._reference.pretrained
        name = self._reference.name
        known: dict[str, object] = dict.fromkeys(
            (
                "device", "dtype", "bytes", "family", "image_size",
                "patch_size", "grid", "layers", "scores", "licence",
            )
        )  # fmt: skip
        if explainer is not None:
            tower = explainer.tower
            height, width = tower.image_size
            patch_height, patch_width = tower.patch_size
            known = {
                "device": str(explainer.device),
                "dtype": dtype_name(explainer.dtype),
                "bytes": explainer.nbytes,
                "family": tower.family,
                "image_size": Size(width=width, height=height),
                "patch_size": Size(width=patch_width, height=patch_height),
                "grid": Grid(rows=height // patch_height, columns=width // patch_width),
                "layers": tower.depth,
                "scores": list(tower.scores),
                "licence": explainer.licence,
            }
        return ModelInfo.model_validate(
            {
                "id": self.id,
                "name": Path(name).stem if name.endswith(".json") else name,
                # A checkpoint's folder is nobody's business but the operator's, as in `error`.
                "pretrained": None if pretrained is None else Path(pretrained).name,
                "default": self._default,
                "state": self.state,
                "error": self.error,
                **known,
            }
        )


def _resolve(
    explainer: Explainer, items: Sequence[ExplainItem]
) -> list[ResolvedTargets | LegradError]:
    """The items' targets; what one item asks cannot fail another."""
    resolver = explainer.resolver
    questions = list(dict.fromkeys(item.question for item in items))
    embedded = resolver.embed(questions, items[0].templates)
    composed: dict[Question, ResolvedTargets | LegradError] = {}
    for question in questions:
        try:
            composed[question] = resolver.compose(question, embedded)
        except InvalidTargetError as error:
            composed[question] = error
    return [composed[item.question] for item in items]


def _warm_up(explainer: Explainer) -> None:
    picture = Image.new("RGB", (explainer.default_size, explainer.default_size))
    explainer.explain([picture], ["a photo"])
