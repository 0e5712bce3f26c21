"""One model of the settings, whether it is in memory or not, and what is known about it."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from legrad_engine import Explainer
from legrad_engine.devices import dtype_name
from legrad_engine.models import ModelReference
from legrad_engine.targets.templates import TEMPLATE_SETS
from legrad_engine.targets.text import TextEncoder
from service.errors import ModelTooLargeError, NoRoomError, NotReadyError, ServiceError
from service.pool.served_model import ServedModel
from service.schemas.answers import Grid, ModelInfo, ModelState, Size

Phase = Literal["unloaded", "loading", "loaded", "unloading"]


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a model is not in memory.

    Attributes:
        kind: what its requests are answered with.
        reason: what went wrong, for a person.
        retry_at: when loading is tried again without being asked, on the monotonic clock; None for
            never.
    """

    kind: type[NotReadyError | NoRoomError | ModelTooLargeError]
    reason: str
    retry_at: float | None = None

    @property
    def lasts(self) -> bool:
        """Whether the next request is refused for it, rather than trying again."""
        return self.kind is not NoRoomError

    def problem(self, now: float) -> ServiceError:
        """The answer to a request, at a time on the monotonic clock."""
        if self.kind is not NotReadyError:
            return self.kind(self.reason, field="model")
        seconds = None if self.retry_at is None else max(0.0, self.retry_at - now)
        return NotReadyError(self.reason, field="model", retry_after_seconds=seconds)


class PooledModel:
    """The record of one model. Only its pool changes it, on the event loop.

    Attributes:
        id: what requests call it.
        default: whether requests that name no model go here.
        phase: where it stands.
        wanted: whether it is to be in memory; the pool moves the phase towards that.
        served: the loaded model, in the phases "loaded" and "unloading".
        measured: the size of its weights as far as it is known; None before anybody asked.
        bytes: memory that it holds, or has reserved while it loads.
        withdrawn: whether it was unloaded for good, until it is loaded by request of an operator.
        waiting: requests that wait for it to be loaded.
        in_flight: requests that use it.
        last_used: when a request last did, or when it was loaded; on the monotonic clock.
        last_used_at: when a request last did.
        attempt: the load under way or about to begin; its result is its failure, or None.
        evicts: whether that load may unload other models.
        failure: why the last load failed, until one succeeds.
        failures: loads that failed in a row.
        retry: the timer of the next try.
        moving: the task that moves the phase.
    """

    def __init__(self, reference: ModelReference, *, default: bool) -> None:
        self.reference = reference
        self.id = reference.id
        self.default = default
        self.phase: Phase = "unloaded"
        self.wanted = False
        self.served: ServedModel | None = None
        self.measured: int | None = None
        self.bytes = 0
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
        """What the model can do now."""
        if self.phase == "loaded" and self.served is not None:
            return "ready" if self.served.batcher.ready else "failed"
        if self.phase == "unloaded":
            return "failed" if self.failure is not None and self.failure.lasts else "unloaded"
        return "loading" if self.phase == "loading" and self.wanted else "unloading"

    @property
    def idle(self) -> bool:
        """Whether it is in memory and nobody uses it or is about to."""
        return self.phase == "loaded" and not self.in_flight and not self.waiting

    @property
    def loads_on_request(self) -> bool:
        """Whether a request loads it when it is not loaded."""
        return not self.withdrawn and not (self.failure is not None and self.failure.lasts)

    @property
    def answers(self) -> bool:
        """Whether a request would be answered, if need be after loading."""
        if self.phase == "loaded":
            return self.state == "ready"
        return self.loads_on_request

    def info(self) -> ModelInfo:
        """What `/models` tells."""
        pretrained = self.reference.pretrained
        known = _NOTHING_KNOWN if self.served is None else _describe(self.served.explainer)
        return ModelInfo.model_validate(
            {
                "id": self.id,
                "name": self.reference.title,
                # A checkpoint's folder is nobody's business but the operator's, as in `error`.
                "pretrained": None if pretrained is None else Path(pretrained).name,
                "default": self.default,
                "state": self.state,
                "error": None if self.failure is None else self.failure.reason,
                "loads_on_request": self.loads_on_request,
                "in_flight": self.in_flight,
                "last_used": self.last_used_at,
                **known,
            }
        )


_NOTHING_KNOWN: dict[str, Any] = dict.fromkeys(
    (
        "device", "dtype", "bytes", "family", "image_size",
        "patch_size", "grid", "layers", "scores", "templates", "licence",
    )
)  # fmt: skip


def _describe(explainer: Explainer) -> dict[str, Any]:
    tower = explainer.tower
    height, width = tower.image_size
    patch_height, patch_width = tower.patch_size
    rows, columns = tower.grid
    return {
        "device": str(explainer.device),
        "dtype": dtype_name(explainer.dtype),
        "bytes": explainer.nbytes,
        "family": tower.family,
        "image_size": Size(width=width, height=height),
        "patch_size": Size(width=patch_width, height=patch_height),
        "grid": Grid(rows=rows, columns=columns),
        "layers": tower.depth,
        "scores": list(tower.scores),
        # A model of images alone has no prompts to put into templates.
        "templates": list(TEMPLATE_SETS) if isinstance(explainer.text, TextEncoder) else [],
        "licence": explainer.licence,
    }
