"""The models of the settings: which of them are in memory, and how they get there and leave.

Everything here runs on the event loop, so that no step can be seen half done; only loading,
measuring and draining run on threads of their own. For each model at most one task moves it
between its phases, towards what was last wanted of it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime

import structlog

from legrad_engine import LegradError
from legrad_engine.errors import UnknownModelError
from legrad_engine.model_size import weights_bytes
from service.batching import BatcherClosedError, RestartBackoff
from service.loading import give_back_memory, load_explainer, may_heal
from service.memory_budget import IdleModel, models_to_evict
from service.metrics import LoadOutcome, Metrics
from service.off_loop import run_alone
from service.pooled_model import LoadFailure, PooledModel
from service.problems import ModelTooLargeError, NoRoomError, NotReadyError
from service.served_model import ServedModel
from service.settings import Settings

# Between loads that fail for a reason that may pass.
_RELOAD_BACKOFF = RestartBackoff(initial_seconds=1.0, maximum_seconds=60.0)
# A load that outlasts a request takes seconds at least.
_STILL_LOADING_RETRY_SECONDS = 5.0
_DRAIN_STEP_SECONDS = 5.0
_UNLOAD_AGAIN_SECONDS = 1.0

_log = structlog.get_logger("legrad.models")


class ModelPool:
    """Every model of the settings, by id; the first one is the default."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        references = settings.model_references
        self._settings = settings
        self._metrics = metrics
        self._budget = settings.max_model_bytes
        self._default = references[0].id
        self._models = {
            reference.id: PooledModel(reference, default=position == 0)
            for position, reference in enumerate(references)
        }
        self._starting: asyncio.Task[None] | None = None
        self._started = False
        self._closing = False
        # Replaced each time something changed, so that many can wait for many conditions.
        self._change = asyncio.Event()

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
    def ready(self) -> bool:
        """Whether loading at start is over and a request without a model would be answered."""
        return self._started and self.get(None).answers

    def start(self) -> None:
        """Begins to load what is loaded at start. To be called on the running event loop."""
        if self._settings.load_models == "on-demand":
            self._started = True
        else:
            self._starting = asyncio.create_task(self._load_at_start())

    async def close(self, timeout: float) -> bool:
        """Finishes what is in flight and stops the workers; whether all did within the time."""
        self._closing = True
        if self._starting is not None:
            self._starting.cancel()
        for model in self:
            self._dismiss(model)
        closed = await self._until(self._all_unloaded, timeout)
        for model in self:
            if model.served is not None:
                # Fails what is left in its queue; nobody is waited for any more.
                await run_alone("closer", model.served.batcher.drain, 0.0)
            if model.moving is not None:
                model.moving.cancel()
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
                raise NotReadyError(f"The worker of {pooled.id} is being replaced.", field="model")
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
                self._notify()

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
            self._forget_failure(pooled)
        attempt = self._attempt(pooled, evicts=True)
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
        self._dismiss(pooled)
        await self._until(lambda: pooled.phase == "unloaded", wait_seconds)
        return pooled

    # What requests, operators and timers ask for.

    async def _load_at_start(self) -> None:
        if self._budget is not None:
            # All at once afterwards, in the order of the settings: the first ones get the room.
            for model in self:
                with contextlib.suppress(Exception):  # its load will fail for it, and say so
                    await self._measure(model)
        await asyncio.wait([self._attempt(model, evicts=False) for model in self])
        self._started = True
        _log.info("loaded", **{model.id: model.state for model in self})

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
        attempt = self._attempt(model, evicts=True)
        await asyncio.wait({attempt}, timeout=max(0.0, until - now))
        if not attempt.done():
            raise NotReadyError(
                f"Model {model.id!r} is still loading; see /models/{model.id}.",
                field="model",
                retry_after_seconds=_STILL_LOADING_RETRY_SECONDS,
            )
        if failure := attempt.result():
            raise failure.problem(time.monotonic())

    def _attempt(self, model: PooledModel, *, evicts: bool) -> "asyncio.Future[LoadFailure | None]":
        """The load that is under way, or a new one."""
        if model.attempt is None:
            model.attempt = asyncio.get_running_loop().create_future()
            model.evicts = False
        model.evicts |= evicts
        model.wanted = True
        self._move(model)
        return model.attempt

    def _retry(self, model: PooledModel) -> None:
        model.retry = None
        # Nobody waits for it, so that nobody's model has to go for it.
        self._attempt(model, evicts=False)

    def _dismiss(self, model: PooledModel) -> None:
        model.wanted = False
        self._forget_failure(model)
        self._settle(model, None)
        if model.phase == "loaded":
            model.phase = "unloading"
            self._move(model)
        self._notify()

    def _forget_failure(self, model: PooledModel) -> None:
        model.failure, model.failures = None, 0
        if model.retry is not None:
            model.retry.cancel()
            model.retry = None

    # How a model moves between its phases.

    def _move(self, model: PooledModel) -> None:
        if model.moving is None:
            model.moving = asyncio.create_task(self._move_as_wanted(model))

    async def _move_as_wanted(self, model: PooledModel) -> None:
        while True:
            if model.phase == "unloading":
                try:
                    await self._take_down(model)
                except Exception:
                    # Such as no thread to be had. Whoever needs the memory still waits for it.
                    _log.exception("model not unloaded", model=model.id)
                    await asyncio.sleep(_UNLOAD_AGAIN_SECONDS)
            elif model.phase == "unloaded" and model.wanted:
                await self._bring_up(model)
            else:
                break
        model.moving = None

    async def _bring_up(self, model: PooledModel) -> None:
        model.phase = "loading"
        try:
            self._reserve(model, await self._measure(model))
            await self._until(self._memory_fits)
            if model.wanted:
                await self._load(model)
        except Exception as error:
            self._fail(model, error)
            return
        if model.served is None:
            self._release(model)
        elif not model.wanted:
            model.phase = "unloading"
        else:
            model.phase = "loaded"
            model.last_used = time.monotonic()
            self._forget_failure(model)
            self._settle(model, None)
        self._notify()

    async def _load(self, model: PooledModel) -> None:
        began = time.monotonic()
        name = f"loader-{model.id}"
        explainer = await run_alone(name, load_explainer, model.reference, self._settings)
        if not model.wanted:
            return
        # What could not be known before; if it is refused, then from now on before it is loaded.
        model.measured = explainer.nbytes
        self._reserve(model, model.measured)
        served = ServedModel(model.id, explainer, self._settings, self._metrics)
        await run_alone(name, served.start)
        model.served = served
        self._metrics.model_bytes.labels(model.id).set(model.bytes)
        self._count(model, "loaded")
        seconds = round(time.monotonic() - began, 3)
        _log.info("model loaded", model=model.id, bytes=model.bytes, seconds=seconds)

    async def _take_down(self, model: PooledModel) -> None:
        await self._until(lambda: not model.in_flight)
        served = model.served
        if served is not None:
            name = f"unloader-{model.id}"
            while not await run_alone(name, served.batcher.drain, _DRAIN_STEP_SECONDS):
                _log.warning("model still computes", model=model.id)
            model.served = served = None
            if not self._closing:
                await run_alone(name, give_back_memory)
        self._release(model)
        _log.info("model unloaded", model=model.id)
        self._notify()

    def _fail(self, model: PooledModel, error: Exception) -> None:
        self._release(model)
        failure: LoadFailure | None = None
        if isinstance(error, (NoRoomError, ModelTooLargeError)):
            failure = LoadFailure(type(error), str(error))
            self._count(model, "refused")
            _log.warning("model refused", model=model.id, reason=failure.reason)
        else:
            failure = self._failure_of(model, error)
            self._count(model, "failed")
            _log.error(
                "model not loaded",
                model=model.id,
                reason=failure.reason,
                retried=failure.retry_at is not None,
                exc_info=None if isinstance(error, LegradError) else error,
            )
        if model.wanted:
            model.wanted = False
            model.failure = failure
            if failure.retry_at is not None:
                delay = max(0.0, failure.retry_at - time.monotonic())
                model.retry = asyncio.get_running_loop().call_later(delay, self._retry, model)
            self._settle(model, failure)
        self._notify()

    def _failure_of(self, model: PooledModel, error: Exception) -> LoadFailure:
        reason = model.without_folders(str(error) or type(error).__name__)
        reason = f"Model {model.id!r} could not be loaded: {reason}"
        if not may_heal(error):
            return LoadFailure(NotReadyError, reason)
        model.failures += 1
        delay = _RELOAD_BACKOFF.delay_seconds(model.failures)
        return LoadFailure(NotReadyError, reason, time.monotonic() + delay)

    def _release(self, model: PooledModel) -> None:
        model.phase = "unloaded"
        model.bytes = 0
        self._metrics.model_bytes.labels(model.id).set(0)

    @staticmethod
    def _settle(model: PooledModel, failure: LoadFailure | None) -> None:
        """Answers those who wait for a load; without a failure they look for themselves."""
        attempt, model.attempt = model.attempt, None
        if attempt is not None:
            attempt.set_result(failure)

    # Memory.

    async def _measure(self, model: PooledModel) -> int:
        """The bytes that a model will take; 0 where only loading it tells, or nobody counts."""
        if self._budget is None:
            return 0
        if model.measured is None:
            name, dtype = f"sizer-{model.id}", self._settings.dtype
            model.measured = await run_alone(name, weights_bytes, model.reference, dtype) or 0
        return model.measured

    def _reserve(self, model: PooledModel, size: int) -> None:
        """Sets aside memory for a model, and dismisses those that have to go for it.

        Models on their way out do not count: the memory is there as soon as they have gone.
        """
        if self._budget is not None:
            if size > self._budget:
                raise ModelTooLargeError(
                    f"Model {model.id!r} takes {size:,} bytes, but this server keeps at most "
                    f"{self._budget:,} bytes of models in memory (LEGRAD_MAX_MODEL_BYTES)."
                )
            staying = sum(
                other.bytes
                for other in self
                if other is not model and other.phase in ("loading", "loaded")
            )
            self._evict(model, staying + size - self._budget)
        model.bytes = size

    def _evict(self, model: PooledModel, excess: int) -> None:
        idle = [IdleModel(each.id, each.bytes, each.last_used) for each in self if each.idle]
        victims = models_to_evict(idle if model.evicts else (), excess)
        if victims is None:
            raise NoRoomError(
                f"Model {model.id!r} needs {excess:,} more bytes than are free for models in "
                "memory, and no other model can leave it now."
            )
        for victim in victims:
            _log.info("model evicted", model=victim, room_for=model.id)
            self._metrics.model_evictions.labels(victim).inc()
            self._dismiss(self._models[victim])

    def _memory_fits(self) -> bool:
        return self._budget is None or sum(model.bytes for model in self) <= self._budget

    # Small things.

    def _all_unloaded(self) -> bool:
        return all(model.phase == "unloaded" for model in self)

    def _require_open(self) -> None:
        if self._closing:
            raise BatcherClosedError("The server is shutting down.")

    @staticmethod
    def _touch(model: PooledModel) -> None:
        model.last_used, model.last_used_at = time.monotonic(), datetime.now(UTC)

    def _count(self, model: PooledModel, outcome: LoadOutcome) -> None:
        self._metrics.model_loads.labels(model.id, outcome).inc()

    def _notify(self) -> None:
        changed, self._change = self._change, asyncio.Event()
        changed.set()

    async def _until(self, holds: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until something holds that changes only here; whether it came about in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not holds():
                    await self._change.wait()
        return holds()
