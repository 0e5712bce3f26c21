"""What every protocol shares: a place, a body within the deadline, an answer to who still waits."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.datastructures import Headers

from service.errors import ClientLeftError, SlowBodyError
from service.explaining.admission import Place
from service.explaining.command import ExplainCommand, ExplainOutcome
from service.explaining.progress import Progress
from service.explaining.service import ExplainingService
from service.routes.bodies.validation import invalid, whole_number
from service.schemas.answers import Timings
from service.settings import Settings
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
    """A request that has a place on this server.

    Attributes:
        request: the request; its body is not read yet.
        received: when it arrived, on the monotonic clock in seconds.
        deadline: when its answer is of no more use, on the same clock.
        place: what it holds until its answer is sent.
        progress: where its caller can follow it, by its id.
    """

    request: Request
    received: float
    deadline: float
    place: Place
    progress: Progress

    async def read(self, reading: Awaitable[_Body]) -> _Body:
        """What is read of the body.

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

    async def carry_out(self, command: ExplainCommand) -> ExplainOutcome:
        """Carries out the command; stops, and gives up what is queued, if the client leaves.

        What the log and the headers tell of an answer is kept in the request's state: its
        ``model`` and its ``timings``.

        Raises:
            ClientLeftError: the client closed the connection.
            Exception: see :meth:`ExplainingService.explain`.
        """
        (outcome,) = await self.carry_out_all([command])
        return outcome

    async def carry_out_all(self, commands: Sequence[ExplainCommand]) -> list[ExplainOutcome]:
        """Carries out commands to the same model side by side, all of them or none.

        Each takes a place until all are sent, as if it were a request of its own.

        Raises:
            TooManyRequestsError: there are not as many places.
            ClientLeftError: the client closed the connection.
            Exception: see :meth:`ExplainingService.explain`.
        """
        explaining: ExplainingService = self.request.app.state.explaining
        for _ in commands[1:]:
            self.request.state.until_sent.enter_context(explaining.permit())
        # There also for a request that fails: the log tells how far it came.
        self.request.state.stages = stages = Stages(self.request.app.state.tracing)
        outcomes = await self._unless_client_leaves(
            explaining.explain_all(commands, self.place, stages)
        )
        self.request.state.model = outcomes[0].model
        self.request.state.timings = _slowest(outcomes)
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
    """Takes a place for the request, from before its body is read until its answer is sent.

    A server that is full holds no bodies either, and an answer that nobody reads is not forgotten.

    Raises:
        TooManyRequestsError: every place is taken.
        RequestValidationError: the deadline that the request names is not one.
    """
    received = time.monotonic()
    explaining: ExplainingService = request.app.state.explaining
    timeout = timeout_of(request.headers, request.app.state.settings)
    until_sent: contextlib.ExitStack = request.state.until_sent
    deadline = received + timeout
    place = until_sent.enter_context(explaining.permit())
    progress = until_sent.enter_context(explaining.progress.follow(request.state.request_id))
    return AcceptedRequest(request, received, deadline, place, progress)


def timeout_of(headers: Headers, settings: Settings) -> float:
    """Seconds in which a request must be answered: the server's own, or fewer that it names.

    Raises:
        RequestValidationError: what it names is not a time.
    """
    header = headers.get("x-request-timeout-ms")
    if header is None:
        return settings.request_timeout_seconds
    milliseconds = whole_number(header)
    if milliseconds is None:
        message = f"Input should be a positive whole number, not {header[:32]!r}"
        raise invalid(message, "X-Request-Timeout-Ms")
    return min(milliseconds / 1000, settings.request_timeout_seconds)


def _slowest(outcomes: Sequence[ExplainOutcome]) -> Timings:
    return Timings(
        **{
            stage: max(getattr(outcome.timings, stage) for outcome in outcomes)
            for stage in Timings.model_fields
        }
    )


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
