"""Jobs of requests, from their start until nothing of them runs any more."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from service.pictures.jobs import Decode, Draw
from service.pictures.processes import PictureProcess
from service.pictures.turns import Work


@dataclass(slots=True, eq=False)
class PendingJob:
    """A job with its request.

    Attributes:
        owner: the owner of the request.
        work: the kind of work.
        task: the job; a drawing has its canvas from ``canvas`` and ``source``.
        answer: receives the result. It is cancelled with the request.
        canvas: number of the canvas that it draws on, or None.
        source: decodes that canvas again.
        request: the request.
        process: the process that carries it out; None while it waits.
        again: whether it runs for the second time.
        over: whether nothing of it runs or waits any more.
        ended: tells the cancelled request that it is over.
    """

    owner: Hashable
    work: Work
    task: Decode | Draw
    answer: "asyncio.Future[Any]"
    canvas: int | None = None
    source: Decode | None = None
    request: object = None
    process: PictureProcess | None = None
    again: bool = False
    over: bool = False
    ended: "asyncio.Future[None] | None" = None

    def finish(self, result: Any = None, error: Exception | None = None) -> None:
        """Give the result or the error to the request, or only the end if it was cancelled."""
        self.over = True
        if self.ended is not None:
            self.ended.set_result(None)
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(error)


@dataclass(frozen=True, slots=True)
class Run:
    """A job in progress.

    Attributes:
        job: the job.
        number: number of a canvas that it makes.
        began: its start, on the monotonic clock in seconds.
        timer: kills its process once its time is over.
    """

    job: PendingJob
    number: int
    began: float
    timer: asyncio.TimerHandle
