"""Measures a server and a light caller while it is attacked."""

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import psutil

from tests.attack.cases import Case
from tests.attack.exchanging import exchange
from tests.attack.outcomes import Finding, Outcome
from tests.support.api_keys import bearer
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.plain_http import plain_client
from tests.support.running_server import Server

PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.05
_ALONE_SECONDS = 6.0
_HEAVY_SECONDS = 25.0
# Attackers repeat a request for so long, so that the light caller sends some beside them.
_LEAST_SECONDS = 1.0
_LEAST_SAMPLES = 3
# Growth of the server and its processes while it is attacked, bodies of all attackers included.
_MOST_MEGABYTES = 800.0
_QUIET = {"heatmap": "none", "overlay": False}


class Light:
    """A caller that sends one small request after the other.

    Attributes:
        alone_p50: median of its seconds on an idle server.
        alone_p99: 99th percentile of its seconds on an idle server.
        batch_seconds: time of one full batch.
    """

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key
        self.alone_p50 = self.alone_p99 = self.batch_seconds = 0.0

    @property
    def most_seconds(self) -> float:
        """The aim: the 99th percentile beside an attack."""
        return 3 * self.alone_p99 + self.batch_seconds

    def alone(self, heavy_key: str) -> str:
        """Measure the caller, and a full batch, on an idle server; return the times as text."""
        client = self._server.client
        body = heavy_body(0)
        answers = [
            client.post("/explain", json=body, headers=bearer(heavy_key)).json() for _ in range(3)
        ]
        self.batch_seconds = max(each["timings"]["compute"] for each in answers)
        with self.sending() as seconds:
            time.sleep(_ALONE_SECONDS)
        self.alone_p50, self.alone_p99 = statistics.median(seconds), percentile(seconds)
        return (
            f"{self.alone_p50:.3f} s at the median, {self.alone_p99:.3f} s at p99; a full batch "
            f"{self.batch_seconds:.3f} s; the aim beside attacks {self.most_seconds:.3f} s at p99"
        )

    @contextlib.contextmanager
    def sending(self) -> Iterator[list[float]]:
        """Send requests while the context lasts; yield the list that their seconds go into."""
        seconds: list[float] = []
        ended = threading.Event()
        # Another picture each time, so that none is cached.
        bodies = [
            request_of(image=data_url(encoded(picture(seed=seed), "JPEG")), output=_QUIET)
            for seed in range(32)
        ]

        def send() -> None:
            with plain_client(self._server.url, timeout=PATIENCE_SECONDS) as client:
                client.headers.update(bearer(self._key))
                number = 0
                while not ended.wait(_PAUSE_SECONDS):
                    number += 1
                    body = bodies[number % len(bodies)] | {"options": {"cache": False}}
                    seconds.append(_until_answered(client, body))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield seconds
        finally:
            ended.set()
            thread.join()


def _until_answered(client: httpx.Client, body: dict[str, Any]) -> float:
    """Send a request as a client that repeats refused ones; return the seconds of all tries."""
    began = time.monotonic()
    while (taken := time.monotonic() - began) < PATIENCE_SECONDS:
        try:
            answer = client.post("/explain", json=body)
        except httpx.TransportError:
            time.sleep(_PAUSE_SECONDS)
            continue
        if answer.status_code == 200:
            return time.monotonic() - began
        time.sleep(float(answer.headers.get("retry-after", _PAUSE_SECONDS)))
    return taken


def percentile(seconds: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return float(np.percentile(seconds, 99)) if seconds else float("nan")


def heavy_body(number: int) -> dict[str, Any]:
    """Return a request about 16 pictures and 8 prompts."""
    images = [data_url(encoded(picture(seed=100 * number + seed), "JPEG")) for seed in range(16)]
    body = request_of(prompts=[f"a thing {each}" for each in range(8)], output=_QUIET)
    del body["image"]
    return {**body, "images": images, "options": {"cache": False}}


def attack(server: Server, case: Case, light: Light, callers: int) -> Outcome:
    """Send the request of a case again and again, by several callers, beside a light caller."""
    request = case.request()
    finding = Finding()

    def act() -> Finding:
        until = time.monotonic() + _LEAST_SECONDS
        with ThreadPoolExecutor(callers) as pool:
            sent = [pool.submit(_repeat, server, request, until) for _ in range(callers)]
            answers = [answer for each in sent for answer in each.result()]
        finding.statuses.update(status for status, _, _ in answers)
        finding.seconds = max(taken for _, taken, _ in answers)
        if wrong := set(finding.statuses) - case.statuses:
            finding.reasons.append(f"answers {sorted(wrong)}, not {sorted(case.statuses)}")
        if finding.seconds > case.most_seconds:
            finding.reasons.append(f"takes longer than {case.most_seconds:g} s")
        if case.forbidden and any(case.forbidden in received for _, _, received in answers):
            finding.reasons.append(f"an answer has {case.forbidden!r}")
        return finding

    return measured(server, light, case.kind, case.name, act)


def measured(
    server: Server, light: Light, kind: str, name: str, act: Callable[[], Finding]
) -> Outcome:
    """Carry out an attack; measure the server's memory and a light caller meanwhile."""
    with light.sending() as seconds, _peak(server.pid) as peak:
        finding = act()
        while len(seconds) < _LEAST_SAMPLES:
            time.sleep(_PAUSE_SECONDS)
    grown = max(0.0, (max(peak) - peak[0]) / 1e6)
    p99 = percentile(seconds)
    reasons = list(finding.reasons)
    if grown > _MOST_MEGABYTES:
        reasons.append(f"takes more than {_MOST_MEGABYTES:g} MB")
    if p99 > light.most_seconds:
        reasons.append("the light caller waits")
    return Outcome(kind, name, finding.told, finding.seconds, grown, p99, "; ".join(reasons))


def beside_heavy_callers(server: Server, keys: Sequence[str], light: Light) -> Outcome:
    """Measure the light caller beside many that each ask about 16 pictures for 8 prompts."""
    finding = Finding()
    until = time.monotonic() + _HEAVY_SECONDS

    def ask(number: int) -> None:
        body = heavy_body(number)
        with plain_client(server.url, timeout=PATIENCE_SECONDS) as client:
            while time.monotonic() < until:
                began = time.monotonic()
                answer = client.post("/explain", json=body, headers=bearer(keys[number]))
                finding.statuses[answer.status_code] += 1
                finding.seconds = max(finding.seconds, time.monotonic() - began)
                if answer.status_code == 429:
                    time.sleep(float(answer.headers.get("retry-after", "1")))

    with ThreadPoolExecutor(len(keys)) as pool, _peak(server.pid) as peak:
        asked = [pool.submit(ask, number) for number in range(len(keys))]
        time.sleep(_HEAVY_SECONDS / 5)
        with light.sending() as seconds:
            for each in asked:
                each.result()
    median, p99 = statistics.median(seconds), percentile(seconds)
    grown = (max(peak) - peak[0]) / 1e6
    rate = 16 * finding.statuses[200] / _HEAVY_SECONDS
    told = f"{finding.told}; {rate:.0f} pictures/s, light median {median:.2f} s"
    reason = "the light caller waits" if median > 3 * light.batch_seconds else ""
    name = f"{len(keys)} heavy callers"
    return Outcome("fairness", name, told, finding.seconds, grown, p99, reason)


def tree_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants together, in bytes."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        server = psutil.Process(pid)
        for process in (server, *server.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


@contextlib.contextmanager
def _peak(pid: int) -> Iterator[list[int]]:
    sizes = [tree_bytes(pid)]
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_PAUSE_SECONDS):
            sizes.append(tree_bytes(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def _repeat(server: Server, request: bytes, until: float) -> list[tuple[int, float, bytes]]:
    answers = [exchange(server, request)]
    while time.monotonic() < until:
        time.sleep(_PAUSE_SECONDS)
        answers.append(exchange(server, request))
    return answers
