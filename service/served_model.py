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
from legrad_engine.models import ModelReference
from legrad_engine.questions import Question
from legrad_engine.resolution import TextCount
from legrad_engine.resolved import ResolvedTargets
from legrad_engine.targets import ImageTarget
from legrad_engine.text import Templates, TextEncoder
from legrad_engine.trace import Trace
from service.batching import BatcherState, BatchLimits, MicroBatcher
from service.metrics import TRACES, BatchMetrics, Metrics
from service.pictures import Picture
from service.schemas import Grid, ModelInfo, ModelState, Size
from service.settings import Settings
from service.trace_cache import TraceCache

# A walk back through one block costs about 0.42 of a forward pass through it, for each target.
_WALK_BACK_SHARE = 0.42
# A short prompt in a text tower of the usual proportions, against its image tower.
_TEXT_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class ExplainItem:
    """One picture with what is asked of it, ready for the worker.

    Attributes:
        picture: decoded, or with its trace; equal pictures share one, and with it a forward pass.
        question: what to look for; it is checked, and its pictures are prepared.
        layers: resolved block indices.
        score: the explained score.
        templates: prompt templates.
    """

    picture: Picture
    question: Question
    layers: tuple[int, ...]
    score: Score
    templates: Templates

    @property
    def bucket(self) -> tuple[object, ...]:
        """Items with an equal bucket can be computed in one batch."""
        geometry = self.picture.geometry
        input_size = None if geometry is None else geometry.input_size
        return (input_size, self.layers, self.score, self.templates)


@dataclass(frozen=True, slots=True)
class Explained:
    """An item's explanation.

    Attributes:
        explanation: the maps.
        cached: whether another item's forward pass was used in place of one of its own.
    """

    explanation: Explanation
    cached: bool


class ExplainProcessor:
    """Loads a model on the worker's thread and computes batches with it."""

    def __init__(
        self, reference: ModelReference, settings: Settings, metrics: Metrics, traces: TraceCache
    ) -> None:
        self._reference = reference
        self._settings = settings
        self._metrics = metrics
        self._traces = traces
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

    def process(self, items: Sequence[ExplainItem]) -> Sequence[Explained | Exception]:
        """One explanation for each item; all are of one bucket.

        Only pictures without a trace go forward, each once. Their traces are kept, where the caller
        allows it, once all items are explained, so items queued behind them find the traces.
        """
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
            new = {
                item.picture: item.picture.prepared
                for item in items
                if item.picture.trace is None and item.picture.prepared is not None
            }
            made = None
            if new:
                made = explainer.trace(list(new.values()), layers=first.layers, score=first.score)
                started = self._observe("forward", started)
            trace = _joined([item.picture for item in items], list(new), made)
            explanations = explainer.attribute(trace, resolved)
            self._observe("backward", started)
        except Exception as error:
            self._make_room(error)
            raise
        if made is not None:
            self._keep(list(new), made)
        explained = iter(self._told_apart(items, explanations, set(new)))
        return [each if isinstance(each, LegradError) else next(explained) for each in answers]

    def stop(self) -> None:
        """The model itself is kept: a worker that replaces this one starts at once."""
        self._metrics.model_loaded.labels(self._reference.id).set(0)

    def _keep(self, pictures: Sequence[Picture], made: Trace) -> None:
        """Gives each picture a trace of its own: a view would hold the memory of the whole batch.

        They are copied only now that all items are explained, and never make a request fail.
        """
        if not self._traces.has_room_for(made.nbytes // len(made)):
            return
        try:
            for place, picture in enumerate(pictures):
                if picture.key is not None:
                    trace = made.select([place])
                    self._traces.put(picture.key, trace)
                    picture.trace = trace
        except Exception as error:
            if not self._make_room(error):
                raise

    def _make_room(self, error: Exception) -> bool:
        """Lets go of all that only saves time, if the memory is exhausted; whether it is."""
        exhausted = is_out_of_memory(error)
        if exhausted:
            self._traces.clear()
            release_cached_memory()
        return exhausted

    def _told_apart(
        self,
        items: Sequence[ExplainItem],
        explanations: Sequence[Explanation],
        new: set[Picture],
    ) -> list[Explained]:
        """The results with what was cached; of several items of a new picture all but the first."""
        results = []
        for item, explanation in zip(items, explanations, strict=True):
            cached = item.picture not in new
            new.discard(item.picture)
            results.append(Explained(explanation, cached))
            if item.picture.key is not None:
                counter = self._metrics.cache_hits if cached else self._metrics.cache_misses
                counter.labels(TRACES).inc()
        return results

    def _observe(self, stage: str, started: float) -> float:
        now = time.perf_counter()
        self._metrics.compute.labels(self._reference.id, stage).observe(now - started)
        return now


class ServedModel:
    """A model with its worker."""

    def __init__(
        self,
        reference: ModelReference,
        settings: Settings,
        metrics: Metrics,
        traces: TraceCache,
        *,
        default: bool,
    ) -> None:
        self.id = reference.id
        self._reference = reference
        self._default = default
        self._processor = ExplainProcessor(reference, settings, metrics, traces)
        self.batcher: MicroBatcher[ExplainItem, Explained] = MicroBatcher(
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
        return None if error is None else self._reference.without_folders(error)

    def cost(
        self, geometry: Geometry, layers: Sequence[int], targets: int, *, traced: bool = False
    ) -> float:
        """The work of one picture, in forward passes at the model's own size.

        Args:
            geometry: the picture's.
            layers: the explained blocks.
            targets: how many things, negatives included, are asked about it.
            traced: whether its forward pass is already done.
        """
        explainer = self.explainer
        if explainer is None:
            return 1.0
        tower = explainer.tower
        rows, columns = geometry.grid
        own = (tower.image_size[0] // tower.patch_size[0]) * (
            tower.image_size[1] // tower.patch_size[1]
        )
        walk_back = _WALK_BACK_SHARE * len(layers) * targets / tower.depth
        return rows * columns / own * (walk_back if traced else 1 + walk_back)

    @staticmethod
    def target_cost(question: Question, texts: TextCount) -> float:
        """The work of embedding a question's texts and distinct pictures, in the same unit."""
        pictures = {part.digest for part, _ in question.parts if isinstance(part, ImageTarget)}
        return _TEXT_SHARE * texts.strings + len(pictures)

    def info(self) -> ModelInfo:
        """What `/models` tells."""
        explainer = self.explainer
        pretrained = self._reference.pretrained
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
                "name": self._reference.title,
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


def _joined(pictures: Sequence[Picture], new: Sequence[Picture], made: Trace | None) -> Trace:
    """One trace of all pictures in order, repeats included, from the new ones' and the known."""
    known = {each: each.trace for each in pictures if each.trace is not None}
    trace = Trace.join([*([] if made is None else [made]), *known.values()])
    place_of = {picture: place for place, picture in enumerate((*new, *known))}
    places = [place_of[picture] for picture in pictures]
    return trace if places == list(range(len(trace))) else trace.select(places)


def _warm_up(explainer: Explainer) -> None:
    picture = Image.new("RGB", (explainer.default_size, explainer.default_size))
    trace = explainer.trace([picture])
    # Its own embedding is a target that every model has.
    has_text = isinstance(explainer.text, TextEncoder)
    explainer.attribute(trace, ["a photo"] if has_text else trace.embeddings)
