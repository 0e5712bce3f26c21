"""A light caller beside heavy ones: its waiting times, and the throughput of the heavy ones."""

import base64
import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks import servers, workload
from benchmarks.load import Load, callers, raw_request
from benchmarks.report import Row
from benchmarks.servers import RunningServer
from legrad_engine.models import STARTER

HEAVY_CALLERS = (1, 4, 24)
PICTURES = 16
PROMPTS = 8
MOST_BATCHES = 3.0
LEAST_SHARE_OF_THROUGHPUT = 0.95
_SECONDS = 12.0
_QUICK_SECONDS = 3.0
_ALONE_SECONDS = 4.0
_PATIENCE_SECONDS = 120.0
_MODEL_STAGES = ("text", "forward", "backward")
_SAMPLE = re.compile(r'legrad_(\w+_(?:sum|count))\{.*?(?:stage="(\w+)")?\} (\S+)')


@dataclass(frozen=True, slots=True)
class _Computed:
    """What the model has computed since the server started.

    Attributes:
        pictures: number of pictures.
        seconds: seconds of their batches.
    """

    pictures: float
    seconds: float

    @classmethod
    def of(cls, server: RunningServer) -> "_Computed":
        pictures = seconds = 0.0
        metrics = httpx.get(f"{server.url}/metrics", timeout=_PATIENCE_SECONDS).text
        for name, stage, value in _SAMPLE.findall(metrics):
            if name == "batch_size_sum":
                pictures += float(value)
            elif name == "compute_seconds_sum" and stage in _MODEL_STAGES:
                seconds += float(value)
        return cls(pictures, seconds)

    def seconds_of_full_batch(self, before: "_Computed") -> float:
        """Return the seconds of a batch with as many pictures as a heavy request."""
        return PICTURES * (self.seconds - before.seconds) / (self.pictures - before.pictures)


def measure(*, quick: bool = False) -> list[Row]:
    """Measure a light caller beside heavy ones, and heavy ones with and without fair sharing.

    Args:
        quick: whether to send for a shorter time, to check that all of it runs.
    """
    seconds = _QUICK_SECONDS if quick else _SECONDS
    with tempfile.TemporaryDirectory() as folder:
        models = {
            "built-in model": STARTER,
            "a model that costs next to nothing": workload.write_nearly_free_model(Path(folder)),
        }
        return [row for name, served in models.items() for row in _measure(name, served, seconds)]


def _measure(name: str, served: str, seconds: float) -> list[Row]:
    with servers.legrad(
        served, request_timeout_seconds=_PATIENCE_SECONDS, trusted_proxies="127.0.0.1"
    ) as server:
        most = max(HEAVY_CALLERS)
        light, heavy = _light(), [_heavy(caller) for caller in range(most)]
        # Loads what is loaded once, and lets the server measure its speed.
        _send(server, [light, *heavy[:4]], _QUICK_SECONDS)
        (alone,) = _send(server, [light], min(seconds, _ALONE_SECONDS))
        # As many callers behind one address: nothing to share, as in a server without fairness.
        before = _Computed.of(server)
        one_owner = _send(server, [_heavy(caller, owner=0) for caller in range(most)], seconds)
        full_batch = _Computed.of(server).seconds_of_full_batch(before)
        rows = [
            Row(f"{name}: median of a light caller alone", alone.percentile(50), unit="s"),
            Row(f"{name}: one full batch, 16 pictures x 8 prompts", full_batch, unit="s"),
        ]
        for count in HEAVY_CALLERS:
            beside, *others = _send(server, [light, *heavy[:count]], seconds)
            rows += _rows(f"{name}, {count} heavy", beside, others, full_batch)
        rate = _pictures_per_second(_send(server, heavy, seconds))
        base = _pictures_per_second(one_owner)
    return [
        *rows,
        Row(
            f"{name}: pictures per second of {most} heavy owners / of one with {most} connections",
            rate / base,
            LEAST_SHARE_OF_THROUGHPUT,
            "at least",
            details={"pictures_per_second": rate, "as_one_owner": base},
        ),
    ]


def _rows(case: str, light: Load, heavy: Sequence[Load], full_batch: float) -> list[Row]:
    refused = len(light.answers) - light.count(200)
    heavy_statuses = Counter(each.status for load in heavy for each in load.answers)
    details: dict[str, object] = {
        "light": light.statuses(),
        "heavy": dict(heavy_statuses),
        "median_seconds": light.percentile(50),
        "p99_seconds": light.percentile(99),
    }
    return [
        Row(
            f"{case}: median of the light caller / one full batch",
            light.percentile(50) / full_batch,
            MOST_BATCHES,
            "at most",
            details=details,
        ),
        Row(f"{case}: p99 of the light caller / one full batch", light.percentile(99) / full_batch),
        Row(f"{case}: answers to the light caller other than 200", refused, 0, unit=""),
    ]


def _send(server: RunningServer, requests: list[list[bytes]], seconds: float) -> list[Load]:
    return callers(server.url, requests, seconds=seconds, patience=_PATIENCE_SECONDS)


def _pictures_per_second(loads: Sequence[Load]) -> float:
    # Until the last answer: the server works as long.
    return PICTURES * sum(load.count(200) for load in loads) / max(load.seconds for load in loads)


def _light() -> list[bytes]:
    bodies = [{"image": _picture(seed), "prompts": ["a cat"]} for seed in range(8)]
    return [_request("10.0.1.1", body) for body in bodies]


def _heavy(caller: int, owner: int | None = None) -> list[bytes]:
    body = {
        "images": [_picture(1000 + PICTURES * caller + place) for place in range(PICTURES)],
        "prompts": [f"thing {number} of caller {caller}" for number in range(PROMPTS)],
    }
    return [_request(f"10.0.0.{caller if owner is None else owner}", body)]


def _request(address: str, body: Mapping[str, object]) -> bytes:
    quiet = {"heatmap": "none", "overlay": False}
    content = json.dumps({**body, "options": {"cache": False}, "output": quiet}).encode()
    return raw_request("/explain", content, X_Forwarded_For=address)


def _picture(seed: int) -> str:
    return base64.b64encode(workload.jpeg(256, 256, seed)).decode()
