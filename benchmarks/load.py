"""Cheap load generator: raw requests on persistent connections, in a closed or an open loop.

It shares the server's cores, so it builds every request before the clock starts and parses only the
status and length of an answer.
"""

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import urlsplit

import httpx
import numpy as np
import uvloop

BROKEN = 0
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answered:
    """Outcome of one request.

    Attributes:
        status: status of the answer; ``BROKEN`` if none came in time or the connection broke.
        seconds: time from when the request was due to the end of its answer.
        ended: end of the answer, on the performance counter.
        retry_after: seconds of the answer's ``Retry-After`` header; 0 without one.
    """

    status: int
    seconds: float
    ended: float
    retry_after: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """Outcome of a period of load.

    Attributes:
        answers: outcome of each request that was due.
        began: time when the first request was due, on the performance counter.
        seconds: time from then until the last answer.
        sending_seconds: time from then until the last request.
    """

    answers: Sequence[Answered]
    began: float
    seconds: float
    sending_seconds: float

    def steady_rate(self) -> float:
        """Compute answers of status 200 per second while requests were sent, by a fitted line.

        Answers come in batches; a fit does not give more weight to the first or last batch.
        """
        last = self.began + self.sending_seconds
        ends = sorted(
            each.ended for each in self.answers if each.status == 200 and each.ended <= last
        )
        slope, _ = np.polyfit(ends, np.arange(len(ends)), 1)
        return float(slope)

    def count(self, status: int) -> int:
        """Count the answers of a status."""
        return sum(each.status == status for each in self.answers)

    def statuses(self) -> dict[int, int]:
        """Count the answers by status."""
        return dict(sorted(Counter(each.status for each in self.answers).items()))

    def within(self, seconds: float) -> int:
        """Count the answers of status 200 within a time."""
        return sum(each.status == 200 and each.seconds <= seconds for each in self.answers)

    def percentile(self, percent: float, status: int = 200) -> float:
        """Compute a percentile of the seconds of a status's answers; NaN if there are none."""
        found = [each.seconds for each in self.answers if each.status == status]
        return float(np.percentile(found, percent)) if found else float("nan")


class _Connection(asyncio.Protocol):
    """Connection that sends one request after the other."""

    def __init__(self, done: Callable[["_Connection", Answered], None]) -> None:
        self._done = done
        self._head = b""
        self._missing = 0
        self._answer: Answered | None = None
        self._due: float | None = None
        self._patience: asyncio.TimerHandle | None = None
        self.open = False

    def ask(self, request: bytes, due: float, patience: float) -> None:
        """Send a request; ``done`` is called once, with its outcome."""
        self._due, self._head, self._answer = due, b"", None
        self._patience = asyncio.get_running_loop().call_later(patience, self._transport.abort)
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4 or self._due is None:
                return
            head, data = self._head[:end], self._head[end:]
            length = _LENGTH.search(head)
            self._missing = int(length[1]) if length else 0
            self.open = not _CLOSES.search(head)
            status = int(head.split(b" ", 2)[1])
            retry = _RETRY_AFTER.search(head)
            self._answer = Answered(status, 0.0, 0.0, int(retry[1]) if retry else 0)
        self._missing -= len(data)
        if self._missing <= 0:
            self._finish(self._answer)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.open = False
        self._finish(Answered(BROKEN, 0.0, 0.0))

    def _finish(self, answer: Answered) -> None:
        if self._due is None:
            return
        due, now, self._due = self._due, time.perf_counter(), None
        if self._patience is not None:
            self._patience.cancel()
        self._done(self, replace(answer, seconds=now - due, ended=now))


class _Client:
    """Sends requests over persistent connections, the most recently used one first."""

    def __init__(self, url: str, patience: float, answered: Callable[[Answered], None]) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._patience = patience
        self._answered = answered
        self._idle: list[_Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()

    def ask(self, request: bytes, due: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                connection.ask(request, due, self._patience)
                return
        task = asyncio.create_task(self._connect_and_ask(request, due))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def _connect_and_ask(self, request: bytes, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._patience):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._done), *self._address
                )
        except (OSError, TimeoutError):
            now = time.perf_counter()
            self._answered(Answered(BROKEN, now - due, now))
        else:
            connection.ask(request, due, self._patience)

    def _done(self, connection: _Connection, answer: Answered) -> None:
        if connection.open:
            self._idle.append(connection)
        else:
            connection.close()
        self._answered(answer)


def closed_loop(
    url: str, requests: Sequence[bytes], *, clients: int, count: int, patience: float
) -> Load:
    """Run clients that each send the next request as soon as the last one is answered.

    Args:
        url: the server's base address.
        requests: whole requests, sent in turns.
        clients: number of concurrent clients.
        count: total number of requests.
        patience: seconds that a client waits for an answer.
    """
    return uvloop.run(_closed_loop(url, requests, clients, count, patience))


def open_loop(
    url: str, requests: Sequence[bytes], *, rate: float, seconds: float, patience: float
) -> Load:
    """Send requests at a constant rate, independent of the answers.

    Args:
        url: the server's base address.
        requests: whole requests, sent in turns.
        rate: requests per second.
        seconds: duration of sending.
        patience: seconds that each request waits for its answer.
    """
    return uvloop.run(_open_loop(url, requests, rate, seconds, patience))


def callers(
    url: str, requests: Sequence[Sequence[bytes]], *, seconds: float, patience: float
) -> list[Load]:
    """Run callers that each send one request after the other, and wait as a refusal tells them.

    Args:
        url: the server's base address.
        requests: whole requests of each caller, sent in turns.
        seconds: duration of sending.
        patience: seconds that each request waits for its answer.

    Returns:
        The load of each caller.
    """
    return uvloop.run(_callers(url, requests, seconds, patience))


async def _callers(
    url: str, requests: Sequence[Sequence[bytes]], seconds: float, patience: float
) -> list[Load]:
    began = time.perf_counter()
    return await asyncio.gather(*(_caller(url, own, began, seconds, patience) for own in requests))


async def _caller(
    url: str, requests: Sequence[bytes], began: float, seconds: float, patience: float
) -> Load:
    loop = asyncio.get_running_loop()
    answers: list[Answered] = []
    waiting: list[asyncio.Future[Answered]] = []
    client = _Client(url, patience, lambda answer: waiting.pop().set_result(answer))
    for request in itertools.cycle(requests):
        now = time.perf_counter()
        if now >= began + seconds:
            break
        waiting.append(loop.create_future())
        client.ask(request, now)
        answer = await waiting[0]
        answers.append(answer)
        if answer.status != httpx.codes.OK:
            left = began + seconds - time.perf_counter()
            await asyncio.sleep(max(0.0, min(answer.retry_after, left)))
    client.close()
    return Load(answers, began, time.perf_counter() - began, seconds)


async def _closed_loop(
    url: str, requests: Sequence[bytes], clients: int, count: int, patience: float
) -> Load:
    answers: list[Answered] = []
    all_answered = asyncio.Event()
    numbers = iter(range(count))

    last_sent = 0.0

    def ask_next() -> None:
        nonlocal last_sent
        number = next(numbers, None)
        if number is not None:
            last_sent = time.perf_counter()
            client.ask(requests[number % len(requests)], last_sent)

    def answered(answer: Answered) -> None:
        answers.append(answer)
        if len(answers) == count:
            all_answered.set()
        ask_next()

    client = _Client(url, patience, answered)
    began = time.perf_counter()
    for _ in range(clients):
        ask_next()
    await all_answered.wait()
    client.close()
    return Load(answers, began, time.perf_counter() - began, last_sent - began)


async def _open_loop(
    url: str, requests: Sequence[bytes], rate: float, seconds: float, patience: float
) -> Load:
    count = int(rate * seconds)
    answers: list[Answered] = []
    all_answered = asyncio.Event()

    def answered(answer: Answered) -> None:
        answers.append(answer)
        if len(answers) == count:
            all_answered.set()

    client = _Client(url, patience, answered)
    began = time.perf_counter()
    for number in range(count):
        due = began + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        client.ask(requests[number % len(requests)], due)
    await all_answered.wait()
    client.close()
    return Load(answers, began, time.perf_counter() - began, count / rate)


def raw_request(
    path: str, body: bytes, content_type: str = "application/json", **headers: str
) -> bytes:
    """Build the bytes of one POST request with a persistent connection."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: benchmark",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def multipart_request(picture: bytes, prompts: Sequence[str], output: str) -> bytes:
    """Build the bytes of one explain request: a JPEG, prompts and the options of the answer."""
    request = httpx.Request(
        "POST",
        "http://benchmark/explain",
        files={"image": ("picture.jpg", picture, "image/jpeg")},
        data={"prompts": list(prompts), "output": output},
    )
    return raw_request("/explain", request.read(), request.headers["Content-Type"])
