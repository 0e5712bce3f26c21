"""Many concurrent requests over plain sockets, which are cheap to send."""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Answered:
    """One answer; status 0 where the server closed the connection without one."""

    status: int
    seconds: float
    retry_after: int | None


async def send(host: str, port: int, request: bytes) -> Answered:
    """Send a request and read its answer to the end."""
    began = time.monotonic()
    answer = b""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(request)
            await writer.drain()
            answer = await reader.read(65536)
            while await reader.read(65536):
                pass
        except ConnectionError:
            # Refused before all was sent; a partial answer still counts.
            pass
        finally:
            writer.transport.abort()
    found = re.match(rb"HTTP/1\.1 (\d+)", answer)
    retry = re.search(rb"\r\nretry-after: (\d+)", answer, re.IGNORECASE)
    return Answered(
        int(found[1]) if found else 0,
        time.monotonic() - began,
        int(retry[1]) if retry else None,
    )


async def one_after_another(
    host: str, port: int, requests: Sequence[bytes], at_once: int
) -> list[Answered]:
    """Send all requests over ``at_once`` clients, each of which waits for its answers."""
    waiting = list(requests)
    answers: list[Answered] = []

    async def client() -> None:
        while waiting:
            answers.append(await send(host, port, waiting.pop()))

    await asyncio.gather(*(client() for _ in range(at_once)))
    return answers


async def open_loop(
    host: str, port: int, requests: Sequence[bytes], per_second: float
) -> list[Answered]:
    """Send all requests at a steady rate, without waiting for answers."""
    began = time.monotonic()
    sending = []
    for number, request in enumerate(requests):
        await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
        sending.append(asyncio.create_task(send(host, port, request)))
    return await asyncio.gather(*sending)
