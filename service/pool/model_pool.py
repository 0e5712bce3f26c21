"""The models of the settings: who may use them, and who may load and unload them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import structlog

from legrad_engine.errors import UnknownModelError
from service.batching import BatcherClosedError, BatcherState, BatchingError, QueueFullError
from service.errors import NotReadyError
from service.pool.lifecycle import ModelLifecycle
from service.pool.pooled_model import PooledModel
from service.pool.served_model import ServedModel
from service.pool.trace_cache import TraceCache
from service.settings import Settings
from service.telemetry.metrics import Metrics, TraceCacheMetrics
from service.telemetry.tracing import Tracing

# A queue with no more room than this share of it is as good as full.
_LEAST_ROOM_SHARE = 0.01
# A load that outlasts a request takes seconds at least.
_STILL_LOADING_RETRY_SECONDS = 5.0

_log = structlog.get_logger("legrad.models")


class ModelPool:
    """Every model of the settings, by id; the first one is the default."""

    def __init__(self, settings: Settings, metrics: Metrics, tracing: Tracing) -> None:
        references = settings.model_references
        self._settings = settings
        self._default = references[0].id
        self._least_room = _LEAST_ROOM_SHARE * settings.max_queue_cost
        self._models = {
            reference.id: PooledModel(reference, default=position == 0)
            for position, reference in enumerate(references)
        }
        self._starting: asyncio.Task[None] | None = None
        self._started = False
        self.traces = TraceCache(settings.trace_cache_bytes, TraceCacheMetrics(metrics))
        self._lifecycle = ModelLifecycle(self._models, settings, metrics, self.traces, tracing)

    def __iter__(self) -> Iterator[PooledModel]:
        """The models, the default one first."""
        return iter(self._models.values())

    def get(self, model: str | None) -> PooledModel:
        """A model by id; None means the default.

        Raises:
            UnknownModelError: it is not served here.
        """
        chosen = self._default if model is None else model
        if chosen not in self._models:
            raise UnknownModelError(
                f"Model {chosen!r} is not served here; there is {', '.join(self._models)}.",
                field="model",
            )
        return self._models[chosen]

    @property
    def answers(self) -> bool:
        """Whether loading at start is over and a request without a model finds one."""
        return self._started and self.get(None).answers

    def check_room(self, computed_by: float) -> None:
        """Refuses a request of which nothing is known yet, where no model can take it.

        Saying no this early costs a small part of what it costs once the body is read and parsed.

        Args:
            computed_by: when its pictures would have to be computed, on the monotonic clock.

        Raises:
            QueueFullError: every model is loaded, and has no room or no time for anything more.
        """
        soonest: QueueFullError | None = None
        for model in self:
            if model.phase != "loaded" or model.served is None:
                return
            try:
                model.served.batcher.check_room(self._least_room, computed_by)
            except QueueFullError as error:
                if soonest is None or error.retry_after_seconds < soonest.retry_after_seconds:
                    soonest = error
            except BatchingError:
                # What is wrong with it is told to those who ask for it.
                return
            else:
                return
        if soonest is not None:
            raise soonest

    def start(self) -> None:
        """Begins to load what is loaded at start. To be called on the running event loop."""
        if self._settings.load_models == "on-demand":
            self._started = True
        else:
            self._starting = asyncio.create_task(self._load_at_start())

    async def close(self, timeout: float) -> bool:
        """Finishes what is in flight and stops the workers; whether all did within the time."""
        self._lifecycle.closing = True
        if self._starting is not None:
            self._starting.cancel()
        for model in self:
            self._lifecycle.dismiss(model)
        closed = await self._lifecycle.until(
            lambda: all(model.phase == "unloaded" for model in self), timeout
        )
        await self._lifecycle.abandon()
        return closed

    @contextlib.asynccontextmanager
    async def lease(self, model: str | None, until: float) -> AsyncIterator[ServedModel]:
        """A loaded model, which stays in memory for as long as the lease is held.

        A model that is not in memory is loaded if requests may do that, and waited for.

        Args:
            model: its id, or None for the default.
            until: how long to wait, an instant on the monotonic clock.

        Raises:
            UnknownModelError: it is not served here.
            NotReadyError: it was unloaded by an operator, could not be loaded, is not loaded in
                time, or its worker has just died.
            NoRoomError: models with work in flight hold the memory that it needs.
            ModelTooLargeError: it needs more memory than all models may have.
            BatcherClosedError: the server is shutting down.
        """
        pooled = self.get(model)
        # Who waits keeps the model from being evicted between its load and the lease.
        pooled.waiting += 1
        try:
            while pooled.phase != "loaded" or pooled.served is None:
                await self._wait_for_load(pooled, until)
            served = pooled.served
            if not served.batcher.ready:
                raise _without_worker(pooled.id, served.batcher.state)
            pooled.in_flight += 1
        finally:
            pooled.waiting -= 1
        self._touch(pooled)
        try:
            yield served
        finally:
            pooled.in_flight -= 1
            self._touch(pooled)
            if not pooled.in_flight:
                self._lifecycle.notify()

    async def load(self, model: str, wait_seconds: float) -> PooledModel:
        """Has a model loaded, also one that was unloaded for good or that failed.

        Args:
            model: its id.
            wait_seconds: how long to wait for it.

        Raises:
            UnknownModelError: it is not served here.
            NotReadyError, NoRoomError, ModelTooLargeError: loading has failed already.
            BatcherClosedError: the server is shutting down.
        """
        pooled = self.get(model)
        if pooled.phase == "loaded":
            return pooled
        self._require_open()
        pooled.withdrawn = False
        if pooled.attempt is None:
            self._lifecycle.forget_failure(pooled)
        attempt = self._lifecycle.attempt(pooled, evicts=True)
        await asyncio.wait({attempt}, timeout=wait_seconds)
        if attempt.done() and (failure := attempt.result()):
            raise failure.problem(time.monotonic())
        return pooled

    async def unload(self, model: str, wait_seconds: float) -> PooledModel:
        """Has a model unloaded once its work is done.

        Where models are loaded at start, requests do not load it again. Where they are loaded on
        demand, the next request does.

        Args:
            model: its id.
            wait_seconds: how long to wait for it.

        Raises:
            UnknownModelError: it is not served here.
        """
        pooled = self.get(model)
        pooled.withdrawn = self._settings.load_models == "at-start"
        self._lifecycle.dismiss(pooled)
        await self._lifecycle.until(lambda: pooled.phase == "unloaded", wait_seconds)
        return pooled

    # What requests, operators and timers ask for.

    async def _load_at_start(self) -> None:
        if self._settings.max_model_bytes is not None:
            # All at once afterwards, in the order of the settings: the first ones get the room.
            for model in self:
                with contextlib.suppress(Exception):  # its load will fail for it, and say so
                    await self._lifecycle.measure(model)
        wanted = [model for model in self if not model.withdrawn]
        for attempt in [self._lifecycle.attempt(model, evicts=False) for model in wanted]:
            await asyncio.wait({attempt})
        self._started = True
        _log.info("loaded at start", models={model.id: model.state for model in self})

    async def _wait_for_load(self, model: PooledModel, until: float) -> None:
        self._require_open()
        now = time.monotonic()
        if model.attempt is None:
            if model.withdrawn:
                raise NotReadyError(
                    f"Model {model.id!r} was unloaded by the operator of this server.",
                    field="model",
                    retry_after_seconds=None,
                )
            if model.failure is not None and model.failure.lasts:
                raise model.failure.problem(now)
        attempt = self._lifecycle.attempt(model, evicts=True)
        await asyncio.wait({attempt}, timeout=max(0.0, until - now))
        if not attempt.done():
            raise NotReadyError(
                f"Model {model.id!r} is still loading; see /models/{model.id}.",
                field="model",
                retry_after_seconds=_STILL_LOADING_RETRY_SECONDS,
            )
        if failure := attempt.result():
            raise failure.problem(time.monotonic())

    def _require_open(self) -> None:
        if self._lifecycle.closing:
            raise BatcherClosedError("The server is shutting down.")

    @staticmethod
    def _touch(model: PooledModel) -> None:
        model.last_used, model.last_used_at = time.monotonic(), datetime.now(UTC)


def _without_worker(model: str, state: BatcherState) -> NotReadyError:
    if state is BatcherState.FAILED:
        return NotReadyError(
            f"The workers of {model} hang, and none replaces them: the server has to be restarted.",
            field="model",
            retry_after_seconds=None,
        )
    return NotReadyError(f"The worker of {model} is being replaced.", field="model")
