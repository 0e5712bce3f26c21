"""Comparison of the service with the same engine behind LitServe and a bare FastAPI handler.

All servers answer the same JSON with the same numbers on the same cores, in turns; the servers that
are not measured are suspended. Under overload, requests arrive at a constant rate of ten times the
service's capacity.
"""

import base64
import contextlib
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import servers, workload
from benchmarks.load import BROKEN, Load, closed_loop, open_loop, raw_request
from benchmarks.report import Row
from benchmarks.servers import RunningServer
from legrad_engine.models import STARTER

OURS = "legrad"
LITSERVE = "LitServe"
BARE = "bare FastAPI"
CLIENTS = 32
REQUESTS_PER_ROUND = 256
TIMES_CAPACITY = 10
OVERLOAD_SECONDS = 20.0
DEADLINE_SECONDS = 10.0
# Longer than the deadline, so that answers to late requests are still received.
_PATIENCE_SECONDS = 12.0
PROMPTS = ["a cat", "a dog", "a car", "a tree"]
_PICTURE_SIDE = 256
_PICTURES = 16
_MOST_ROUNDS = 5
_RECOVERY_SECONDS = 300.0


def measure(repeats: int) -> list[Row]:
    """Measure throughput and p99 at saturation, and each server under ten times that load."""
    rounds = min(repeats, _MOST_ROUNDS)
    with contextlib.ExitStack() as stack:
        running = {
            OURS: stack.enter_context(
                servers.legrad(STARTER, request_timeout_seconds=DEADLINE_SECONDS)
            ),
            LITSERVE: stack.enter_context(
                servers.peer("benchmarks.peers.batched", "/health", [STARTER])
            ),
            BARE: stack.enter_context(servers.peer("benchmarks.peers.bare", "/health", [STARTER])),
        }
        loads = _saturate(running, rounds)
        rows = _saturation_rows(loads)
        rate = TIMES_CAPACITY * statistics.median(load.steady_rate() for load in loads[OURS])
        for name, server in running.items():
            with _alone(server, running):
                rows += _overload(name, server, rate)
    return rows


@contextlib.contextmanager
def _alone(server: RunningServer, running: Mapping[str, RunningServer]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for other in running.values():
            if other is not server:
                stack.enter_context(other.suspended())
        yield


def _saturate(running: Mapping[str, RunningServer], rounds: int) -> dict[str, list[Load]]:
    requests = _requests()
    loads: dict[str, list[Load]] = {name: [] for name in running}
    for turn in range(-1, rounds):
        for name, server in running.items():
            with _alone(server, running):
                load = closed_loop(
                    server.url,
                    requests,
                    clients=CLIENTS,
                    count=REQUESTS_PER_ROUND,
                    patience=_RECOVERY_SECONDS,
                )
            if load.count(200) != REQUESTS_PER_ROUND:
                raise RuntimeError(f"{name} did not answer all requests: {load.statuses()}")
            if turn >= 0:
                loads[name].append(load)
    return loads


def _saturation_rows(loads: Mapping[str, list[Load]]) -> list[Row]:
    rates = {name: [load.steady_rate() for load in found] for name, found in loads.items()}
    waits = {name: [load.percentile(99) for load in found] for name, found in loads.items()}
    rows = []
    for name in (LITSERVE, BARE):
        for quantity, values, bound in (
            ("images per second at saturation", rates, "at least"),
            ("p99 at saturation", waits, "at most"),
        ):
            rows.append(
                Row(
                    f"{quantity}, {STARTER}, {CLIENTS} clients: ours / {name}",
                    statistics.median(values[OURS]) / statistics.median(values[name]),
                    1.0,
                    "at least" if bound == "at least" else "at most",
                    details={OURS: values[OURS], name: values[name]},
                )
            )
    return rows


def _overload(name: str, server: RunningServer, rate: float) -> list[Row]:
    before = server.resident_bytes()
    load = open_loop(
        server.url,
        _requests(),
        rate=rate,
        seconds=OVERLOAD_SECONDS,
        patience=_PATIENCE_SECONDS,
    )
    grown = server.resident_bytes() - before
    recovered = _seconds_until_answered(server)
    details: dict[str, object] = {"requests_per_second": rate, "statuses": load.statuses()}
    case = f"at {TIMES_CAPACITY} x capacity, {name}"
    in_time = load.within(DEADLINE_SECONDS) / load.seconds
    return [
        Row(f"{case}: images per second in time", in_time, unit="/s", details=details),
        Row(f"{case}: p99 of what was answered", load.percentile(99), unit="s"),
        Row(
            f"{case}: share of requests that got no answer at all within {_PATIENCE_SECONDS:g} s",
            100 * load.count(BROKEN) / len(load.answers),
            unit="%",
        ),
        Row(f"{case}: memory grown by", grown / 2**20, unit="MiB"),
        Row(f"{case}: seconds until it answers again", recovered, unit="s"),
    ]


def _seconds_until_answered(server: RunningServer) -> float:
    """Measure how long a single client waits for an answer after the load has ended."""
    began = time.perf_counter()
    answered = 0
    while not answered:
        load = closed_loop(server.url, _requests(), clients=1, count=1, patience=_RECOVERY_SECONDS)
        answered = load.count(200)
        if time.perf_counter() - began > _RECOVERY_SECONDS:
            raise RuntimeError(f"no answer after the load: {load.statuses()}")
    return time.perf_counter() - began


def _requests() -> list[bytes]:
    return [raw_request("/explain", json.dumps(_body(seed)).encode()) for seed in range(_PICTURES)]


def _body(seed: int) -> dict[str, Any]:
    picture = workload.jpeg(_PICTURE_SIDE, _PICTURE_SIDE, seed)
    return {
        "image": base64.b64encode(picture).decode(),
        "prompts": PROMPTS,
        # The peers have no cache and answer with numbers only.
        "options": {"cache": False},
        "output": {"heatmap": "npy", "overlay": False, "regions_threshold": None},
    }
