"""A real HAProxy with the configuration that is deployed, and callers that keep it busy."""

import csv
import itertools
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from tests.support.paths import DOCKER

_FOLDER = DOCKER / "haproxy"
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
_TRY_LATER = {429, 502, 503, 504}


def haproxy() -> str:
    """The program; fails where it is missing."""
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    assert found, "These tests need the program haproxy: apt-get install haproxy."
    return found


class Balancer:
    """HAProxy on free loopback ports in front of two replicas, given as `HOST:PORT`."""

    def __init__(
        self,
        *replicas: str,
        tls_certificate: Path | None = None,
        requests_of_an_address: int | None = None,
    ) -> None:
        # The process gets them as they are, so that nobody else takes their ports meanwhile.
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        callers, statistics, tls = listeners
        environment = {
            "BALANCER_ADDRESS": f"fd@{callers.fileno()}",
            "BALANCER_STATS_ADDRESS": f"fd@{statistics.fileno()}",
            "BALANCER_TLS_ADDRESS": f"fd@{tls.fileno()}",
            "BALANCER_TLS_CERTIFICATE": str(tls_certificate),
        }
        if requests_of_an_address is not None:
            environment["BALANCER_ADDRESS_LIMIT"] = str(requests_of_an_address)
        environment |= {f"REPLICA_{number}": each for number, each in enumerate(replicas, start=1)}
        files = ["haproxy.cfg", "tls.cfg"] if tls_certificate else ["haproxy.cfg"]
        chosen = [word for file in files for word in ("-f", str(_FOLDER / file))]
        self._process = subprocess.Popen(
            [haproxy(), "-W", "-db", *chosen],
            env=os.environ | environment,
            pass_fds=[listener.fileno() for listener in listeners],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url, self._statistics, self.tls_url = (
            f"{scheme}://localhost:{listener.getsockname()[1]}"
            for scheme, listener in zip(("http", "http", "https"), listeners, strict=True)
        )
        for listener in listeners:
            listener.close()
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._process.send_signal(signal.SIGTERM)
        # The worker has ended too, for it held the pipe. A master that has only just started it
        # does not yet handle the signal.
        messages = self._process.communicate(timeout=_PATIENCE_SECONDS)[1]
        assert self._process.returncode in (0, -signal.SIGTERM), messages

    def reload(self) -> None:
        """Has a new worker take over with the configuration read anew."""
        before = self._workers()
        self._process.send_signal(signal.SIGUSR2)
        self.eventually(lambda: bool(self._workers() - before))

    def _workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self._process.pid).children()}

    def metric(self, sample: str) -> str:
        """The value of one sample, written as in the exposition."""
        exposition = httpx.get(f"{self._statistics}/metrics", timeout=60).text
        for line in exposition.splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return value
        raise AssertionError(f"{sample} is not exposed")

    def replica(self, number: int) -> dict[str, str]:
        """HAProxy's figures of one replica, by their names in its CSV."""
        text = httpx.get(f"{self._statistics}/;csv", timeout=60).text.removeprefix("# ")
        rows = csv.DictReader(text.splitlines())
        return next(row for row in rows if row["svname"] == f"replica-{number}")

    def requests(self, number: int) -> int:
        """How many requests one replica was sent so far."""
        return int(self.replica(number)["stot"])

    def requests_now(self, number: int) -> int:
        """How many requests one replica has not answered yet."""
        return int(self.replica(number)["scur"])

    def retries(self, number: int) -> int:
        """How often a request was sent again that had been sent to this replica."""
        return int(self.replica(number)["wretr"]) + int(self.replica(number)["wredis"])

    def wait_for_replicas(self, *states: str) -> None:
        """Waits until the replicas are `UP` or `DOWN` as given; fails after a bounded time."""
        self.eventually(
            lambda: all(
                self.replica(number)["status"] == state
                for number, state in enumerate(states, start=1)
            )
        )

    def eventually(self, holds: Callable[[], bool]) -> None:
        """Waits, for a bounded time, until something holds."""
        pause = threading.Event()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, "It never came about."
            pause.wait(0.05)


class Load:
    """Callers that ask one question after the other, each from a connection of its own.

    A caller sends a request again at most ``retries`` times where it was told to try later or
    the connection broke, and waits before as ``Retry-After`` says. HAProxy closes a connection
    that a caller has kept where it would answer the first request of one with 502, so that a
    caller waits then as long as a 502 says.
    """

    def __init__(
        self, url: str, bodies: Sequence[dict[str, Any]], *, callers: int = 6, retries: int = 0
    ) -> None:
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
        """Waits until so many more requests were answered; fails after a bounded time."""
        with self._changed:
            wanted = self.answered + more
            assert self._changed.wait_for(lambda: self.answered >= wanted, _PATIENCE_SECONDS), (
                self.outcomes
            )

    def _call(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
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
