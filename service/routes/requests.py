"""Steps that all protocols share: accept a request, read its body, carry out its commands."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from fastapi import Request

from service.errors import ClientLeftError, SlowBodyError
from service.explaining.admission import Reservation
from service.explaining.command import Caller, ExplainCommand, ExplainInputs
from service.explaining.outcome import ExplainOutcome, StageSeconds
from service.explaining.progress import Progress
from service.http.application import ApplicationState, application_of
from service.http.record import RequestRecord, record_of
from service.telemetry.stages import Stages

_Body = TypeVar("_Body")
_Answer = TypeVar("_Answer")

_STAGES = tuple(stage.name for stage in fields(StageSeconds))

TIMEOUT_PARAMETER: dict[str, Any] = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "Timeout of this request in milliseconds, at most the server's own.",
    "schema": {"type": "integer", "minimum": 1, "example": 5000},
}


@dataclass(frozen=True, slots=True)
class AcceptedRequest:
    """A request with a reserved slot.

    Attributes:
        request: the request; its body is not read yet.
        received: time of arrival, on the monotonic clock in seconds.
        deadline: time after which the answer is useless, on the same clock.
        reservation: the slot, released once the answer is sent.
        progress: the progress of the request, which its caller can read.
        record: the record of the request.
        application: the application that answers it.
    """

    request: Request
    received: float
    deadline: float
    reservation: Reservation
    progress: Progress
    record: RequestRecord
    application: ApplicationState

    @property
    def caller(self) -> Caller:
        """The sender of the request."""
        return Caller(self.record.key, self.record.charge)

    async def read(self, reading: Awaitable[_Body]) -> _Body:
        """Read the body before the deadline.

        Args:
            reading: reads and checks the body.

        Raises:
            SlowBodyError: the body did not arrive before the deadline.
        """
        seconds = self.deadline - self.received
        try:
            async with asyncio.timeout(self.deadline - time.monotonic()):
                return await reading
        except TimeoutError as error:
            raise SlowBodyError(
                f"The body did not arrive within {seconds:g} s; send it again."
            ) from error

    async def explain(self, inputs: ExplainInputs) -> ExplainOutcome:
        """Carry out a command; cancel it if the client leaves.

        Raises:
            ClientLeftError: the client closed the connection.
            Exception: see :meth:`ExplainingService.explain_all`.
        """
        (outcome,) = await self.explain_all([inputs])
        return outcome

    async def explain_all(self, inputs: Sequence[ExplainInputs]) -> list[ExplainOutcome]:
        """Carry out commands for the same model concurrently; the first error cancels the rest.

        Each command takes a slot until the answer is sent, as if it were a request of its own.
        Stages, model and timings go into the request's record.

        Raises:
            TooManyRequestsError: too few slots are free.
            ClientLeftError: the client closed the connection.
            Exception: see :meth:`ExplainingService.explain_all`.
        """
        explaining = self.application.explaining
        for _ in inputs[1:]:
            self.record.until_sent.enter_context(
                explaining.admission.reserve(self.reservation.owner)
            )
        # Set before the work, so that the log line of a failed request has its stages too.
        self.record.stages = stages = Stages(self.application.tracing)
        commands = [
            ExplainCommand(each, self.received, self.deadline, self.progress, stages, self.caller)
            for each in inputs
        ]
        outcomes = await self._unless_client_leaves(
            explaining.explain_all(commands, self.reservation)
        )
        self.record.model = outcomes[0].model
        self.record.timings = _slowest(outcomes)
        return outcomes

    async def _unless_client_leaves(self, answering: Awaitable[_Answer]) -> _Answer:
        """Await an answer; cancel it if the client leaves.

        Raises:
            ClientLeftError: the client closed the connection.
        """
        working = asyncio.current_task()
        if working is None:
            raise RuntimeError("Requests are handled by tasks.")
        leaving = asyncio.create_task(_disconnected(self.request))
        left = False

        def leave(watched: asyncio.Task[None]) -> None:
            nonlocal left
            if not watched.cancelled():
                left = True
                # Marks an error of the connection, which counts as leaving, as seen.
                watched.exception()
                working.cancel()

        leaving.add_done_callback(leave)
        try:
            return await answering
        except asyncio.CancelledError:
            if left and not working.uncancel():
                raise ClientLeftError from None
            raise
        finally:
            leaving.remove_done_callback(leave)
            leaving.cancel()


def accept(request: Request) -> AcceptedRequest:
    """Reserve a slot for a request, from before its body is read until its answer is sent.

    A full server therefore holds no bodies, and answers that clients read slowly count too.

    Raises:
        TooManyRequestsError: every slot is taken.
        RequestValidationError: the timeout header is not a positive whole number.
    """
    received = time.monotonic()
    application, record = application_of(request.app), record_of(request.scope)
    deadline = received + record.timeout(application.request_timeout_seconds)
    explaining = application.explaining
    owner = application.access.owner(request.scope)
    reservation = record.until_sent.enter_context(explaining.admission.reserve(owner))
    progress = record.until_sent.enter_context(explaining.progress.follow(record.request_id))
    return AcceptedRequest(request, received, deadline, reservation, progress, record, application)


def _slowest(outcomes: Sequence[ExplainOutcome]) -> dict[str, float]:
    return {
        stage: max(getattr(outcome.seconds, stage) for outcome in outcomes) for stage in _STAGES
    }


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
