"""The record of one model of the settings, in memory or not."""

import asyncio
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from legrad_engine.devices import dtype_name
from legrad_engine.families import Tower
from legrad_engine.methods.base import Method
from legrad_engine.models import activation_of
from legrad_engine.models.identity import Stamps
from legrad_engine.presence import PresenceCalibration
from legrad_engine.targets.templates import TEMPLATE_SETS
from legrad_engine.targets.text import TextEncoder
from service.errors import ModelTooLargeError, NoRoomError, NotReadyError, ServiceError
from service.pool.served_model import ServedModel
from service.schemas.answers import Grid, Size
from service.schemas.models import (
    DegradedDevice,
    ModelInfo,
    ModelState,
    ModelWorker,
    OfferedMethod,
    Presence,
)
from service.schemas.sanity import SanityCheck
from service.settings.models import NamedModel

Phase = Literal["unloaded", "loading", "loaded", "unloading"]


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a model is not in memory.

    Attributes:
        kind: the error that requests for the model get.
        reason: the message for people.
        retry_at: time of the next automatic load, on the monotonic clock in seconds; None without
            one.
    """

    kind: type[NotReadyError | NoRoomError | ModelTooLargeError]
    reason: str
    retry_at: float | None = None

    @property
    def lasts(self) -> bool:
        """Whether the next request is refused because of it, in place of a new load."""
        return self.kind is not NoRoomError

    def problem(self, now: float) -> ServiceError:
        """Return the error for a request at this time of the monotonic clock."""
        if self.kind is not NotReadyError:
            return self.kind(self.reason, field="model")
        seconds = None if self.retry_at is None else max(0.0, self.retry_at - now)
        return NotReadyError(self.reason, field="model", retry_after_seconds=seconds)


class PooledModel:
    """The record of one model. Only its pool changes it, on the event loop.

    Attributes:
        id: the name that requests use.
        presence: the calibration that tells the presence of things; None without one.
        default: whether requests that name no model go to this one.
        phase: the current phase.
        wanted: whether the model should be in memory; the pool moves the phase towards that.
        served: the loaded model, in the phases "loaded" and "unloading".
        check: the result of ``legrad check`` for its weights, if there was one when it was loaded.
        measured: size of the weights in bytes, 0 if unknown; None before it is measured.
        measured_files: the local files that were measured; once they are overwritten, the size may
            be another.
        bytes: memory of the budget that the model holds, or claims while it loads.
        claimed: whether its last load got that memory.
        withdrawn: whether an operator unloaded it, so that only an operator loads it again.
        waiting: number of requests that wait for its load.
        in_flight: number of requests that use it.
        last_used: time of its load or of the last use, on the monotonic clock in seconds.
        last_used_at: time of the last use by a request.
        attempt: the load in progress or about to begin; its result is its failure, or None.
        evicts: whether that load may unload other models.
        failure: the failure of the last load, until one succeeds.
        failures: number of failed loads in a row.
        retry: timer of the next automatic load.
        moving: task that moves the model between phases.
    """

    def __init__(
        self, model: NamedModel, presence: PresenceCalibration | None = None, *, default: bool
    ) -> None:
        self.reference = model.reference
        self.presence = presence
        self.id = model.id
        self.default = default
        self.phase: Phase = "unloaded"
        self.wanted = False
        self.served: ServedModel | None = None
        self.check: SanityCheck | None = None
        self.measured: int | None = None
        self.measured_files: Stamps = ()
        self.bytes = 0
        self.claimed = False
        self.withdrawn = False
        self.waiting = 0
        self.in_flight = 0
        self.last_used = 0.0
        self.last_used_at: datetime | None = None
        self.attempt: asyncio.Future[LoadFailure | None] | None = None
        self.evicts = False
        self.failure: LoadFailure | None = None
        self.failures = 0
        self.retry: asyncio.TimerHandle | None = None
        self.moving: asyncio.Task[None] | None = None

    @property
    def state(self) -> ModelState:
        """The state that clients see."""
        if self.phase == "loaded" and self.served is not None:
            return "ready" if self.served.batcher.ready else "failed"
        if self.phase == "unloaded":
            return "failed" if self.failure is not None and self.failure.lasts else "unloaded"
        return "loading" if self.phase == "loading" and self.wanted else "unloading"

    @property
    def standing(self) -> str:
        """The state in words, with those of several devices."""
        text, workers = f"{self.id} is {self.state}", self.workers
        if len(workers) <= 1:
            return text
        each = (f"{worker.device} is {worker.state}" for worker in workers)
        return f"{text} ({', '.join(each)})"

    @property
    def workers(self) -> list[ModelWorker]:
        """The workers of the model in memory, and those that devices without a copy would have."""
        if self.served is None:
            return []
        present = (
            ModelWorker(device=device, state=state.value, error=None)
            for device, state in self.served.batcher.worker_states.items()
        )
        absent = (
            ModelWorker(device=device, state="failed", error=reason)
            for device, reason in self.served.left_out.items()
        )
        return [*present, *absent]

    @property
    def degraded(self) -> list[DegradedDevice]:
        """The devices that compute nothing now for the model, although it is loaded."""
        if self.phase != "loaded":
            return []
        return [
            DegradedDevice(model=self.id, device=worker.device, state=worker.state)
            for worker in self.workers
            if worker.state != "ready"
        ]

    def has_claimed(self) -> bool:
        """Return whether the load in progress has its memory, or is over."""
        return self.attempt is None or self.claimed

    @property
    def idle(self) -> bool:
        """Whether it is in memory and no request uses it or waits for it."""
        return self.phase == "loaded" and not self.in_flight and not self.waiting

    @property
    def loads_on_request(self) -> bool:
        """Whether a request loads it if it is not in memory."""
        return not self.withdrawn and not (self.failure is not None and self.failure.lasts)

    @property
    def answers(self) -> bool:
        """Whether a request would be answered, if necessary after loading."""
        if self.phase == "loaded":
            return self.state == "ready"
        return self.loads_on_request

    def info(self) -> ModelInfo:
        """Return the description of the model in answers of `/models`."""
        pretrained = self.reference.pretrained
        known = _NOTHING_KNOWN if self.served is None else _describe(self.served)
        return ModelInfo.model_validate(
            {
                "id": self.id,
                "name": self.reference.title,
                # Without the folder of a checkpoint, which is internal; `error` omits it too.
                "pretrained": None if pretrained is None else Path(pretrained).name,
                "default": self.default,
                "state": self.state,
                "error": None if self.failure is None else self.failure.reason,
                "loads_on_request": self.loads_on_request,
                "in_flight": self.in_flight,
                "last_used": self.last_used_at,
                "check": None if self.served is None else self.check,
                "workers": self.workers or None,
                "presence": None if self.presence is None else _calibration(self.presence),
                **known,
            }
        )


_NOTHING_KNOWN: dict[str, Any] = dict.fromkeys(
    (
        "device", "max_batch_images", "dtype", "bytes", "family", "image_size",
        "patch_size", "grid", "layers", "scores", "methods", "templates", "classes", "licence",
        "activation", "preprocessing",
    )
)  # fmt: skip


def _describe(served: ServedModel) -> dict[str, Any]:
    explainer, copies = served.explainer, served.copies
    tower = explainer.tower
    height, width = tower.image_size
    patch_height, patch_width = tower.patch_size
    rows, columns = tower.grid
    reads_text = isinstance(explainer.text, TextEncoder)
    classifier = explainer.classifier
    return {
        "device": ",".join(copies),
        "max_batch_images": served.max_batch_images,
        "dtype": dtype_name(explainer.dtype),
        "bytes": sum(copy.explainer.nbytes for copy in copies.values()),
        "family": tower.family,
        "image_size": Size(width=width, height=height),
        "patch_size": Size(width=patch_width, height=patch_height),
        "grid": Grid(rows=rows, columns=columns),
        "layers": tower.depth,
        "scores": list(tower.scores),
        "methods": [_offered(method, tower) for method in explainer.methods],
        # A model without a text encoder has no prompts, so no templates.
        "templates": list(TEMPLATE_SETS) if reads_text else [],
        "classes": 0 if classifier is None else classifier.count,
        "licence": explainer.licence,
        "activation": activation_of(explainer.model),
        "preprocessing": asdict(explainer.preprocessing),
    }


def _calibration(presence: PresenceCalibration) -> Presence:
    return Presence(**asdict(presence))


def _offered(method: Method[Any], tower: Tower) -> OfferedMethod:
    return OfferedMethod(
        name=method.name,
        title=method.title,
        description=method.description,
        source=method.source,
        targeted=method.targeted,
        splits_heads=method.splits_heads,
        layers=list(method.layers(tower, None)),
        layers_taken=method.layers_taken(tower),
        score=method.score(tower, None),
        note=method.note(tower),
    )
