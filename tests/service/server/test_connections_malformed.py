"""Ten thousand malformed requests on one server, with clients that leave at random places."""

import asyncio
import os
import re
from collections import Counter
from typing import Any

import pytest

from tests.support.load import send
from tests.support.malformed import Malformed, malformed
from tests.support.pictures import request_of
from tests.support.running_server import Server

pytestmark = pytest.mark.slow

COUNT = 10_000
# Requests that are cut short: they wait for the server's patience, not for its work.
CUT_SHORT = {"_bad_chunks", "_no_http"}
AT_ONCE, CUT_SHORT_AT_ONCE = 16, 48
KNOWN = request_of(
    prompts=["a cat", "a dog"], output={"heatmap": "png16"}, options={"cache": False}
)


async def leave(host: str, port: int, data: bytes) -> int:
    _, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    await asyncio.sleep(0)
    writer.transport.abort()
    return 0


async def send_all(server: Server, requests: list[Malformed]) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()
    whole = [each for each in reversed(requests) if each.kind not in CUT_SHORT]
    cut_short = [each for each in reversed(requests) if each.kind in CUT_SHORT]

    async def client(waiting: list[Malformed]) -> None:
        while waiting:
            each = waiting.pop()
            if each.leaves:
                await leave(server.host, server.port, each.data)
            else:
                answer = await send(server.host, server.port, each.data)
                found[each.kind, answer.status] += 1

    await asyncio.gather(
        *(client(whole) for _ in range(AT_ONCE)),
        *(client(cut_short) for _ in range(CUT_SHORT_AT_ONCE)),
    )
    return found


def failures(server: Server) -> list[str]:
    """The samples of answers with a status of 500 or more; a server that starts is not ready."""
    return [
        line
        for line in server.client.get("/metrics").text.splitlines()
        if re.match(r'legrad_requests_total\{.*status="5', line)
    ]


@pytest.mark.timeout(600)
def test_ten_thousand_malformed_requests_change_nothing(tiny_model: str) -> None:
    settings: dict[str, Any] = {"max_body_bytes": 2_000_000, "max_image_pixels": 4_000_000}
    # The one limits how long incomplete heads wait for their rest, the other is more than any work
    # on a busy machine takes.
    patience: dict[str, Any] = {"head_timeout_seconds": 2, "request_timeout_seconds": 30}
    with Server(tiny_model, log_level="error", **settings, **patience) as server:
        server.wait_for_health()
        failed_before = failures(server)
        known = server.explain(KNOWN).json()["images"][0]["targets"]
        requests = list(malformed(COUNT, seed=4))
        # A first tenth, after which threads and files that stay open are known.
        found = asyncio.run(send_all(server, requests[: COUNT // 10]))
        # A request in progress, or a picture process that starts, holds files of its own.
        server.poll_metric("legrad_requests_in_progress", 0)
        server.wait_for_health()
        server.poll("/metrics", lambda _: server.metric("process_open_fds") < 100)
        files, threads = server.metric("process_open_fds"), server.threads
        found += asyncio.run(send_all(server, requests[COUNT // 10 :]))
        failed = {each: times for each, times in found.items() if each[1] >= 500}
        assert not failed
        answered = sum(times for (_, status), times in found.items() if status)
        assert answered > 0.5 * COUNT
        assert len({kind for kind, _ in found}) >= 15
        server.poll_metric("legrad_requests_in_progress", 0)
        server.poll("/metrics", lambda _: server.metric("process_open_fds") <= files)
        assert server.metric("legrad_body_bytes_in_progress") == 0
        # asyncio's thread pool grows on demand, by a few threads.
        assert server.threads <= threads + 4 + (os.cpu_count() or 1)
        assert failures(server) == failed_before
        assert server.explain(KNOWN).json()["images"][0]["targets"] == known
