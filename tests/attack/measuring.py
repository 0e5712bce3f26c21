"""Measures a server and a light caller while it is attacked."""

import contextlib
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import numpy as np

from tests.attack.cases import Case
from tests.support.api_keys import bearer
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_server import Server

_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.05
_ALONE_SECONDS = 4.0
_HEAVY_SECONDS = 25.0
# Growth of the server while it is attacked, bodies of all attackers included.
_MOST_MEGABYTES = 1_000.0
_LEAST_SAMPLES = 3
_QUIET = {"heatmap": "none", "overlay": False}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one case.

    Attributes:
        kind: what was attacked.
        name: name of the case within its kind.
        statuses: statuses of the answers, with their numbers.
        seconds: the longest time until an answer.
        megabytes: growth of the server's memory at its peak.
        light_p99: 99th percentile of a light caller's seconds meanwhile; None if not measured.
        reason: why the case does not hold; empty if it does.
    """

    kind: str
    name: str
    statuses: str
    seconds: float
    megabytes: float
    light_p99: float | None
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether the server withstood the attack."""
        return not self.reason

    def as_json(self) -> dict[str, Any]:
        """Return the outcome with its verdict."""
        return asdict(self) | {"holds": self.holds}


class Light:
    """A caller that sends one small request after the other."""

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key
        self.alone_p50 = self.alone_p99 = 0.0

    def alone(self) -> str:
        """Measure the caller on an idle server; return its times as text."""
        with self.sending() as seconds:
            time.sleep(_ALONE_SECONDS)
        self.alone_p50, self.alone_p99 = statistics.median(seconds), percentile(seconds)
        return f"{self.alone_p50:.3f} s at the median, {self.alone_p99:.3f} s at p99"

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
            with httpx.Client(base_url=self._server.url, timeout=_PATIENCE_SECONDS) as client:
                client.headers.update(bearer(self._key))
                number = 0
                while not ended.wait(_PAUSE_SECONDS):
                    number += 1
                    body = bodies[number % len(bodies)] | {"options": {"cache": False}}
                    began = time.monotonic()
                    answer = client.post("/explain", json=body)
                    taken = time.monotonic() - began
                    seconds.append(taken if answer.status_code == 200 else _PATIENCE_SECONDS)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield seconds
        finally:
            ended.set()
            thread.join()


def percentile(seconds: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return float(np.percentile(seconds, 99)) if seconds else float("nan")


def attack(server: Server, case: Case, light: Light, callers: int) -> Outcome:
    """Send the requests of a case, by several callers at once, beside a light caller."""
    request = case.request()
    before = server.resident_bytes
    with light.sending() as seconds, _peak(server) as peak, ThreadPoolExecutor(callers) as pool:
        answers = list(pool.map(lambda _: _exchange(server, request), range(callers)))
        while len(seconds) < _LEAST_SAMPLES:
            time.sleep(_PAUSE_SECONDS)
    statuses = Counter(status for status, _ in answers)
    longest = max(taken for _, taken in answers)
    grown = max(0.0, (max(peak) - before) / 1e6)
    p99 = percentile(seconds)
    reasons = []
    if wrong := set(statuses) - case.statuses:
        reasons.append(f"answers {sorted(wrong)}, not {sorted(case.statuses)}")
    if longest > case.most_seconds:
        reasons.append(f"takes longer than {case.most_seconds:g} s")
    if grown > _MOST_MEGABYTES:
        reasons.append(f"takes more than {_MOST_MEGABYTES:g} MB")
    if p99 > max(3 * light.alone_p99, light.alone_p99 + 1.0):
        reasons.append("the light caller waits")
    return Outcome(case.kind, case.name, _told(statuses), longest, grown, p99, "; ".join(reasons))


def beside_heavy_callers(server: Server, keys: Sequence[str], light: Light) -> Outcome:
    """Measure the light caller beside many that each ask about 16 pictures for 8 prompts."""
    statuses: Counter[int] = Counter()
    until = time.monotonic() + _HEAVY_SECONDS
    before = server.resident_bytes

    def ask(number: int) -> None:
        images = [
            data_url(encoded(picture(seed=100 * number + seed), "JPEG")) for seed in range(16)
        ]
        body = request_of(prompts=[f"a thing {each}" for each in range(8)], output=_QUIET)
        body = {**body, "images": images, "options": {"cache": False}}
        del body["image"]
        with httpx.Client(base_url=server.url, timeout=_PATIENCE_SECONDS) as client:
            while time.monotonic() < until:
                answer = client.post("/explain", json=body, headers=bearer(keys[number]))
                statuses[answer.status_code] += 1
                if answer.status_code == 429:
                    time.sleep(float(answer.headers.get("retry-after", "1")))

    with ThreadPoolExecutor(len(keys)) as pool, _peak(server) as peak:
        asked = [pool.submit(ask, number) for number in range(len(keys))]
        time.sleep(_HEAVY_SECONDS / 5)
        with light.sending() as seconds:
            for each in asked:
                each.result()
    median, p99 = statistics.median(seconds), percentile(seconds)
    grown = (max(peak) - before) / 1e6
    rate = 16 * statuses[200] / _HEAVY_SECONDS
    name = f"{len(keys)} heavy callers ({rate:.0f} pictures/s), light median {median:.2f} s"
    reason = "the light caller waits" if median > 10 * light.alone_p50 + 1.0 else ""
    return Outcome("fairness", name, _told(statuses), max(seconds), grown, p99, reason)


@contextlib.contextmanager
def _peak(server: Server) -> Iterator[list[int]]:
    sizes = [server.resident_bytes]
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_PAUSE_SECONDS):
            sizes.append(server.resident_bytes)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def _exchange(server: Server, request: bytes) -> tuple[int, float]:
    """Send a request on its own connection; return the status, 0 for none, and the seconds."""
    began = time.monotonic()
    received = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((server.host, server.port), _PATIENCE_SECONDS) as connection,
    ):
        with contextlib.suppress(OSError):
            connection.sendall(request)
            if not request.startswith(b"POST"):
                connection.shutdown(socket.SHUT_WR)
        received = connection.recv(4096)
    status = received.split(b" ", 2)[1] if received.startswith(b"HTTP/1.1 ") else b"0"
    return int(status), time.monotonic() - began


def _told(statuses: Counter[int]) -> str:
    return ", ".join(f"{status}" if n == 1 else f"{status} x {n}" for status, n in statuses.items())
