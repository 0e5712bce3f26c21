"""Overload at ten times the capacity: throughput, waiting times, refusals and memory."""

import base64
import json
import operator
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import servers, workload
from benchmarks.load import Load, closed_loop, open_loop, raw_request
from benchmarks.report import Row
from benchmarks.servers import RunningServer
from legrad_engine.models import STARTER, ModelReference

TIMES_CAPACITY = 10
CLIENTS = 32
REQUESTS_PER_ROUND = 128
PICTURES = 64
LEAST_SHARE_OF_SATURATION = 0.95
# Deadline in turns of all clients at saturation: the same queue length on any machine.
DEADLINE_TURNS = 6
_MOST_ROUNDS = 5
_PATIENCE_SECONDS = 120.0
_PROMPTS = ["a cat", "a dog", "a car", "a tree"]


@dataclass(frozen=True, slots=True)
class Case:
    """A server under overload.

    Attributes:
        served: reference of the served model.
        threads: compute threads of the model.
    """

    served: str
    threads: int

    def __str__(self) -> str:
        model = ModelReference.parse(self.served).name
        left = torch.get_num_threads() - self.threads
        return model + (f" with {left} core left to the rest" if left else "")


def measure(weights: Path, repeats: int) -> list[Row]:
    """Measure throughput under overload / at saturation, waiting times, refusals and memory."""
    rows = []
    for case in _cases(weights):
        with servers.legrad(
            case.served, request_timeout_seconds=_PATIENCE_SECONDS, compute_threads=case.threads
        ) as server:
            capacity = _saturate(server).steady_rate()
            deadline = DEADLINE_TURNS * CLIENTS / capacity
            # One overload before the measurement, because the first one fills memory pools.
            _overload(server, capacity, deadline)
            before = server.resident_bytes()
            saturated, loads = [], []
            # In turns, because the speed of a machine varies over time.
            for _ in range(min(repeats, _MOST_ROUNDS)):
                saturated.append(_saturate(server).steady_rate())
                loads.append(_overload(server, capacity, deadline))
            grown = server.resident_bytes() - before
        rows += _rows(case, deadline, saturated, loads, grown)
    return rows


def _cases(weights: Path) -> list[Case]:
    threads = torch.get_num_threads()
    cases = [
        Case(f"{workload.ARCHITECTURE}@{weights}", threads),
        Case(STARTER, threads),
    ]
    # With a small model, sending and refusing so many requests takes a noticeable share of the
    # cores, and none is left if the model uses all of them.
    if threads > 1:
        cases.append(Case(STARTER, threads - 1))
    return cases


def _saturate(server: RunningServer) -> Load:
    load = closed_loop(
        server.url,
        _requests(),
        clients=CLIENTS,
        count=REQUESTS_PER_ROUND,
        patience=_PATIENCE_SECONDS,
    )
    if load.count(200) != REQUESTS_PER_ROUND:
        raise RuntimeError(f"The server answered {load.statuses()} at saturation.")
    return load


def _overload(server: RunningServer, capacity: float, deadline: float) -> Load:
    return open_loop(
        server.url,
        _requests(X_Request_Timeout_Ms=str(round(1000 * deadline))),
        rate=TIMES_CAPACITY * capacity,
        seconds=2 * deadline,
        patience=_PATIENCE_SECONDS,
    )


def _rows(
    case: Case, deadline: float, saturated: list[float], loads: list[Load], grown: int
) -> list[Row]:
    name = f"at {TIMES_CAPACITY} x capacity, {case}"
    answers = [each for load in loads for each in load.answers]
    foreseen = [
        each for each in answers if each.status == 200 or (each.status == 429 and each.retry_after)
    ]
    statuses = sum((Counter(load.statuses()) for load in loads), Counter())
    rates = [load.steady_rate() for load in loads]
    return [
        Row(
            f"{name}: images per second / at saturation",
            # Ratio within each round, because the machine's speed varies between rounds.
            statistics.median(map(operator.truediv, rates, saturated)),
            LEAST_SHARE_OF_SATURATION,
            "at least",
            details={"at_saturation": saturated, "images_per_second": rates},
        ),
        Row(
            f"{name}: p99 of what was accepted / deadline",
            statistics.median(load.percentile(99) for load in loads) / deadline,
            1.0,
            "at most",
            details={"deadline_seconds": deadline},
        ),
        Row(
            f"{name}: answers other than 200 and 429 with Retry-After",
            len(answers) - len(foreseen),
            0,
            "at most",
            unit="",
            details={"statuses": dict(statuses)},
        ),
        Row(f"{name}: p99 of refusals", loads[-1].percentile(99, status=429), unit="s"),
        Row(f"{name}: memory grown by", grown / 2**20, unit="MiB"),
    ]


def _requests(**headers: str) -> list[bytes]:
    return [
        raw_request(
            "/explain",
            json.dumps(
                {
                    "image": base64.b64encode(workload.jpeg(256, 256, seed)).decode(),
                    "prompts": _PROMPTS,
                    "options": {"cache": False},
                }
            ).encode(),
            **headers,
        )
        for seed in range(PICTURES)
    ]
