"""One loaded model: its worker, and what the worker computes."""

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

# A walk back through one block costs about 0.42 of a forward pass through it, for each target.
_WALK_BACK_SHARE = 0.42
# Through an attentional pooler the blocks themselves are not walked back through.
_POOLER_SHARE = 0.03
# A short prompt in a text tower of the usual proportions, against its image tower.
_TEXT_SHARE = 0.03
# Starting a worker only takes a thread: the model is loaded before.
_WORKER_START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ExplainItem:
    """One picture with what is asked of it, ready for the worker.

    Attributes:
        picture: decoded, or with its trace; equal pictures share one, and with it a forward pass.
        question: what to look for; it is checked, and its pictures are prepared.
        layers: resolved block indices.
        score: the explained score.
        templates: prompt templates.
        link: the span of the request that it came with.
    """

    picture: TracedPicture
    question: Question
    layers: tuple[int, ...]
    score: Score
    templates: Templates
    link: SpanLink | None

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
    """Computes batches with a loaded model, on the worker's thread.

    A call that was given up may come back while another worker computes. It shares nothing with
    that one but the model, which never changes, and it ends at its next step: its traces are not
    kept, because nobody knows when it comes, and the model may have been unloaded meanwhile.
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
        self._giving_up = threading.Lock()
        self._tracing = tracing

    def start(self) -> None:
        """Says that the model can be used; it was loaded and warmed up before."""
        self._thread = threading.current_thread()
        self._metrics.model_loaded.labels(self._model).set(1)

    def process(self, items: Sequence[ExplainItem]) -> Sequence[Explained | Exception]:
        """One explanation for each item; all are of one bucket.

        Only pictures without a trace go forward, each once. Their traces are kept, where the caller
        allows it, once all items are explained, so items queued behind them find the traces.
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
            self._make_room(error)
            raise
        if made is not None:
            self._keep(list(new), made)
        with self._unless_given_up():
            explained = iter(self._told_apart(items, explanations, set(new)))
        return [each if isinstance(each, LegradError) else next(explained) for each in answers]

    def stop(self) -> None:
        """The model itself is kept: a worker that replaces this one starts at once."""
        self._metrics.model_loaded.labels(self._model).set(0)

    def abandon(self) -> None:
        """From now on the call that hangs can change nothing."""
        with self._giving_up:
            self._thread = None
        self._metrics.model_loaded.labels(self._model).set(0)

    @contextlib.contextmanager
    def _unless_given_up(self) -> Iterator[None]:
        """Runs the block, which others see, before this call is given up, or ends the thread."""
        with self._giving_up:
            if threading.current_thread() is not self._thread:
                raise SystemExit
            yield

    def _keep(self, pictures: Sequence[TracedPicture], made: Trace) -> None:
        """Gives each picture a trace of its own: a view would hold the memory of the whole batch.

        They are copied only now that all items are explained, and never make a request fail.
        """
        if not self._traces.has_room_for(made.nbytes // len(made)):
            return
        try:
            for place, picture in enumerate(pictures):
                if picture.key is not None:
                    trace = made.select([place])
                    with self._unless_given_up():
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
        new: set[TracedPicture],
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
        with self._unless_given_up():
            self._metrics.compute.labels(self._model, stage).observe(now - started)
        self._tracing.stage(stage, now - started)
        return now


class ServedModel:
    """A loaded model with its worker, from the start of the worker to its end."""

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
        # The first batches of a server that starts under load are small, cold and interrupted: by
        # them it would refuse what it has time for. So this counts as much as a full one does.
        own = explainer.plan(explainer.own_size)
        images = limits.max_batch_items
        self.batcher.expect(
            images * self.cost(own, explainer.resolve_layers(), 1), images * warm.seconds_per_image
        )

    def start(self) -> None:
        """Starts the worker and waits until it takes items.

        Raises:
            RuntimeError: no thread could be had for it.
        """
        self.batcher.start()
        if not self.batcher.wait_until_ready(_WORKER_START_SECONDS):
            self.batcher.drain(_WORKER_START_SECONDS)
            raise RuntimeError(f"The worker of {self.id} could not be started.")

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
        tower = self.explainer.tower
        rows, columns = geometry.grid
        share = _POOLER_SHARE if tower.scores[0] == "pooler" else _WALK_BACK_SHARE
        walk_back = share * tower.explained_share * len(layers) * targets / tower.depth
        work = walk_back if traced else 1 + walk_back
        return _relative_work(tower, rows * columns) * work

    @staticmethod
    def target_cost(question: Question, texts: TextCount) -> float:
        """The work of embedding a question's texts and distinct pictures, in the same unit."""
        pictures = {part.digest for part, _ in question.parts if isinstance(part, ImageTarget)}
        return _TEXT_SHARE * texts.strings + len(pictures)


def _relative_work(tower: Tower, patches: int) -> float:
    """The work of so many patches in units of that of the tower's own number of patches.

    For each token a block multiplies by 12 width^2 weights and by 2 width for each other token.
    """
    own = tower.grid[0] * tower.grid[1]
    if tower.width is None:
        return patches / own
    return patches / own * (6 * tower.width + patches) / (6 * tower.width + own)


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


def _joined(
    pictures: Sequence[TracedPicture], new: Sequence[TracedPicture], made: Trace | None
) -> Trace:
    """One trace of all pictures in order, repeats included, from the new ones' and the known."""
    known = {each: each.trace for each in pictures if each.trace is not None}
    trace = Trace.join([*([] if made is None else [made]), *known.values()])
    place_of = {picture: place for place, picture in enumerate((*new, *known))}
    places = [place_of[picture] for picture in pictures]
    return trace if places == list(range(len(trace))) else trace.select(places)
