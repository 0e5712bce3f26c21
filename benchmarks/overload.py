"""Ten times more than the service can do: what it still does, and what it says to the rest."""

import base64
import json
import statistics
from collections import Counter
from pathlib import Path

from benchmarks import servers, workload
from benchmarks.load import Load, closed_loop, open_loop, raw_request
from benchmarks.report import Row
from benchmarks.servers import RunningServer
from legrad_engine.models import STARTER

TIMES_CAPACITY = 10
# Of a request, for each model: half as long as requests come.
DEADLINES = {workload.ARCHITECTURE: 30.0, STARTER: 10.0}
CLIENTS = 32
REQUESTS_PER_ROUND = 128
PICTURES = 64
LEAST_SHARE_OF_SATURATION = 0.95
_MOST_ROUNDS = 5
_PATIENCE_SECONDS = 120.0
_PROMPTS = ["a cat", "a dog", "a car", "a tree"]


def measure(weights: Path, repeats: int) -> list[Row]:
    """Throughput under overload over that at saturation, waits, refusals and memory."""
    rows = []
    for model, deadline in DEADLINES.items():
        served = f"{model}@{weights}" if model == workload.ARCHITECTURE else model
        with servers.legrad(served, request_timeout_seconds=deadline) as server:
            rate = TIMES_CAPACITY * _saturate(server).steady_rate()
            # Once before: the first overload fills pools of memory that are kept.
            _overload(server, rate, 2 * deadline)
            before = server.resident_bytes()
            saturated, loads = [], []
            # In turns: a machine does not stay as fast as it was.
            for _ in range(min(repeats, _MOST_ROUNDS)):
                saturated.append(_saturate(server).steady_rate())
                loads.append(_overload(server, rate, 2 * deadline))
            grown = server.resident_bytes() - before
        rows += _rows(model, deadline, saturated, loads, grown)
    return rows


def _saturate(server: RunningServer) -> Load:
    load = closed_loop(
        server.url,
        _requests(),
        clients=CLIENTS,
        count=REQUESTS_PER_ROUND,
        patience=_PATIENCE_SECONDS,
    )
    if load.count(200) != REQUESTS_PER_ROUND:
        raise RuntimeError("the server did not answer all requests at saturation")
    return load


def _overload(server: RunningServer, rate: float, seconds: float) -> Load:
    return open_loop(
        server.url, _requests(), rate=rate, seconds=seconds, patience=_PATIENCE_SECONDS
    )


def _rows(
    model: str, deadline: float, saturated: list[float], loads: list[Load], grown: int
) -> list[Row]:
    case = f"at {TIMES_CAPACITY} x capacity, {model}"
    answers = [each for load in loads for each in load.answers]
    foreseen = [
        each for each in answers if each.status == 200 or (each.status == 429 and each.retry_after)
    ]
    statuses = sum((Counter(load.statuses()) for load in loads), Counter())
    rates = [load.steady_rate() for load in loads]
    return [
        Row(
            f"{case}: images per second / at saturation",
            statistics.median(rates) / statistics.median(saturated),
            LEAST_SHARE_OF_SATURATION,
            "at least",
            details={"at_saturation": saturated, "images_per_second": rates},
        ),
        Row(
            f"{case}: p99 of what was accepted / deadline",
            statistics.median(load.percentile(99) for load in loads) / deadline,
            1.0,
            "at most",
        ),
        Row(
            f"{case}: answers other than 200 and 429 with Retry-After",
            len(answers) - len(foreseen),
            0,
            "at most",
            unit="",
            details={"statuses": dict(statuses)},
        ),
        Row(f"{case}: p99 of refusals", loads[-1].percentile(99, status=429), unit="s"),
        Row(f"{case}: memory grown by", grown / 2**20, unit="MiB"),
    ]


def _requests() -> list[bytes]:
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
        )
        for seed in range(PICTURES)
    ]
