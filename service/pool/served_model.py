"""One loaded model: its workers, the computation of batches, and the cost of an image."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from legrad_engine import Explainer, Explanation, LegradError
from legrad_engine.attribution import PendingExplanations
from legrad_engine.devices import (
    bind_thread,
    is_device_failure,
    is_out_of_memory,
    release_cached_memory,
)
from legrad_engine.errors import InvalidTargetError
from legrad_engine.families import Score, Tower
from legrad_engine.images.geometry import Geometry
from legrad_engine.targets import ImageTarget
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolution import TextCount
from legrad_engine.targets.resolved import ResolvedTargets
from legrad_engine.targets.templates import Templates
from legrad_engine.trace import Trace
from legrad_engine.transfers import Instant
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
        worker: str,
        explainer: Explainer,
        metrics: Metrics,
        traces: TraceCache,
        tracing: Tracing,
    ) -> None:
        self._model = model
        self._worker = worker
        self._explainer = explainer
        self._metrics = metrics
        self._traces = traces
        self._thread: threading.Thread | None = None
        self._abandoning = threading.Lock()
        self._tracing = tracing

    def start(self) -> None:
        """Mark the model, which is loaded and warm, as usable.

        Raises:
            RuntimeError: its device fails.
        """
        bind_thread(self._explainer.device)
        self._thread = threading.current_thread()
        self._metrics.model_loaded.labels(self._model, self._worker).set(1)

    def launch(self, items: Sequence[ExplainItem]) -> "ExplainBatch":
        """Begin to compute one explanation for each item; all items have the same bucket.

        Run the forward pass only for pictures without a trace, once for each. Keep their traces,
        unless the request turned the cache off, so that later items find them.
        """
        began = time.perf_counter()
        try:
            return self._launch(items)
        except Exception as error:
            self._free_memory(error)
            with self._batch_span(items, time.perf_counter() - began):
                raise

    def _launch(self, items: Sequence[ExplainItem]) -> "ExplainBatch":
        explainer = self._explainer
        instants = [self._instant()]
        stages = ["text"]
        answers = _resolve(explainer, items)
        instants.append(self._instant())
        resolved = [each for each in answers if isinstance(each, ResolvedTargets)]
        valid = [
            item
            for item, each in zip(items, answers, strict=True)
            if isinstance(each, ResolvedTargets)
        ]
        new = {
            item.picture: item.picture.prepared
            for item in valid
            if item.picture.trace is None and item.picture.prepared is not None
        }
        pending: PendingExplanations | None = None
        if valid:
            first, made = valid[0], None
            if new:
                made = explainer.trace(list(new.values()), layers=first.layers, score=first.score)
                stages.append("forward")
                instants.append(self._instant())
            trace = _joined([item.picture for item in valid], list(new), made, explainer.device)
            pending = explainer.launch_attribution(trace, resolved)
            stages.append("backward")
            instants.append(self._instant())
            if made is not None:
                self._keep(list(new), made)
        # An abandoned call ends here: it must not count its items.
        with self._unless_abandoned():
            cached = self._mark_cached(valid, set(new))
        return ExplainBatch(self, items, answers, cached, pending, stages, instants)

    def finish(self, batch: "ExplainBatch") -> Sequence[Explained | Exception]:
        """Wait for a launched batch; return one result for each item, in order."""
        with self._batch_span(batch.items, batch.age):
            try:
                found = [] if batch.pending is None else batch.pending.finish()
            except Exception as error:
                self._free_memory(error)
                raise
            self._observe(batch)
        explained = iter([Explained(*pair) for pair in zip(found, batch.cached, strict=True)])
        return [
            each if isinstance(each, LegradError) else next(explained) for each in batch.answers
        ]

    def stop(self) -> None:
        """Mark the model as not usable; keep it, so that a replaced worker starts at once."""
        self._metrics.model_loaded.labels(self._model, self._worker).set(0)

    def abandon(self) -> None:
        """Keep the call that hangs from changing anything from now on."""
        with self._abandoning:
            self._thread = None
        self._metrics.model_loaded.labels(self._model, self._worker).set(0)

    def _batch_span(
        self, items: Sequence[ExplainItem], age: float
    ) -> contextlib.AbstractContextManager[None]:
        return self._tracing.batch(self._model, [item.link for item in items], age)

    def _instant(self) -> Instant:
        """Mark the end of a stage. An abandoned call ends here."""
        with self._unless_abandoned():
            return Instant.of(self._explainer.device)

    @contextlib.contextmanager
    def _unless_abandoned(self) -> Iterator[None]:
        """Run a block with shared effects, or end the thread if this call was abandoned."""
        with self._abandoning:
            if threading.current_thread() is not self._thread:
                raise SystemExit
            yield

    def _keep(self, pictures: Sequence[TracedPicture], made: Trace) -> None:
        """Copy the trace of each picture: a view would keep the memory of the whole batch alive.

        This happens after the maps are launched, and running out of memory here fails no request.
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
        """Drop cached data that the error rules out; return whether it is out of memory."""
        exhausted = is_out_of_memory(error)
        if is_device_failure(error):
            # Its traces cannot be copied to the devices that are left.
            self._traces.forget(self._model, self._explainer.device)
        if exhausted:
            self._traces.clear()
            release_cached_memory()
        return exhausted

    def _mark_cached(self, items: Sequence[ExplainItem], new: set[TracedPicture]) -> list[bool]:
        """Mark which items used a cached trace; of a new picture, all items but the first did."""
        marks = []
        for item in items:
            cached = item.picture not in new
            new.discard(item.picture)
            marks.append(cached)
            if item.picture.key is not None:
                counter = self._metrics.cache_hits if cached else self._metrics.cache_misses
                counter.labels(TRACES).inc()
        return marks

    def _observe(self, batch: "ExplainBatch") -> None:
        """Record the stages of a batch that the device has finished."""
        seconds = [began.until(ended) for began, ended in itertools.pairwise(batch.instants)]
        for place, (stage, taken) in enumerate(zip(batch.stages, seconds, strict=True)):
            with self._unless_abandoned():
                self._metrics.compute.labels(self._model, stage).observe(taken)
            self._tracing.stage(stage, taken, ago=sum(seconds[place + 1 :]))


@dataclass(frozen=True, slots=True)
class ExplainBatch:
    """A launched batch. See :class:`service.batching.Computation`.

    Attributes:
        processor: launched it.
        items: the items.
        answers: for each item its targets, or the error of its question.
        cached: for each item without an error, whether it used the forward pass of another one.
        pending: the explanations of the items without an error; None if there is none.
        stages: names of the stages of the computation.
        instants: the instants at which they begin, and the end of the last one.
    """

    processor: ExplainProcessor
    items: Sequence[ExplainItem]
    answers: Sequence[ResolvedTargets | LegradError]
    cached: Sequence[bool]
    pending: PendingExplanations | None
    stages: Sequence[str]
    instants: Sequence[Instant]

    @property
    def done(self) -> bool:
        """Whether the device has finished it."""
        return self.pending is None or self.pending.done

    @property
    def age(self) -> float:
        """Seconds since its launch."""
        return time.perf_counter() - self.instants[0].seconds

    def results(self) -> Sequence[Explained | Exception]:
        """Wait for the device; return one result for each item, in order."""
        return self.processor.finish(self)


class ServedModel:
    """A loaded model with its workers, one for each copy.

    Attributes:
        id: the model's id.
        explainer: its first copy; all of them answer alike.
        max_batch_images: most images in one batch.
    """

    def __init__(
        self,
        model: str,
        copies: Mapping[str, WarmModel],
        limits: BatchLimits,
        stall_seconds: float,
        metrics: Metrics,
        traces: TraceCache,
        tracing: Tracing,
    ) -> None:
        self.id = model
        self.copies = copies
        warm = next(iter(copies.values()))
        self.explainer = explainer = warm.explainer
        # One queue serves all devices, so its batches have to suit each of them.
        self.max_batch_images = min(copy.max_batch_images for copy in copies.values())
        limits = replace(limits, max_batch_items=self.max_batch_images)
        self._processors = {
            worker: ExplainProcessor(model, worker, copy.explainer, metrics, traces, tracing)
            for worker, copy in copies.items()
        }
        self.batcher: MicroBatcher[ExplainItem, Explained] = MicroBatcher(
            model,
            self._processors,
            limits,
            observer=BatchMetrics(metrics, model),
            is_out_of_memory=is_out_of_memory,
            is_fatal=is_device_failure,
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
        """Start the workers and wait until they take items.

        Raises:
            RuntimeError: no worker started.
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
    pictures: Sequence[TracedPicture],
    new: Sequence[TracedPicture],
    made: Trace | None,
    device: torch.device,
) -> Trace:
    """Join new and known traces into one of all pictures in order, repeats included.

    A known trace of another device is copied for this batch; the cache keeps the original.
    """
    known = {each: each.trace.to(device) for each in pictures if each.trace is not None}
    trace = Trace.join([*([] if made is None else [made]), *known.values()])
    place_of = {picture: place for place, picture in enumerate((*new, *known))}
    places = [place_of[picture] for picture in pictures]
    return trace if places == list(range(len(trace))) else trace.select(places)
