"""The worker of one loaded model: computation of batches of explanations."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog

from legrad_engine import Explainer, Explanation, LegradError
from legrad_engine.attribution import PendingExplanations
from legrad_engine.devices import (
    bind_thread,
    is_device_failure,
    is_out_of_memory,
    release_cached_memory,
)
from legrad_engine.errors import InvalidTargetError
from legrad_engine.measurements.base import Subjects
from legrad_engine.measurements.batches import Results, measure_batch
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolved import ResolvedTargets
from legrad_engine.trace import Trace
from legrad_engine.transfers import Instant
from service.batching import WorkerDiedError
from service.pool.explain_items import Explained, ExplainItem
from service.pool.loading import WarmModel
from service.pool.trace_cache import TraceCache
from service.pool.traced_picture import TracedPicture
from service.telemetry.metrics import TRACES, Metrics
from service.telemetry.tracing import Tracing

_log = structlog.get_logger("legrad.models")


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
        copy: WarmModel,
        metrics: Metrics,
        traces: TraceCache,
        tracing: Tracing,
    ) -> None:
        self._model = model
        self._worker = worker
        self._explainer = copy.explainer
        self._images_per_pass = copy.max_batch_images
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
        asked = _resolve(explainer, items)
        instants.append(self._instant())
        known = self._known_traces(
            dict.fromkeys(
                item.picture
                for item, each in zip(items, asked, strict=True)
                if isinstance(each, ResolvedTargets)
            )
        )
        answers = [
            each
            if isinstance(each, LegradError)
            or item.picture in known
            or item.picture.prepared is not None
            else WorkerDiedError("The device that held the picture's trace failed; try again.")
            for item, each in zip(items, asked, strict=True)
        ]
        resolved = [each for each in answers if isinstance(each, ResolvedTargets)]
        valid = [
            item
            for item, each in zip(items, answers, strict=True)
            if isinstance(each, ResolvedTargets)
        ]
        new = {
            item.picture: item.picture.prepared
            for item in valid
            if item.picture not in known and item.picture.prepared is not None
        }
        pending: PendingExplanations | None = None
        explanations: Sequence[Explanation] = ()
        measured: Sequence[Results] = ()
        if valid:
            first, made = valid[0], None
            if new:
                made = explainer.trace(
                    list(new.values()),
                    method=first.method,
                    layers=first.layers,
                    score=first.score,
                )
                stages.append("forward")
                instants.append(self._instant())
            trace = _joined([item.picture for item in valid], list(new), made, known)
            pending = explainer.launch_attribution(trace, resolved, first.heads)
            stages.append("backward")
            instants.append(self._instant())
            if made is not None:
                self._keep(list(new), made)
            if first.measurements:
                # The next batch is launched later: measurements need the finished maps.
                explanations, pending = pending.finish(), None
                subjects = Subjects(
                    explainer,
                    trace,
                    resolved,
                    [item.question for item in valid],
                    first.templates,
                    explanations,
                    [item.picture.prepared for item in valid],
                    self._images_per_pass,
                )
                measured = measure_batch([item.measurements for item in valid], subjects)
                stages.append("measure")
                instants.append(self._instant())
        # An abandoned call ends here: it must not count its items.
        with self._unless_abandoned():
            cached = self._mark_cached(valid, set(new))
        return ExplainBatch(
            self, items, answers, cached, pending, explanations, measured, stages, instants
        )

    def finish(self, batch: "ExplainBatch") -> Sequence[Explained | Exception]:
        """Wait for a launched batch; return one result for each item, in order."""
        with self._batch_span(batch.items, batch.age):
            try:
                found = batch.explanations if batch.pending is None else batch.pending.finish()
            except Exception as error:
                self._free_memory(error)
                raise
            self._observe(batch)
        explained = iter(
            [
                each if isinstance(each, LegradError) else Explained(explanation, cached, each)
                for explanation, cached, each in zip(
                    found, batch.cached, batch.measured or [{}] * len(found), strict=True
                )
            ]
        )
        return [
            next(explained) if isinstance(each, ResolvedTargets) else each for each in batch.answers
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

    def _known_traces(self, pictures: Iterable[TracedPicture]) -> dict[TracedPicture, Trace]:
        """Return the traces that pictures have, on this worker's device.

        A trace of another device is copied for this batch; the cache keeps the original. If that
        device has failed, the traces on it are lost: their pictures have none from now on.
        """
        known: dict[TracedPicture, Trace] = {}
        device = self._explainer.device
        for picture in pictures:
            trace = picture.trace
            if trace is None:
                continue
            try:
                known[picture] = trace.to(device)
            except Exception as error:
                # The failure of another device must not end this worker.
                if trace.device == device or not is_device_failure(error):
                    raise
                with self._unless_abandoned():
                    self._traces.forget(self._model, trace.device)
                    picture.trace = None
                _log.warning("trace lost", model=self._model, device=str(trace.device))
        return known

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
        answers: for each item its targets, or its own error.
        cached: for each item without an error, whether it used the forward pass of another one.
        pending: the explanations of the items without an error; None if there is nothing to wait
            for.
        explanations: the same where they are finished, otherwise empty.
        measured: the results of the measurements of the items without an error; empty without any.
        stages: names of the stages of the computation.
        instants: the instants at which they begin, and the end of the last one.
    """

    processor: ExplainProcessor
    items: Sequence[ExplainItem]
    answers: Sequence[ResolvedTargets | LegradError | WorkerDiedError]
    cached: Sequence[bool]
    pending: PendingExplanations | None
    explanations: Sequence[Explanation]
    measured: Sequence[Results]
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
    known: Mapping[TracedPicture, Trace],
) -> Trace:
    """Join new and known traces into one of all pictures in order, repeats included."""
    trace = Trace.join([*([] if made is None else [made]), *known.values()])
    place_of = {picture: place for place, picture in enumerate((*new, *known))}
    places = [place_of[picture] for picture in pictures]
    return trace if places == list(range(len(trace))) else trace.select(places)
