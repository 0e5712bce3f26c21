"""Callers that send mixed requests through the balancer and check every answer."""

import contextlib
import json
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.chaos.questions import Question, ask, difference, problem_of
from tests.chaos.replicas import REQUEST_SECONDS

BOUND_SECONDS = 3.0
"""An answer comes within its deadline and this time, which includes one retry of the balancer."""

LATE = frozenset({"deadline-exceeded", "picture-timeout"})
"""Problems that a stall of the whole machine causes, too."""

_HANGS_AFTER_SECONDS = 30.0
_TRIES = 5
_PAUSE_SECONDS = 0.15
_LEAVES = 0.08
_IN_A_HURRY = 0.1
_BUSY = frozenset({"too-many-requests", "queue-full"})


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one request.

    Attributes:
        kind: kind of the request.
        request_id: its id.
        deadline: its deadline, in seconds.
        began: when it was sent, on the monotonic clock.
        ended: when its answer had come.
        status: status of the answer; 0 if there was none.
        code: code of the problem; empty for an answer as asked.
        wrong: why the answer is wrong in any case; empty if it is not.
    """

    kind: str
    request_id: str
    deadline: float
    began: float
    ended: float
    status: int
    code: str
    wrong: str = ""


class Traffic:
    """Callers, as a context manager.

    Attributes:
        ends: the ends of their requests, in the order of their answers.
        left: number of requests that their callers left.
    """

    def __init__(
        self,
        url: str,
        expected: Mapping[Question, Any],
        chance: random.Random,
        callers: int,
    ) -> None:
        self._url = url
        self._expected = expected
        self._stopped = threading.Event()
        self.ends: list[Ended] = []
        self.left = 0
        self._threads = [
            threading.Thread(target=self._call, args=(random.Random(chance.random()),))
            for _ in range(callers)
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Send requests while the context lasts."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join()

    def _call(self, chance: random.Random) -> None:
        asked = list(self._expected)
        with _client(self._url) as client:
            while not self._stopped.wait(_PAUSE_SECONDS):
                question = chance.choice(asked)
                if chance.random() < _LEAVES:
                    self._leave(question, chance)
                else:
                    hurry = chance.random() < _IN_A_HURRY
                    seconds = chance.uniform(0.2, 2.0) if hurry else REQUEST_SECONDS
                    self.ends.append(self._ask(client, question, seconds))

    def _ask(self, client: httpx.Client, question: Question, seconds: float) -> Ended:
        request_id = uuid.uuid4().hex
        headers = {"X-Request-ID": request_id, "X-Request-Timeout-Ms": str(int(1000 * seconds))}
        began = time.monotonic()
        status, code, wrong = 0, "", ""
        try:
            response = ask(client, question, **headers)
        except httpx.TransportError as error:
            wrong = f"no answer: {error!r}"
        else:
            status = response.status_code
            code, wrong = judged(question, response, self._expected[question])
            if response.headers.get("x-request-id") != request_id:
                wrong = f"the answer of {response.headers.get('x-request-id')}, not {request_id}"
        ended = time.monotonic()
        if not wrong and code == "deadline-exceeded" and ended - began < seconds:
            wrong = f"{code} after {ended - began:.2f} s of {seconds:.2f}"
        hurried = seconds < REQUEST_SECONDS and code == "deadline-exceeded"
        code = "" if hurried else code
        return Ended(question.kind, request_id, seconds, began, ended, status, code, wrong)

    def _leave(self, question: Question, chance: random.Random) -> None:
        """Send a part of a request, or a whole one, and leave before its answer."""
        self.left += 1
        body = json.dumps(question.request.get("json", {})).encode()
        head = f"POST {question.path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
        sent = request if chance.random() < 0.5 else request[: int(chance.random() * len(request))]
        address = urlsplit(self._url)
        with (
            contextlib.suppress(OSError),
            socket.create_connection((address.hostname or "", address.port or 0)) as connection,
        ):
            connection.sendall(sent)
            self._stopped.wait(chance.uniform(0.0, 0.3))


def judged(question: Question, response: httpx.Response, expected: Any) -> tuple[str, str]:
    """Check an answer.

    Returns:
        The code of its problem, and why it is wrong in any case; both empty for the answer that
        was expected.
    """
    if response.status_code == 200:
        if question.refused is not None:
            return "", f"answered, though it is to be refused with {question.refused}"
        return "", difference(expected, response.json())
    try:
        problem = problem_of(response)
    except (ValueError, KeyError, TypeError) as error:
        return "untyped", f"no typed problem: {error!r} {response.text[:200]!r}"
    if (response.status_code, problem.code) == question.refused:
        return "", ""
    if response.status_code == 500:
        return problem.code, f"500 {problem.code}"
    if response.status_code == 429 and "retry-after" not in response.headers:
        return problem.code, "429 without Retry-After"
    return ("" if problem.code in _BUSY else problem.code), ""


def expected_answers(url: str, asked: Sequence[Question]) -> dict[Question, Any]:
    """Return the answer to each request while nothing fails."""
    found: dict[Question, Any] = {}
    with _client(url) as client:
        for question in asked:
            response = _ask_without_stall(client, question)
            found[question] = response.json()
            if question.refused is None and response.status_code != 200:
                raise AssertionError(f"{question.kind}: {response.text[:500]}")
            if (found_wrong := judged(question, response, found[question])) != ("", ""):
                raise AssertionError(f"{question.kind}: {found_wrong}")
    return found


def _ask_without_stall(client: httpx.Client, question: Question) -> httpx.Response:
    for _ in range(_TRIES):
        response = ask(client, question)
        if response.status_code == 200 or problem_of(response).code not in LATE:
            break
    return response


def _client(url: str) -> httpx.Client:
    # A connection for each request: on a kept one HAProxy closes where it would answer with 502.
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=url, timeout=_HANGS_AFTER_SECONDS, limits=limits)
