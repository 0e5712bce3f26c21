"""A cheap load generator: raw requests on kept connections, in a closed or an open loop.

It shares the server's cores, so it builds every request before the clock starts and reads of an
answer no more than its status and length.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

BROKEN = 0
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answered:
    """How one request went.

    Attributes:
        status: of the answer; ``BROKEN`` where none came in time or the connection broke.
        seconds: from the moment it was due to the end of its answer.
        retry_after: whether the answer says when to come back.
    """

    status: int
    seconds: float
    retry_after: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What a period of load gave.

    Attributes:
        answers: one for each request that was due.
        seconds: from the first request until the last answer.
    """

    answers: Sequence[Answered]
    seconds: float

    def rate(self, status: int = 200) -> float:
        """Answers of a status per second."""
        return self.count(status) / self.seconds

    def count(self, status: int) -> int:
        """Answers of a status."""
        return sum(each.status == status for each in self.answers)

    def statuses(self) -> dict[int, int]:
        """How many answers there are of each status."""
        return dict(sorted(Counter(each.status for each in self.answers).items()))

    def within(self, seconds: float) -> int:
        """Answers of status 200 that took no longer."""
        return sum(each.status == 200 and each.seconds <= seconds for each in self.answers)

    def percentile(self, percent: float, status: int = 200) -> float:
        """Seconds within which so many percent of a status were answered; NaN if none was."""
        found = [each.seconds for each in self.answers if each.status == status]
        return float(np.percentile(found, percent)) if found else float("nan")


class _Connections:
    """Kept connections to one server; the one used last is taken first."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes, patience: float, due: float) -> Answered:
        try:
            async with asyncio.timeout(patience):
                return await self._ask(request, due)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return Answered(BROKEN, time.perf_counter() - due)

    async def _ask(self, request: bytes, due: float) -> Answered:
        reader, writer = self._take() or await asyncio.open_connection(*self._address)
        kept = False
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            await reader.readexactly(int(length[1]) if length else 0)
            kept = not _CLOSES.search(head)
            return Answered(
                int(head.split(b" ", 2)[1]),
                time.perf_counter() - due,
                _RETRY_AFTER.search(head) is not None,
            )
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()

    def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """One that the server has not closed while it was idle."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def closed_loop(
    url: str, requests: Sequence[bytes], *, clients: int, count: int, patience: float
) -> Load:
    """So many clients, each of which asks again as soon as it is answered.

    Args:
        url: the server's base address.
        requests: whole requests, sent in turns.
        clients: how many ask at once.
        count: requests in all.
        patience: seconds that a client waits for an answer.
    """
    return asyncio.run(_closed_loop(url, requests, clients, count, patience))


def open_loop(
    url: str, requests: Sequence[bytes], *, rate: float, seconds: float, patience: float
) -> Load:
    """Requests that come at a steady rate, whatever becomes of those before.

    Args:
        url: the server's base address.
        requests: whole requests, sent in turns.
        rate: requests per second.
        seconds: how long they come.
        patience: seconds that each waits for its answer.
    """
    return asyncio.run(_open_loop(url, requests, rate, seconds, patience))


async def _closed_loop(
    url: str, requests: Sequence[bytes], clients: int, count: int, patience: float
) -> Load:
    connections = _Connections(url)
    numbers = iter(range(count))
    answers: list[Answered] = []

    async def client() -> None:
        for number in numbers:
            request = requests[number % len(requests)]
            answers.append(await connections.ask(request, patience, time.perf_counter()))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    connections.close()
    return Load(answers, time.perf_counter() - began)


async def _open_loop(
    url: str, requests: Sequence[bytes], rate: float, seconds: float, patience: float
) -> Load:
    connections = _Connections(url)
    asked: list[asyncio.Task[Answered]] = []
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        request = requests[number % len(requests)]
        asked.append(asyncio.create_task(connections.ask(request, patience, due)))
    answers = await asyncio.gather(*asked)
    connections.close()
    return Load(answers, time.perf_counter() - began)


def raw_request(
    path: str, body: bytes, content_type: str = "application/json", **headers: str
) -> bytes:
    """The bytes of one POST request that leaves its connection open."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: benchmark",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
