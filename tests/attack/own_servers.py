"""Attacks for which a server is started with settings, limits or a log of its own."""

import signal
import socket
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import httpx

from legrad_engine.models import STARTER
from tests.attack.measuring import heavy_body, tree_bytes
from tests.attack.outcomes import Finding, Outcome
from tests.support.api_keys import bearer, entry, listed
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_server import Server

_FEW_DESCRIPTORS = 64
_CALLERS = 8
_LOAD_SECONDS = 2.0
# A request sent so long before the signal has been accepted; its place among the statuses.
_STEP_SECONDS, _LOST = 0.2, -1
_DRAIN_SECONDS = 30.0
_PATIENCE_SECONDS = 60.0
_LINES = 600
_PAIRS = 15
# The ratio of two medians that noise alone makes.
_MOST_RATIO = 1.25
_QUIET = {"heatmap": "none", "overlay": False}
_KEYS = listed(entry("a", "the key of a", "explain"), entry("b", "the key of b", "explain"))


def own_servers(only: str, program: str) -> list[Outcome]:
    """Carry out the attacks whose kind or name has the text, on servers of a program."""
    scenarios: dict[tuple[str, str], Callable[[str], Finding]] = {
        ("caches", "another key's words and picture"): partial(_oracle, cache_bytes=256_000_000),
        ("caches", "another key's words, caches off"): partial(_oracle, cache_bytes=0),
        ("caches", "timing of another key's words, cache: false"): _oracle_of_time,
        ("surroundings", f"{_FEW_DESCRIPTORS} file descriptors"): _few_descriptors,
        ("surroundings", "a log that nobody reads"): _unread_log,
        ("surroundings", "SIGTERM under load"): _told_to_end,
    }
    outcomes = []
    for (kind, name), act in scenarios.items():
        if only in f"{kind} {name}":
            finding = _carried_out(act, program)
            reason = "; ".join(finding.reasons)
            outcomes.append(Outcome(kind, name, finding.told, finding.seconds, 0.0, None, reason))
    return outcomes


def _carried_out(act: Callable[[str], Finding], program: str) -> Finding:
    began = time.monotonic()
    try:
        return act(program)
    except httpx.HTTPError as error:
        reason = f"no answer: {type(error).__name__}"
        return Finding(seconds=time.monotonic() - began, reasons=[reason])


def _asked(server: Server, key: str, prompt: str, **body: Any) -> dict[str, Any]:
    answer = server.explain(
        request_of(prompts=[prompt], output=_QUIET, **body), **bearer(f"the key of {key}")
    )
    answer.raise_for_status()
    told: dict[str, Any] = answer.json()
    return told


def _oracle(program: str, cache_bytes: int) -> Finding:
    """Ask with one key for the words and the picture of another."""
    finding = Finding()
    began = time.monotonic()
    with Server(
        STARTER,
        program=[program],
        api_keys=_KEYS,
        log_level="error",
        trace_cache_bytes=cache_bytes,
    ) as server:
        server.wait_for_health()
        for number in range(3):
            prompt = f"a secret of a, {number}"
            # Another one each time: a key is told of the pictures that it sent itself.
            image = data_url(encoded(picture(seed=number)))
            _asked(server, "a", prompt, image=image)
            told = _asked(server, "b", prompt, image=image)
            finding.statuses[200] += 2
            if told["cached_prompts"] or told["images"][0]["cached"]:
                finding.reasons.append("an answer tells another key's words or picture")
    finding.seconds = time.monotonic() - began
    return finding


def _oracle_of_time(program: str) -> Finding:
    """Compare, in turns, the times of words that another key asked for and of new ones."""
    finding = Finding()
    began = time.monotonic()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    uncached = {"options": {"cache": False}}
    with Server(STARTER, program=[program], api_keys=_KEYS, log_level="error") as server:
        server.wait_for_health()
        _asked(server, "b", "to warm up", **uncached)
        for number in range(_PAIRS):
            _asked(server, "a", f"known {number}")
            for known in (True, False):
                prompt = f"known {number}" if known else f"other {number}"
                start = time.perf_counter()
                _asked(server, "b", prompt, **uncached)
                seconds[known].append(time.perf_counter() - start)
                finding.statuses[200] += 1
    medians = [statistics.median(each) for each in seconds.values()]
    if max(medians) > _MOST_RATIO * min(medians):
        finding.reasons.append(f"medians of {medians[0]:.4f} s and {medians[1]:.4f} s")
    finding.seconds = time.monotonic() - began
    return finding


def _few_descriptors(program: str) -> Finding:
    finding = Finding()
    limited = ["sh", "-c", f'ulimit -n {_FEW_DESCRIPTORS}; exec "$@"', "sh", program]
    with Server(STARTER, program=limited, log_level="error") as server:
        server.wait_for_health()
        began = time.monotonic()
        with ExitStack() as opened:
            for _ in range(4 * _FEW_DESCRIPTORS):
                with suppress(OSError):
                    connection = socket.create_connection((server.host, server.port), timeout=5)
                    opened.enter_context(connection)
        for _ in range(3):
            finding.statuses[server.explain(request_of(output=_QUIET)).status_code] += 1
        finding.seconds = time.monotonic() - began
    if set(finding.statuses) != {200}:
        finding.reasons.append("it does not answer afterwards")
    return finding


def _unread_log(program: str) -> Finding:
    """Send more requests than a pipe holds log lines, and then the signal to end."""
    finding = Finding()
    with Server(STARTER, program=[program], reads_log=False, log_level="info") as server:
        server.wait_for_health()
        began = time.monotonic()
        for _ in range(_LINES):
            finding.statuses[server.client.get("/nowhere").status_code] += 1
        server.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            if server.wait(_DRAIN_SECONDS) != 0:
                finding.reasons.append("it does not end with 0")
        if server.alive:
            finding.reasons.append("it does not end")
        finding.seconds = time.monotonic() - began
    if finding.statuses.keys() != {404}:
        finding.reasons.append("it does not answer every request")
    return finding


def _told_to_end(program: str) -> Finding:
    """Tell a loaded server to end; every accepted request must be answered, and no process left."""
    finding = Finding()
    with Server(STARTER, program=[program], log_level="error") as server:
        server.wait_for_health()
        told = time.monotonic() + _LOAD_SECONDS

        def ask(number: int) -> list[int]:
            statuses: list[int] = []
            body = heavy_body(number)
            with (
                httpx.Client(base_url=server.url, timeout=_PATIENCE_SECONDS) as client,
                suppress(httpx.ConnectError),
            ):
                while len(statuses) < 100 and (not statuses or statuses[-1] != 503):
                    sent = time.monotonic()
                    try:
                        statuses.append(client.post("/explain", json=body).status_code)
                    except (httpx.ReadError, httpx.RemoteProtocolError):
                        # An idle connection may be closed as the next request is sent.
                        return [*statuses, _LOST if sent < told - _STEP_SECONDS else 0]
            return statuses

        with ThreadPoolExecutor(_CALLERS) as pool:
            asked = [pool.submit(ask, number) for number in range(_CALLERS)]
            time.sleep(max(0.0, told - time.monotonic()))
            before = tree_bytes(server.pid)
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            status = server.wait(_DRAIN_SECONDS + 10)
            finding.seconds = time.monotonic() - began
            for each in asked:
                finding.statuses.update(each.result())
        if status != 0:
            finding.reasons.append(f"it ends with {status}")
        if before and tree_bytes(server.pid):
            finding.reasons.append("processes are left")
    if wrong := finding.statuses.keys() - {0, 200, 429, 503}:
        finding.reasons.append(f"answers {sorted(wrong)}")
    return finding
