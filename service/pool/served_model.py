"""One loaded model: its worker, the computation of batches, and the cost of an image."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from legrad_engine import Explainer, Explanation, LegradError
from legrad_engine.devices import is_out_of_memory, release_cached_memory
from legrad_engine.errors import InvalidTargetError
from legrad_engine.families import Score, Tower
from legrad_engine.images.geometry import Geometry
from legrad_engine.targets import ImageTarget
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolution import TextCount
from legrad_engine.targets.resolved import ResolvedTargets
from legrad_engine.targets.templates import Templates
from legrad_engine.trace import Trace
from service.batching import BatchLimits, MicroBatcher
from service.pool.loading import WarmModel
from service.pool.trace_cache import TraceCache
from service.pool.traced_picture import TracedPicture
from service.telemetry.metrics import TRACES, BatchMetrics, Metrics
from service.telemetry.tracing import SpanLink, Tracing

# The backward pass through one block costs about 0.42 of its forward pass, for each target.
_BACKWARD_SHARE = 0.42
# With an attentional pooler the backward pass does not go through the blocks themselves.
_POOLER_SHARE = 0.03
# A short prompt in a typical text tower, relative to an image in its image tower.
_TEXT_SHARE = 0.03
# Starting a worker only starts a thread: the model is loaded before.
_WORKER_START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ExplainItem:
    """One picture and the question about it, ready for the worker.

    Attributes:
        picture: decoded, or with its trace; equal pictures share one object and one forward pass.
        question: the checked targets, with their pictures prepared.
        layers: resolved block indices.
        score: the explained score.
        templates: prompt templates.
        cache: whether embeddings of its texts are looked up and kept.
        link: span of the request.
    """

    picture: TracedPicture
    question: Question
    layers: tuple[int, ...]
    score: Score
    templates: Templates
    cache: bool
    link: SpanLink | None

    @property
    def bucket(self) -> tuple[object, ...]:
        """The key of items that can be computed in one batch."""
        geometry = self.picture.geometry
        input_size = None if geometry is None else geometry.input_size
        return (input_size, self.layers, self.score, self.templates)


@dataclass(frozen=True, slots=True)
class Explained:
    """An item's explanation.

    Attributes:
        explanation: the maps.
        cached: whether the item used the forward pass of another one.
    """

    explanation: Explanation
    cached: bool


class ExplainProcessor:
    """Computes batches with a loaded model, on the worker's thread.

    An abandoned call may return while a new worker computes. The two share only the model, which
    never changes. The abandoned call ends at its next step and keeps no traces, because the model
    may have been unloaded meanwhile.
    """

    def __init__(
        self,
        model: str,
        explainer: Explainer,
        metrics: Metrics,
        traces: TraceCache,
        tracing: Tracing,
    ) -> None:
        self._model = model
        self._explainer = explainer
        self._metrics = metrics
        self._traces = traces
        self._thread: threading.Thread | None = None
        self._abandoning = threading.Lock()
        self._tracing = tracing

    def start(self) -> None:
        """Mark the model, which is loaded and warm, as usable."""
        self._thread = threading.current_thread()
        self._metrics.model_loaded.labels(self._model).set(1)

    def process(self, items: Sequence[ExplainItem]) -> Sequence[Explained | Exception]:
        """Compute one explanation for each item; all items have the same bucket.

        Run the forward pass only for pictures without a trace, once for each. Keep their traces,
        unless the request turned the cache off, so that later items find them.
        """
        with self._tracing.batch(self._model, [item.link for item in items]):
            return self._compute(items)

    def _compute(self, items: Sequence[ExplainItem]) -> Sequence[Explained | Exception]:
        explainer = self._explainer
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
            self._free_memory(error)
            raise
        if made is not None:
            self._keep(list(new), made)
        with self._unless_abandoned():
            explained = iter(self._mark_cached(items, explanations, set(new)))
        return [each if isinstance(each, LegradError) else next(explained) for each in answers]

    def stop(self) -> None:
        """Mark the model as not usable; keep it, so that a replaced worker starts at once."""
        self._metrics.model_loaded.labels(self._model).set(0)

    def abandon(self) -> None:
        """Keep the call that hangs from changing anything from now on."""
        with self._abandoning:
            self._thread = None
        self._metrics.model_loaded.labels(self._model).set(0)

    @contextlib.contextmanager
    def _unless_abandoned(self) -> Iterator[None]:
        """Run a block with shared effects, or end the thread if this call was abandoned."""
        with self._abandoning:
            if threading.current_thread() is not self._thread:
                raise SystemExit
            yield

    def _keep(self, pictures: Sequence[TracedPicture], made: Trace) -> None:
        """Copy the trace of each picture: a view would keep the memory of the whole batch alive.

        This happens after all items are explained, and running out of memory here fails no request.
        """
        if not self._traces.has_room_for(made.nbytes // len(made)):
            return
        try:
            for place, picture in enumerate(pictures):
                if picture.key is not None:
                    trace = made.select([place])
                    with self._unless_abandoned():
                        self._traces.put(picture.key, trace)
                        picture.trace = trace
        except Exception as error:
            if not self._free_memory(error):
                raise

    def _free_memory(self, error: Exception) -> bool:
        """Drop all cached data if the error is out of memory; return whether it is."""
        exhausted = is_out_of_memory(error)
        if exhausted:
            self._traces.clear()
            release_cached_memory()
        return exhausted

    def _mark_cached(
        self,
        items: Sequence[ExplainItem],
        explanations: Sequence[Explanation],
        new: set[TracedPicture],
    ) -> list[Explained]:
        """Mark which items used a cached trace; of a new picture, all items but the first did."""
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
        with self._unless_abandoned():
            self._metrics.compute.labels(self._model, stage).observe(now - started)
        self._tracing.stage(stage, now - started)
        return now


class ServedModel:
    """A loaded model with its worker."""

    def __init__(
        self,
        model: str,
        warm: WarmModel,
        limits: BatchLimits,
        stall_seconds: float,
        metrics: Metrics,
        traces: TraceCache,
        tracing: Tracing,
    ) -> None:
        self.id = model
        self.explainer = explainer = warm.explainer
        self._processor = ExplainProcessor(model, explainer, metrics, traces, tracing)
        self.batcher: MicroBatcher[ExplainItem, Explained] = MicroBatcher(
            model,
            self._processor,
            limits,
            observer=BatchMetrics(metrics, model),
            is_out_of_memory=is_out_of_memory,
            stall_seconds=stall_seconds,
        )
        # The first batches of a server that starts under load are small and slow. Their rate alone
        # would make it refuse requests that it has time for, so the warm-up counts as a full batch.
        own = explainer.plan(explainer.own_size)
        images = limits.max_batch_items
        self.batcher.expect(
            images * self.cost(own, explainer.resolve_layers(), 1), images * warm.seconds_per_image
        )

    def start(self) -> None:
        """Start the worker and wait until it takes items.

        Raises:
            RuntimeError: the thread of the worker did not start.
        """
        self.batcher.start()
        if not self.batcher.wait_until_ready(_WORKER_START_SECONDS):
            self.batcher.drain(_WORKER_START_SECONDS)
            raise RuntimeError(f"The worker of {self.id} could not be started.")

    def cost(
        self, geometry: Geometry, layers: Sequence[int], targets: int, *, traced: bool = False
    ) -> float:
        """Return the cost of one picture, in forward passes at the model's own size.

        Args:
            geometry: geometry of the picture.
            layers: indices of the explained blocks.
            targets: number of targets, negatives included.
            traced: whether its forward pass is already done.
        """
        tower = self.explainer.tower
        rows, columns = geometry.grid
        share = _POOLER_SHARE if tower.scores[0] == "pooler" else _BACKWARD_SHARE
        backward = share * tower.explained_share * len(layers) * targets / tower.depth
        work = backward if traced else 1 + backward
        return _relative_work(tower, rows * columns) * work

    @staticmethod
    def target_cost(question: Question, texts: TextCount) -> float:
        """Return the cost of embedding a question's texts and distinct pictures, in that unit."""
        pictures = {part.digest for part, _ in question.parts if isinstance(part, ImageTarget)}
        return _TEXT_SHARE * texts.strings + len(pictures)


def _relative_work(tower: Tower, patches: int) -> float:
    """Return the work of a number of patches, relative to the tower's own number.

    For each token, a block multiplies by 12 width^2 weights, and by 2 width for each other token.
    """
    own = tower.grid[0] * tower.grid[1]
    if tower.width is None:
        return patches / own
    return patches / own * (6 * tower.width + patches) / (6 * tower.width + own)


def _resolve(
    explainer: Explainer, items: Sequence[ExplainItem]
) -> list[ResolvedTargets | LegradError]:
    """Resolve the targets of items; an invalid question fails only its own items."""
    resolver = explainer.resolver
    composed: dict[tuple[bool, Question], ResolvedTargets | LegradError] = {}
    for cache in (True, False):
        questions = list(dict.fromkeys(item.question for item in items if item.cache is cache))
        embedded = resolver.embed(questions, items[0].templates, cache=cache)
        for question in questions:
            try:
                composed[cache, question] = resolver.compose(question, embedded)
            except InvalidTargetError as error:
                composed[cache, question] = error
    return [composed[item.cache, item.question] for item in items]


def _joined(
    pictures: Sequence[TracedPicture], new: Sequence[TracedPicture], made: Trace | None
) -> Trace:
    """Join new and known traces into one of all pictures in order, repeats included."""
    known = {each: each.trace for each in pictures if each.trace is not None}
    trace = Trace.join([*([] if made is None else [made]), *known.values()])
    place_of = {picture: place for place, picture in enumerate((*new, *known))}
    places = [place_of[picture] for picture in pictures]
    return trace if places == list(range(len(trace))) else trace.select(places)
