"""Comparison of the service with the same engine behind LitServe, mosec and a bare FastAPI handler.

All servers answer the same JSON with the same outputs on the same cores, in turns; the servers that
are not measured are suspended. Under overload, requests arrive at a constant rate of ten times the
service's capacity.
"""

import base64
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks import servers, workload
from benchmarks.load import BROKEN, Load, closed_loop, open_loop, raw_request
from benchmarks.report import Row
from benchmarks.servers import RunningServer
from legrad_engine.models import STARTER, ModelReference
from service.schemas.requests import OutputOptions

OURS = "legrad"
LITSERVE = "LitServe"
MOSEC = "mosec"
BARE = "bare FastAPI"
# Module and health path of each.
PEERS = {
    LITSERVE: ("benchmarks.peers.batched", "/health"),
    MOSEC: ("benchmarks.peers.staged", "/"),
    BARE: ("benchmarks.peers.bare", "/health"),
}
CLIENTS = 32
TIMES_CAPACITY = 10
OVERLOAD_SECONDS = 20.0
DEADLINE_SECONDS = 10.0
# Longer than the deadline, so that answers to late requests are still received.
_PATIENCE_SECONDS = 12.0
PROMPTS = ["a cat", "a dog", "a car", "a tree"]
_PICTURES = 16
_MOST_ROUNDS = 5
_RECOVERY_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison.

    Attributes:
        model: reference of the model.
        size: (width, height) of the JPEG pictures.
        out: name of the outputs.
        output: the outputs.
        requests: number of requests of one round.
    """

    model: str
    size: tuple[int, int]
    out: str
    output: OutputOptions
    requests: int

    def __str__(self) -> str:
        width, height = self.size
        return f"{ModelReference.parse(self.model).name}, {width} x {height} in, {self.out} out"

    def body(self, seed: int) -> dict[str, Any]:
        """Make the body of a request."""
        return {
            "image": base64.b64encode(workload.jpeg(*self.size, seed)).decode(),
            "prompts": PROMPTS,
            # The peers have no cache.
            "options": {"cache": False},
            "output": self.output.model_dump(),
        }

    def raw_requests(self) -> list[bytes]:
        """Make requests with different pictures."""
        bodies = (self.body(seed) for seed in range(_PICTURES))
        return [raw_request("/explain", json.dumps(body).encode()) for body in bodies]


_NUMBERS = OutputOptions(heatmap="npy", overlay=False, regions_threshold=None)
_OVERLAYS = OutputOptions(heatmap="none", overlay=True, regions_threshold=None)


def measure(repeats: int) -> list[Row]:
    """Measure throughput, p99 and bytes at saturation, and each server under ten times that load.

    Around a model that costs nothing, the servers themselves are compared; the overload is measured
    with the built-in model.
    """
    rounds = min(repeats, _MOST_ROUNDS)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        free = workload.write_nearly_free_model(Path(folder))
        for case in (
            Case(free, (256, 256), "numbers", _NUMBERS, 512),
            Case(free, (1152, 864), "overlays", _OVERLAYS, 96),
        ):
            with _servers(case.model) as running:
                rows += _saturation_rows(
                    case, _saturate(case, running, rounds), _sizes(case, running)
                )
    usual = Case(STARTER, (256, 256), "numbers", _NUMBERS, 256)
    with _servers(STARTER) as running:
        loads = _saturate(usual, running, rounds)
        rows += _saturation_rows(usual, loads, _sizes(usual, running))
        rate = TIMES_CAPACITY * statistics.median(load.steady_rate() for load in loads[OURS])
        for name, server in running.items():
            with _alone(server, running):
                rows += _overload(usual, name, server, rate)
    return rows


@contextlib.contextmanager
def _servers(model: str) -> Iterator[dict[str, RunningServer]]:
    reference = ModelReference.parse(model)
    arguments = [reference.name, *([reference.pretrained] if reference.pretrained else [])]
    with contextlib.ExitStack() as stack:
        running = {
            OURS: stack.enter_context(
                servers.legrad(model, request_timeout_seconds=DEADLINE_SECONDS)
            )
        }
        for name, (module, health) in PEERS.items():
            running[name] = stack.enter_context(servers.peer(module, health, arguments))
        yield running


@contextlib.contextmanager
def _alone(server: RunningServer, running: Mapping[str, RunningServer]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for other in running.values():
            if other is not server:
                stack.enter_context(other.suspended())
        yield


def _saturate(
    case: Case, running: Mapping[str, RunningServer], rounds: int
) -> dict[str, list[Load]]:
    requests = case.raw_requests()
    loads: dict[str, list[Load]] = {name: [] for name in running}
    for turn in range(-1, rounds):
        for name, server in running.items():
            with _alone(server, running):
                load = closed_loop(
                    server.url,
                    requests,
                    clients=CLIENTS,
                    count=case.requests,
                    patience=_RECOVERY_SECONDS,
                )
            if load.count(200) != case.requests:
                raise RuntimeError(f"{name} did not answer all requests: {load.statuses()}")
            if turn >= 0:
                loads[name].append(load)
    return loads


def _sizes(case: Case, running: Mapping[str, RunningServer]) -> dict[str, int]:
    """Return the bytes of each server's answer to the same request."""
    sizes = {}
    for name, server in running.items():
        answer = httpx.post(f"{server.url}/explain", json=case.body(0), timeout=_RECOVERY_SECONDS)
        sizes[name] = len(answer.raise_for_status().content)
    return sizes


def _saturation_rows(
    case: Case, loads: Mapping[str, list[Load]], sizes: Mapping[str, int]
) -> list[Row]:
    rates = {name: [load.steady_rate() for load in found] for name, found in loads.items()}
    waits = {name: [load.percentile(99) for load in found] for name, found in loads.items()}
    rows = []
    for name in PEERS:
        for quantity, values, bound in (
            ("images per second at saturation", rates, "at least"),
            ("p99 at saturation", waits, "at most"),
        ):
            rows.append(
                Row(
                    f"{quantity}, {case}, {CLIENTS} clients: ours / {name}",
                    statistics.median(values[OURS]) / statistics.median(values[name]),
                    1.0,
                    "at least" if bound == "at least" else "at most",
                    details={OURS: values[OURS], name: values[name]},
                )
            )
        rows.append(
            Row(
                f"bytes of an answer, {case}: ours / {name}",
                sizes[OURS] / sizes[name],
                details={OURS: sizes[OURS], name: sizes[name]},
            )
        )
    return rows


def _overload(case: Case, name: str, server: RunningServer, rate: float) -> list[Row]:
    before = server.resident_bytes()
    load = open_loop(
        server.url,
        case.raw_requests(),
        rate=rate,
        seconds=OVERLOAD_SECONDS,
        patience=_PATIENCE_SECONDS,
    )
    grown = server.resident_bytes() - before
    recovered = _seconds_until_answered(case, server)
    details: dict[str, object] = {"requests_per_second": rate, "statuses": load.statuses()}
    label = f"at {TIMES_CAPACITY} x capacity, {name}"
    in_time = load.within(DEADLINE_SECONDS) / load.seconds
    return [
        Row(f"{label}: images per second in time", in_time, unit="/s", details=details),
        Row(f"{label}: p99 of what was answered", load.percentile(99), unit="s"),
        Row(
            f"{label}: share of requests that got no answer at all within {_PATIENCE_SECONDS:g} s",
            100 * load.count(BROKEN) / len(load.answers),
            unit="%",
        ),
        Row(f"{label}: memory grown by", grown / 2**20, unit="MiB"),
        Row(f"{label}: seconds until it answers again", recovered, unit="s"),
    ]


def _seconds_until_answered(case: Case, server: RunningServer) -> float:
    """Measure how long a single client waits for an answer after the load has ended."""
    began = time.perf_counter()
    answered = 0
    while not answered:
        load = closed_loop(
            server.url, case.raw_requests()[:1], clients=1, count=1, patience=_RECOVERY_SECONDS
        )
        answered = load.count(200)
        if time.perf_counter() - began > _RECOVERY_SECONDS:
            raise RuntimeError(f"no answer after the load: {load.statuses()}")
    return time.perf_counter() - began
