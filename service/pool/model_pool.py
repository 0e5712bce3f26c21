"""The models of the settings: use by requests, loading and unloading by operators."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from datetime import UTC, datetime

import structlog
import torch

from legrad_engine.errors import UnknownModelError
from service.batching import (
    BatcherClosedError,
    BatcherState,
    BatchingError,
    QueueFullError,
)
from service.errors import NotReadyError
from service.pool.lifecycle import ModelLifecycle
from service.pool.pooled_model import PooledModel
from service.pool.served_model import ServedModel
from service.pool.trace_cache import TraceCache
from service.settings.batches import BatchPolicy
from service.settings.values import ModelPolicy
from service.telemetry.metrics import Metrics, TraceCacheMetrics
from service.telemetry.tracing import Tracing

# A queue whose free share is smaller than this counts as full.
_LEAST_ROOM_SHARE = 0.01
# A load that takes longer than a request needs at least a few more seconds.
_STILL_LOADING_RETRY_SECONDS = 5.0

_log = structlog.get_logger("legrad.models")


class ModelPool:
    """Every model of the settings, by id; the first one is the default."""

    def __init__(
        self,
        policy: ModelPolicy,
        devices: Sequence[torch.device],
        batches: BatchPolicy,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._policy = policy
        self._default = policy.models[0].id
        self._least_room = _LEAST_ROOM_SHARE * batches.max_queue_cost
        self._models = {
            model.id: PooledModel(model, policy.presence.get(model.id), default=position == 0)
            for position, model in enumerate(policy.models)
        }
        written = Counter(model.spelling for model in policy.models)
        self._ids = {
            model.spelling: model.id for model in policy.models if written[model.spelling] == 1
        }
        self._starting: asyncio.Task[None] | None = None
        self._started = False
        self.traces = TraceCache(policy.trace_cache_bytes, TraceCacheMetrics(metrics))
        self._lifecycle = ModelLifecycle(
            self._models, policy, devices, batches, metrics, self.traces, tracing
        )

    def __iter__(self) -> Iterator[PooledModel]:
        """Iterate over the models, the default one first."""
        return iter(self._models.values())

    def get(self, model: str | None) -> PooledModel:
        """Return a model by its id, or as the settings write it; None means the default.

        Raises:
            UnknownModelError: there is no such model.
        """
        chosen = self._default if model is None else model
        if chosen not in self._models:
            chosen = self._ids.get(chosen, chosen)
        if chosen not in self._models:
            raise UnknownModelError(
                f"Model {chosen!r} is not served here; there is {', '.join(self._models)}.",
                field="model",
            )
        return self._models[chosen]

    @property
    def answers(self) -> bool:
        """Whether loading at start is over and the default model can answer requests."""
        return self._started and self.get(None).answers

    def check(self, owner: Hashable, computed_by: Callable[[int], float]) -> None:
        """Refuse a request before its body is read, if no model could take it. Reserve nothing.

        An early refusal costs a small part of one after the body is read and parsed.

        Args:
            owner: owner of the request.
            computed_by: from the most images in a batch of a model, to the time by which the
                request's pictures must be computed, on the monotonic clock in seconds.

        Raises:
            QueueFullError: every model is loaded, and its queue has no room or no time for more
                work of the owner.
        """
        soonest: QueueFullError | None = None
        for model in self:
            if model.phase != "loaded" or model.served is None:
                return
            try:
                by = computed_by(model.served.max_batch_images)
                model.served.batcher.check(self._least_room, by, owner)
            except QueueFullError as error:
                if soonest is None or error.retry_after_seconds < soonest.retry_after_seconds:
                    soonest = error
            except BatchingError:
                # Requests for this model are answered with the error itself.
                return
            else:
                return
        if soonest is not None:
            raise soonest

    def start(self) -> None:
        """Start loading the models that are loaded at start. Call it on the running event loop."""
        if self._policy.on_demand:
            self._started = True
        else:
            self._starting = asyncio.create_task(self._load_at_start())

    async def close(self, timeout: float) -> bool:
        """Finish the requests in flight and stop the workers; return False if time runs out."""
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
    async def use(self, model: str | None, until: float) -> AsyncIterator[ServedModel]:
        """Use a loaded model; it stays in memory until the context ends.

        If the model is not in memory and requests may load it, load it and wait.

        Args:
            model: the model's id, or None for the default.
            until: time until which to wait for the load, on the monotonic clock in seconds.

        Raises:
            UnknownModelError: no model has this id.
            NotReadyError: the model was unloaded by an operator, could not be loaded, is not loaded
                in time, or its worker has just died.
            NoRoomError: models with work in flight hold the memory that it needs.
            ModelTooLargeError: it needs more memory than the whole budget.
            BatcherClosedError: the server is shutting down.
        """
        pooled = self.get(model)
        # Counted as waiting, so that the model is not evicted between its load and its use.
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
        """Load a model, even if an operator unloaded it or its load failed.

        Args:
            model: the model's id.
            wait_seconds: longest wait for the load.

        Raises:
            UnknownModelError: no model has this id.
            NotReadyError, NoRoomError, ModelTooLargeError: the load failed within the wait.
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
        """Unload a model once its work is done.

        If models are loaded at start, requests do not load it again; if they are loaded on demand,
        the next request does.

        Args:
            model: the model's id.
            wait_seconds: longest wait for the unload.

        Raises:
            UnknownModelError: no model has this id.
        """
        pooled = self.get(model)
        pooled.withdrawn = not self._policy.on_demand
        self._lifecycle.dismiss(pooled)
        await self._lifecycle.until(lambda: pooled.phase == "unloaded", wait_seconds)
        return pooled

    async def _load_at_start(self) -> None:
        attempts = []
        for model in self:
            if not model.withdrawn:
                attempts.append(self._lifecycle.attempt(model, evicts=False))
                # Sizes are measured on threads, which end in any order. The next model is measured
                # only once this one has its memory, so the first ones of the settings get it.
                await self._lifecycle.until(model.has_claimed)
        for attempt in attempts:
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
            f"The workers of {model} hang and are not replaced: the server has to be restarted.",
            field="model",
            retry_after_seconds=None,
        )
    return NotReadyError(f"The worker of {model} is being replaced.", field="model")
