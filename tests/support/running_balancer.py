"""A real HAProxy with the deployed configuration, and callers that keep it busy."""

import csv
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import httpx
import psutil

from tests.support.paths import DOCKER
from tests.support.plain_http import plain_client

_FOLDER = DOCKER / "haproxy"
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
_TRY_LATER = {429, 502, 503, 504}


def haproxy() -> str:
    """Return the path of the program; fail if it is missing."""
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    assert found, "These tests need the program haproxy: apt-get install haproxy."
    return found


def configured_seconds(name: str) -> float:
    """Return a time that the deployed configuration sets, or takes by default."""
    text = (_FOLDER / "haproxy.cfg").read_text()
    (found,) = re.findall(rf'^ +{name} +(?:"\$\{{\w+-)?(\d+)s\b', text, re.M)
    return float(found)


class Balancer:
    """HAProxy on free loopback ports in front of replicas, given as `HOST:PORT`.

    Its log of requests goes to ``log``. Its configuration is that of ``docker/haproxy``, unless
    ``folder`` has another one; ``variables`` are those of its environment beside the addresses.
    """

    def __init__(
        self,
        *replicas: str,
        tls_certificate: Path | None = None,
        requests_of_an_address: int | None = None,
        log: IO[bytes] | None = None,
        folder: Path = _FOLDER,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        # The process inherits the sockets, so that no other process takes their ports meanwhile.
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        callers, statistics, tls = listeners
        environment = dict(variables or {}) | {
            "BALANCER_ADDRESS": f"fd@{callers.fileno()}",
            "BALANCER_STATS_ADDRESS": f"fd@{statistics.fileno()}",
            "BALANCER_TLS_ADDRESS": f"fd@{tls.fileno()}",
            "BALANCER_TLS_CERTIFICATE": str(tls_certificate),
        }
        if requests_of_an_address is not None:
            environment["BALANCER_ADDRESS_LIMIT"] = str(requests_of_an_address)
        environment |= {f"REPLICA_{number}": each for number, each in enumerate(replicas, start=1)}
        files = ["haproxy.cfg", "tls.cfg"] if tls_certificate else ["haproxy.cfg"]
        chosen = [word for file in files for word in ("-f", str(folder / file))]
        self._process = subprocess.Popen(
            [haproxy(), "-W", "-db", *chosen],
            env=os.environ | environment,
            pass_fds=[listener.fileno() for listener in listeners],
            stdout=log or subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url, self._statistics, self.tls_url = (
            f"{scheme}://localhost:{listener.getsockname()[1]}"
            for scheme, listener in zip(("http", "http", "https"), listeners, strict=True)
        )
        for listener in listeners:
            listener.close()
        self.client = plain_client(self.url, timeout=60)
        # No idle connection that ends with a worker.
        self._statistics_client = plain_client(
            self._statistics, timeout=60, limits=httpx.Limits(max_keepalive_connections=0)
        )

    @property
    def statistics_address(self) -> str:
        """Host and port of the statistics and metrics."""
        return self._statistics.removeprefix("http://")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._statistics_client.close()
        self._process.send_signal(signal.SIGTERM)
        # The end of the pipe is the end of the worker, too. A master that has just started its
        # worker does not handle the signal yet.
        messages = self._process.communicate(timeout=_PATIENCE_SECONDS)[1]
        assert self._process.returncode in (0, -signal.SIGTERM), messages

    def reload(self) -> None:
        """Reload the configuration, and wait for the new worker."""
        before = self._workers()
        self._process.send_signal(signal.SIGUSR2)
        self.eventually(lambda: bool(self._workers() - before))

    def _workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self._process.pid).children()}

    def metric(self, sample: str) -> str:
        """Return the value of one sample, named as in the exposition."""
        exposition = self._statistics_client.get("/metrics").text
        for line in exposition.splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return value
        raise AssertionError(f"{sample} is not exposed")

    def replica(self, number: int) -> dict[str, str]:
        """Return HAProxy's figures of one replica, by their names in its CSV."""
        text = self._statistics_client.get("/;csv").text.removeprefix("# ")
        rows = csv.DictReader(text.splitlines())
        return next(row for row in rows if row["svname"] == f"replica-{number}")

    def requests(self, number: int) -> int:
        """Return the number of requests sent to one replica so far."""
        return int(self.replica(number)["stot"])

    def requests_now(self, number: int) -> int:
        """Return the number of requests that one replica has not answered yet."""
        return int(self.replica(number)["scur"])

    def retries(self, number: int) -> int:
        """Return how often a request to this replica was retried or sent to another."""
        return int(self.replica(number)["wretr"]) + int(self.replica(number)["wredis"])

    def wait_for_replicas(self, *states: str) -> None:
        """Wait until the replicas are `UP` or `DOWN` as given; fail after a bounded time."""
        self.eventually(
            lambda: all(
                self.replica(number)["status"] == state
                for number, state in enumerate(states, start=1)
            )
        )

    def eventually(self, holds: Callable[[], bool]) -> None:
        """Wait, for a bounded time, until a condition holds."""
        pause = threading.Event()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, "It never came about."
            pause.wait(0.05)


class Load:
    """Callers that send one request after the other, each over its own connection.

    A caller repeats a request at most ``retries`` times if it is told to try later or if the
    connection breaks, and waits for the time of ``Retry-After`` before. Where HAProxy would answer
    the first request of a connection with 502, it closes a kept connection instead; the caller then
    waits as long as after a 502. An answer, and a number of them, may take ``patience`` seconds.
    """

    def __init__(
        self,
        url: str,
        bodies: Sequence[dict[str, Any]],
        *,
        callers: int = 6,
        retries: int = 0,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        self._patience = patience
        self._url = url
        self._bodies = bodies
        self._retries = retries
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._call, args=(number,)) for number in range(callers)
        ]
        self.outcomes: Counter[str] = Counter()
        self.answered = self.retried = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.wait_for_answers(2 * len(self._threads))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_answers(self, more: int) -> None:
        """Wait until so many more requests were answered; fail after a bounded time."""
        with self._changed:
            wanted = self.answered + more
            assert self._changed.wait_for(lambda: self.answered >= wanted, self._patience), (
                self.outcomes
            )

    def _call(self, number: int) -> None:
        with plain_client(self._url, timeout=self._patience) as client:
            for body in itertools.cycle([*self._bodies[number:], *self._bodies[:number]]):
                if self._stop.is_set():
                    return
                outcome = self._ask(client, body)
                with self._changed:
                    self.outcomes[outcome] += 1
                    self.answered += 1
                    self._changed.notify_all()

    def _ask(self, client: httpx.Client, body: dict[str, Any]) -> str:
        failures = []
        for attempt in range(self._retries + 1):
            if attempt:
                with self._changed:
                    self.retried += 1
            pause = _PAUSE_SECONDS
            try:
                answer = client.post("/explain", json=body)
            except httpx.TransportError as error:
                failures.append(repr(error))
            else:
                if answer.status_code not in _TRY_LATER:
                    return str(answer.status_code)
                failures.append(f"{answer.status_code} {answer.text}")
                pause = float(answer.headers.get("retry-after", pause))
            self._stop.wait(pause)
        return ", then ".join(failures)
