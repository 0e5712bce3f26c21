"""The steps that every protocol shares: accept a request, read its body, carry out its commands."""

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from fastapi import Request

from service.errors import ClientLeftError, SlowBodyError
from service.explaining.admission import Reservation
from service.explaining.command import ExplainCommand, ExplainInputs
from service.explaining.outcome import ExplainOutcome, StageSeconds
from service.explaining.progress import Progress
from service.http.application import ApplicationState, application_of
from service.http.record import RequestRecord, record_of
from service.telemetry.stages import Stages

_Body = TypeVar("_Body")
_Answer = TypeVar("_Answer")

TIMEOUT_PARAMETER: dict[str, Any] = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "Deadline of this request in milliseconds, no longer than the server's own.",
    "schema": {"type": "integer", "minimum": 1, "example": 5000},
}


@dataclass(frozen=True, slots=True)
class AcceptedRequest:
    """A request that has a slot on this server.

    Attributes:
        request: the request; its body is not read yet.
        received: time of arrival, on the monotonic clock in seconds.
        deadline: time after which the answer is useless, on the same clock.
        reservation: its slot, until its answer is sent.
        progress: the progress that its caller can follow, by its id.
        record: notes for the log and the headers.
        application: the application that answers it.
    """

    request: Request
    received: float
    deadline: float
    reservation: Reservation
    progress: Progress
    record: RequestRecord
    application: ApplicationState

    async def read(self, reading: Awaitable[_Body]) -> _Body:
        """Await the body.

        Args:
            reading: reads and checks the body.

        Raises:
            SlowBodyError: it did not arrive before the deadline.
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
            Exception: see :meth:`ExplainingService.explain`.
        """
        (outcome,) = await self.explain_all([inputs])
        return outcome

    async def explain_all(self, inputs: Sequence[ExplainInputs]) -> list[ExplainOutcome]:
        """Carry out commands for the same model side by side, all of them or none.

        Each takes a slot until all are sent, as if it were a request of its own. The request's
        record gets the stages, the model and the timings.

        Raises:
            TooManyRequestsError: there are not as many slots.
            ClientLeftError: the client closed the connection.
            Exception: see :meth:`ExplainingService.explain`.
        """
        explaining = self.application.explaining
        for _ in inputs[1:]:
            self.record.until_sent.enter_context(explaining.admission.reserve())
        # Set before the work, because the log of a failed request shows its stages too.
        self.record.stages = stages = Stages(self.application.tracing)
        commands = [
            ExplainCommand(each, self.received, self.deadline, self.progress, stages)
            for each in inputs
        ]
        outcomes = await self._unless_client_leaves(
            explaining.explain_all(commands, self.reservation)
        )
        self.record.model = outcomes[0].model
        self.record.timings = _slowest(outcomes)
        return outcomes

    async def _unless_client_leaves(self, answering: Coroutine[Any, Any, _Answer]) -> _Answer:
        work = asyncio.create_task(answering)
        leaving = asyncio.create_task(_disconnected(self.request))
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientLeftError
            return work.result()
        finally:
            for task in (work, leaving):
                task.cancel()
            await asyncio.gather(work, leaving, return_exceptions=True)


def accept(request: Request) -> AcceptedRequest:
    """Reserve a slot for a request, from before its body is read until its answer is sent.

    So a full server holds no bodies either, and an answer that nobody reads still counts.

    Raises:
        TooManyRequestsError: every slot is taken.
        RequestValidationError: the deadline header is not a time.
    """
    received = time.monotonic()
    application, record = application_of(request.app), record_of(request.scope)
    deadline = received + record.timeout(application.request_timeout_seconds)
    explaining = application.explaining
    reservation = record.until_sent.enter_context(explaining.admission.reserve())
    progress = record.until_sent.enter_context(explaining.progress.follow(record.request_id))
    return AcceptedRequest(
        request, received, deadline, reservation, progress, record, application
    )


def _slowest(outcomes: Sequence[ExplainOutcome]) -> dict[str, float]:
    return {
        stage.name: max(getattr(outcome.seconds, stage.name) for outcome in outcomes)
        for stage in fields(StageSeconds)
    }


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
