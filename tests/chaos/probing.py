"""Probes of one replica: its readiness, and the requests that it would be told about."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from tests.chaos.questions import problem_of

LONGEST_LIE_SECONDS = 1.0

SLACK_SECONDS = 0.5
"""A poll takes its time on a busy machine, and states are seen a poll later."""

_POLL_SECONDS = 0.1
_REQUEST_EVERY_SECONDS = 0.4
_MOST_AT_ONCE = 32
_HANGS_AFTER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Poll:
    """One answer of ``/health/ready``; status 0 if there was none."""

    at: float
    status: int


@dataclass(frozen=True, slots=True)
class Probe:
    """One small request to the replica itself; status 0 if there was no answer."""

    began: float
    ended: float
    status: int
    code: str


@dataclass(frozen=True, slots=True)
class Lie:
    """A period in which readiness was wrong."""

    began: float
    seconds: float
    said_ready: bool
    example: str


class Prober:
    """Polls readiness and sends requests while the context of :meth:`running` lasts.

    Attributes:
        polls: the answers about readiness, in order.
        probes: the ends of the requests, in order.
    """

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        self._body = body
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(base_url=url, timeout=_HANGS_AFTER_SECONDS, limits=limits)
        self._stopped = threading.Event()
        self.polls: list[Poll] = []
        self.probes: list[Probe] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Probe while the context lasts."""
        with self._client, ThreadPoolExecutor(_MOST_AT_ONCE) as pool:
            threads = [
                threading.Thread(target=self._poll),
                threading.Thread(target=self._send, args=(pool,)),
            ]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                self._stopped.set()
                for thread in threads:
                    thread.join()

    def _poll(self) -> None:
        while not self._stopped.wait(_POLL_SECONDS):
            status = 0
            with contextlib.suppress(httpx.TransportError):
                status = self._client.get("/health/ready").status_code
            self.polls.append(Poll(time.monotonic(), status))

    def _send(self, pool: ThreadPoolExecutor) -> None:
        while not self._stopped.wait(_REQUEST_EVERY_SECONDS):
            pool.submit(self._ask)

    def _ask(self) -> None:
        began = time.monotonic()
        status, code = 0, "no answer"
        with contextlib.suppress(httpx.TransportError):
            response = self._client.post("/explain", json=self._body)
            status, code = response.status_code, ""
            if status != 200:
                code = problem_of(response).code
        self.probes.append(Probe(began, time.monotonic(), status, code))


def lies(polls: Sequence[Poll], probes: Sequence[Probe]) -> list[Lie]:
    """Return the periods in which readiness was wrong for longer than it may be.

    Ready is wrong while requests end in failures, one after the other and none in success; the
    failure of a request that waited is known at its end. Not ready is wrong while requests succeed.
    Lack of memory is no failure here: it depends on the request, and one caller's large ones must
    not close the server to others.
    """
    found = []
    for said_ready in (True, False):
        for began, ended in _periods(polls, said_ready):
            run: list[Probe] = []
            for probe in sorted(probes, key=lambda each: each.ended):
                if not (began <= probe.ended <= ended):
                    continue
                if _proves(probe, ready=said_ready):
                    found += _lie(run, said_ready)
                    run = []
                elif run and probe.ended - run[-1].ended > LONGEST_LIE_SECONDS:
                    found += _lie(run, said_ready)
                    run = [probe]
                elif said_ready or probe.began >= began:
                    run.append(probe)
            found += _lie(run, said_ready)
    return found


def _proves(probe: Probe, *, ready: bool) -> bool:
    """Whether the end of a request agrees with what readiness says."""
    if ready:
        return probe.status in (200, 429) or probe.code == "out-of-memory"
    return probe.status != 200


def _lie(run: Sequence[Probe], said_ready: bool) -> list[Lie]:
    if not run:
        return []
    seconds = run[-1].ended - run[0].ended
    if seconds <= LONGEST_LIE_SECONDS + SLACK_SECONDS:
        return []
    return [Lie(run[0].ended, seconds, said_ready, f"{run[-1].status} {run[-1].code}".strip())]


def _periods(polls: Sequence[Poll], ready: bool) -> Iterator[tuple[float, float]]:
    """Yield the periods in which all polls said the same."""
    began: float | None = None
    last = 0.0
    for poll in polls:
        # No answer at all says nothing that could be wrong.
        if poll.status != 0 and (poll.status == 200) is ready:
            began = poll.at if began is None else began
            last = poll.at
        elif began is not None:
            yield began, last
            began = None
    if began is not None:
        yield began, last
