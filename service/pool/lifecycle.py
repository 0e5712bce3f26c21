"""Loading and unloading of models: phases, retries and the memory budget.

All state changes happen on the event loop, so other tasks never see a partial step. Only loading,
measuring and draining run on threads of their own. At most one task for each model moves it between
phases, towards the phase that was last requested.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

import structlog
import torch

from legrad_engine import LegradError
from legrad_engine.devices import dtype_name
from legrad_engine.models.identity import ModelIdentity, file_stamps
from legrad_engine.models.size import weights_bytes
from service.batching import RestartBackoff
from service.errors import ModelTooLargeError, NoRoomError, NotReadyError
from service.pool.background import run_in_own_thread
from service.pool.loading import (
    check_presence,
    check_presence_of_files,
    give_back_memory,
    load_copies,
    may_heal,
    told_reason,
    wanted_dtype,
)
from service.pool.memory_budget import IdleModel, models_to_evict
from service.pool.pooled_model import LoadFailure, PooledModel
from service.pool.sanity_checks import check_of
from service.pool.served_model import ServedModel
from service.pool.trace_cache import TraceCache
from service.settings.batches import BatchPolicy
from service.settings.values import ModelPolicy
from service.telemetry.metrics import LoadOutcome, Metrics
from service.telemetry.tracing import Tracing

# Between loads that fail for a temporary reason.
_RELOAD_BACKOFF = RestartBackoff(initial_seconds=1.0, maximum_seconds=60.0)
_DRAIN_STEP_SECONDS = 5.0
_UNLOAD_AGAIN_SECONDS = 1.0

_log = structlog.get_logger("legrad.models")


class ModelLifecycle:
    """Moves models between their phases. See :class:`service.pool.pooled_model.PooledModel`.

    Attributes:
        closing: whether the server stops; memory is then freed by the end of the process.
    """

    def __init__(
        self,
        models: Mapping[str, PooledModel],
        policy: ModelPolicy,
        devices: Sequence[torch.device],
        batches: BatchPolicy,
        metrics: Metrics,
        traces: TraceCache,
        tracing: Tracing,
    ) -> None:
        self._models = models
        self._policy = policy
        self._devices = tuple(devices)
        self._batches = batches
        self._metrics = metrics
        self._traces = traces
        self._tracing = tracing
        self._budget = policy.max_bytes
        self.closing = False
        # Replaced at each change, so that many tasks can wait for different conditions.
        self._change = asyncio.Event()

    def attempt(self, model: PooledModel, *, evicts: bool) -> "asyncio.Future[LoadFailure | None]":
        """Return the load in progress, or start one; its result is its failure, or None.

        Args:
            model: the model to load.
            evicts: whether other models may be unloaded for it.
        """
        if model.attempt is None:
            model.attempt = asyncio.get_running_loop().create_future()
            model.evicts = False
        if model.phase == "loaded":
            attempt = model.attempt
            self._settle(model, None)
            return attempt
        model.evicts |= evicts
        model.wanted = True
        self._move(model)
        return model.attempt

    def _retry(self, model: PooledModel) -> None:
        model.retry = None
        # No request waits for this load, so it does not evict other models.
        self.attempt(model, evicts=False)

    def dismiss(self, model: PooledModel) -> None:
        """Unload a model once its work is done, and stop retrying to load it."""
        model.wanted = False
        self.forget_failure(model)
        self._settle(model, None)
        if model.phase == "loaded":
            model.phase = "unloading"
            self._move(model)
        self.notify()

    def forget_failure(self, model: PooledModel) -> None:
        """Reset the failure of a model and cancel its next retry."""
        model.failure, model.failures = None, 0
        if model.retry is not None:
            model.retry.cancel()
            model.retry = None

    async def abandon(self) -> None:
        """Stop every task and worker; items that are still queued fail."""
        tasks = [model.moving for model in self._models.values() if model.moving is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for model in self._models.values():
            if model.served is not None:
                await run_in_own_thread(f"unloader-{model.id}", model.served.batcher.drain, 0.0)

    def _move(self, model: PooledModel) -> None:
        if model.moving is None:
            model.moving = asyncio.create_task(self._move_as_wanted(model))

    async def _move_as_wanted(self, model: PooledModel) -> None:
        try:
            while True:
                if model.phase == "unloading":
                    await self._take_down(model)
                elif model.phase == "unloaded" and model.wanted:
                    await self._bring_up(model)
                else:
                    break
        finally:
            model.moving = None

    async def _bring_up(self, model: PooledModel) -> None:
        model.phase = "loading"
        model.claimed = False
        try:
            self._claim_memory(model, await self._measure(model))
            model.claimed = True
            self.notify()
            await self.until(self._memory_fits)
            if model.wanted:
                await self._load(model)
        except Exception as error:
            self._fail(model, error)
            return
        if model.served is None:
            self._set_unloaded(model)
        elif not model.wanted:
            model.phase = "unloading"
        else:
            model.phase = "loaded"
            model.last_used = time.monotonic()
            self.forget_failure(model)
            self._settle(model, None)
        self.notify()

    async def _load(self, model: PooledModel) -> None:
        began = time.monotonic()
        name = f"loader-{model.id}"
        identity: ModelIdentity | None = None
        if model.presence is not None:
            identity = await run_in_own_thread(
                name, check_presence_of_files, model.reference, model.presence
            )
        copies = await run_in_own_thread(
            name,
            load_copies,
            model.reference,
            self._devices,
            self._policy.dtype,
            self._policy.accelerate,
            self._batches.max_images,
        )
        if not model.wanted:
            return
        if model.presence is not None:
            identity = await run_in_own_thread(
                name, check_presence, model.reference, model.presence, identity
            )
        # The exact size. If it is refused now, the next attempt is refused before loading.
        model.measured = sum(copy.explainer.nbytes for copy in copies.warm.values())
        self._claim_memory(model, model.measured)
        served = ServedModel(
            model.id,
            copies,
            self._batches,
            self._policy.stall_seconds,
            self._metrics,
            self._traces,
            self._tracing,
        )
        model.check = await run_in_own_thread(
            name, check_of, self._policy.checks_folder, model.reference, identity
        )
        # Set before the worker starts, so that a server that stops now also stops the worker.
        model.served = served
        await run_in_own_thread(name, served.start)
        self._metrics.model_bytes.labels(model.id).set(model.bytes)
        self._count(model, "loaded")
        seconds = round(time.monotonic() - began, 3)
        _log.info(
            "model loaded",
            model=model.id,
            bytes=model.bytes,
            seconds=seconds,
            devices=list(copies.warm),
            dtype=dtype_name(served.explainer.dtype),
            max_batch_images=served.max_batch_images,
        )

    async def _take_down(self, model: PooledModel) -> None:
        await self.until(lambda: not model.in_flight)
        served = model.served
        name = f"unloader-{model.id}"
        try:
            # No request is left, but the worker may still compute for clients that have left.
            while served and not await run_in_own_thread(
                name, served.batcher.drain, _DRAIN_STEP_SECONDS
            ):
                _log.warning("model still computes", model=model.id)
            model.served = served = None
            self._traces.forget(model.id)
            if not self.closing:
                await run_in_own_thread(name, give_back_memory)
        except Exception:
            # For example, no thread could be started. Other models wait for the memory, so the
            # unload is retried.
            _log.exception("model not unloaded", model=model.id)
            await asyncio.sleep(_UNLOAD_AGAIN_SECONDS)
            return
        self._set_unloaded(model)
        _log.info("model unloaded", model=model.id)
        self.notify()

    def _fail(self, model: PooledModel, error: Exception) -> None:
        self._set_unloaded(model)
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
        self.notify()

    def _failure_of(self, model: PooledModel, error: Exception) -> LoadFailure:
        reason = told_reason(model.reference, error)
        reason = f"Model {model.id!r} could not be loaded: {reason}"
        if not may_heal(error):
            return LoadFailure(NotReadyError, reason)
        model.failures += 1
        delay = _RELOAD_BACKOFF.delay_seconds(model.failures)
        return LoadFailure(NotReadyError, reason, time.monotonic() + delay)

    def _set_unloaded(self, model: PooledModel) -> None:
        model.phase = "unloaded"
        model.served = None
        model.bytes = 0
        self._metrics.model_bytes.labels(model.id).set(0)

    @staticmethod
    def _settle(model: PooledModel, failure: LoadFailure | None) -> None:
        """Notify the tasks that wait for a load; without a failure they check the phase again."""
        attempt, model.attempt = model.attempt, None
        if attempt is not None:
            attempt.set_result(failure)

    async def _measure(self, model: PooledModel) -> int:
        """Return the bytes that a model will take; 0 without a budget or if not known yet."""
        if self._budget is None:
            return 0
        name, dtype = (
            f"sizer-{model.id}",
            dtype_name(wanted_dtype(self._policy.dtype, self._devices)),
        )
        files = await run_in_own_thread(name, file_stamps, model.reference)
        if model.measured is None or model.measured_files != files:
            each = await run_in_own_thread(name, weights_bytes, model.reference, dtype) or 0
            model.measured = each * len(self._devices)
            model.measured_files = files
        return model.measured

    def _claim_memory(self, model: PooledModel, size: int) -> None:
        """Set memory of the budget aside for a model; evict idle models if necessary.

        Models that are being unloaded do not count: loading waits until they are gone.

        Raises:
            ModelTooLargeError: the model is larger than the whole budget.
            NoRoomError: evicting all idle models would not free enough.
        """
        if self._budget is not None:
            if size > self._budget:
                raise ModelTooLargeError(
                    f"Model {model.id!r} takes {size:,} bytes, but this server keeps at most "
                    f"{self._budget:,} bytes of models in memory (LEGRAD_MAX_MODEL_BYTES)."
                )
            staying = sum(
                other.bytes
                for other in self._models.values()
                if other is not model and other.phase in ("loading", "loaded")
            )
            self._evict(model, staying + size - self._budget)
        model.bytes = size

    def _evict(self, model: PooledModel, excess: int) -> None:
        idle = [
            IdleModel(each.id, each.bytes, each.last_used)
            for each in self._models.values()
            if each.idle and model.evicts
        ]
        victims = models_to_evict(idle, excess)
        if victims is None:
            raise NoRoomError(
                f"Model {model.id!r} needs {excess:,} more bytes than are free for models in "
                "memory, and no other model can leave it now."
            )
        for victim in victims:
            _log.info("model evicted", model=victim, room_for=model.id)
            self._metrics.model_evictions.labels(victim).inc()
            self.dismiss(self._models[victim])

    def _memory_fits(self) -> bool:
        held = sum(model.bytes for model in self._models.values())
        return self._budget is None or held <= self._budget

    def _count(self, model: PooledModel, outcome: LoadOutcome) -> None:
        self._metrics.model_loads.labels(model.id, outcome).inc()

    def notify(self) -> None:
        """Wake every :meth:`until` to check its condition again."""
        changed, self._change = self._change, asyncio.Event()
        changed.set()

    async def until(self, holds: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait for a condition on the models; return False if it does not hold in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not holds():
                    await self._change.wait()
        return holds()
