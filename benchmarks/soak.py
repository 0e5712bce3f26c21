"""Soak test ``python -m benchmarks.soak``: mixed traffic for ten minutes, and leaks after it.

A few concurrent callers send pictures of many sizes and kinds to two models, invalid requests, and
requests that they abandon. The memory of the server and of its picture processes, and the server's
threads and descriptors are sampled throughout.
"""

import base64
import contextlib
import io
import itertools
import json
import random
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import typer
from rich.console import Console

from benchmarks import report, servers, workload
from benchmarks.load import raw_request
from benchmarks.report import Row
from legrad_engine.images.file_formats import PICTURE_FORMATS, HeatmapFormat
from legrad_engine.models import STARTER, ModelReference

CALLERS = 4
SAMPLE_SECONDS = 1.0
# Share of the whole time in which memory may grow, until caches are full and all code has run.
WARM_UP_SHARE = 0.3
MOST_GROWTH_PERCENT = 1.0
# Small enough that it is full and evicts within the warm-up.
TRACE_CACHE_BYTES = 16_000_000
SEED = 20_260_101
PATIENCE_SECONDS = 60.0
_WORDS = ("a cat", "a dog", "a pizza", "a red bus", "a tree", "the sky", "a cup", "two people")
_SIZES = ((224, 224), (640, 480), (480, 640), (1152, 864), (61, 300), (1600, 90))
_EXPECTED = {
    "json": {200},
    "multipart": {200},
    "overlay alone": {200},
    "many pictures": {200},
    "other model": {200},
    "large input": {200},
    "bad json": {400},
    "bad picture": {422},
    "bad option": {422},
    "no such model": {404},
    "no such page": {404},
    "metrics": {200},
    "leaves at once": {0},
    "leaves in the body": {0},
}


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at one instant.

    Attributes:
        at: seconds on the monotonic clock.
        server: resident bytes of the server.
        pictures: resident bytes of its picture processes and their launcher.
        threads: number of the server's threads.
        descriptors: number of the server's open descriptors.
    """

    at: float
    server: int
    pictures: int
    threads: int
    descriptors: int

    @classmethod
    def of(cls, process: psutil.Process) -> "Sample":
        """Read the memory, threads and descriptors of a running server."""
        pictures = 0
        for child in process.children(recursive=True):
            # A picture process may end, and be replaced, meanwhile.
            with contextlib.suppress(psutil.NoSuchProcess):
                pictures += child.memory_info().rss
        return cls(
            time.monotonic(),
            process.memory_info().rss,
            pictures,
            process.num_threads(),
            process.num_fds(),
        )


@dataclass
class Record:
    """Answers of the callers and samples of the server, appended from several threads."""

    answers: list[tuple[float, str, int, float]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


class Caller:
    """Client with its own seeded mix of requests."""

    def __init__(self, server: servers.RunningServer, other_model: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._address = urlsplit(server.url)
        self._client = httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS)
        self._other_model = other_model
        self._kinds: dict[str, Callable[[], int]] = {
            "json": self._json,
            "multipart": self._multipart,
            "overlay alone": self._overlay_alone,
            "many pictures": lambda: self._json(pictures=4),
            "other model": lambda: self._json(model=self._other_model),
            "large input": lambda: self._json(options={"size": 448}),
            "bad json": lambda: self._post(content=b'{"image": '),
            "bad picture": lambda: self._json(image="aGVsbG8gd29ybGQ="),
            "bad option": lambda: self._json(options={"layers": 500}),
            "no such model": lambda: self._json(model="nothing"),
            "no such page": lambda: self._client.get("/nothing").status_code,
            "metrics": lambda: self._client.get("/metrics").status_code,
            "leaves at once": lambda: self._leave(1.0),
            "leaves in the body": lambda: self._leave(self._random.random()),
        }

    def run(self, until: float, record: Record) -> None:
        """Send one request after another until an instant on the monotonic clock."""
        names = list(self._kinds)
        # Most of the traffic is valid requests.
        weights = [4 if name in ("json", "multipart") else 1 for name in names]
        with self._client:
            while time.monotonic() < until:
                (name,) = self._random.choices(names, weights)
                began = time.monotonic()
                status = self._kinds[name]()
                record.answers.append((began, name, status, time.monotonic() - began))

    def _json(self, pictures: int = 1, **changes: Any) -> int:
        return self._post(json={**self._body(pictures), **changes})

    def _body(self, pictures: int) -> dict[str, Any]:
        images = [base64.b64encode(self._picture()).decode() for _ in range(pictures)]
        given = {"image": images[0]} if pictures == 1 else {"images": images}
        return {
            **given,
            "prompts": self._prompts(),
            "output": {"heatmap": self._heatmap(), "format": self._format()},
        }

    def _heatmap(self) -> str:
        formats: tuple[str, ...] = get_args(HeatmapFormat)
        return self._random.choice(formats)

    def _format(self) -> str:
        return self._random.choice(PICTURE_FORMATS)

    def _multipart(self) -> int:
        return self._post(
            files={"image": ("picture", self._picture(), "image/jpeg")},
            data={"prompts": self._prompts()},
            headers={"Accept": self._random.choice(("application/json", "multipart/form-data"))},
        )

    def _overlay_alone(self) -> int:
        return self._post(
            files={"image": ("picture", self._picture(), "image/jpeg")},
            data={"prompts": self._prompts()[:1]},
            headers={"Accept": f"image/{self._format()}"},
        )

    def _post(self, **request: Any) -> int:
        content_type = {"Content-Type": "application/json"} if "content" in request else {}
        headers = {**content_type, **request.pop("headers", {})}
        return self._client.post("/explain", headers=headers, **request).status_code

    def _leave(self, share: float) -> int:
        """Send a share of a valid request, then close the connection."""
        request = raw_request("/explain", json.dumps(self._body(1)).encode())
        address = (self._address.hostname or "", self._address.port or 0)
        with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(request[: int(share * len(request))])
        return 0

    def _prompts(self) -> list[str]:
        return self._random.sample(_WORDS, self._random.randint(1, 4))

    def _picture(self) -> bytes:
        # A third of the pictures repeat, so that cache entries are used and dropped.
        seed = self._random.randrange(8 if self._random.random() < 1 / 3 else 10_000)
        width, height = self._random.choice(_SIZES)
        kind = self._random.choice(("JPEG", "PNG", "WEBP"))
        generator = np.random.default_rng(seed)
        coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        workload.enlarged(coarse, width, height).save(buffer, kind)
        return buffer.getvalue()


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="Duration of the traffic.")] = 10.0,
    output: Annotated[Path, typer.Option(help="The JSON file.")] = Path("benchmarks/soak.json"),
) -> None:
    """Send mixed traffic to a server; fail if it grows, leaks or answers wrongly."""
    console = Console()
    before = report.environment()
    record = Record()
    seconds = 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        other = workload.write_small_model(Path(folder))
        with servers.legrad(
            f"{STARTER},{other}",
            trace_cache_bytes=TRACE_CACHE_BYTES,
            request_timeout_seconds=PATIENCE_SECONDS,
        ) as server:
            with console.status(f"Soaking for {minutes:g} minutes"):
                _soak(server, ModelReference.parse(other).id, seconds, record)
            soaked = _rows(record, _at_rest(server))
    report.show(soaked, console)
    report.write(soaked, output, before, report.environment())
    console.print(f"Written to {output}")
    if any(row.verdict == "missed" for row in soaked):
        raise typer.Exit(1)


def _soak(server: servers.RunningServer, other: str, seconds: float, record: Record) -> None:
    until = time.monotonic() + seconds
    stopped = threading.Event()
    sampler = threading.Thread(target=_sample, args=(server, record, stopped))
    sampler.start()
    try:
        with ThreadPoolExecutor(CALLERS) as pool:
            callers = [Caller(server, other, SEED + number) for number in range(CALLERS)]
            for finished in [pool.submit(caller.run, until, record) for caller in callers]:
                finished.result()
    finally:
        stopped.set()
        sampler.join()


def _sample(server: servers.RunningServer, record: Record, stopped: threading.Event) -> None:
    process = psutil.Process(server.pid)
    while not stopped.wait(SAMPLE_SECONDS):
        record.samples.append(Sample.of(process))


def _at_rest(server: servers.RunningServer) -> tuple[int, int]:
    """Read the fewest threads and descriptors after the traffic has ended."""
    process = psutil.Process(server.pid)
    found: list[tuple[int, int]] = []
    pause = threading.Event()
    for _ in range(30):
        sample = Sample.of(process)
        found.append((sample.threads, sample.descriptors))
        pause.wait(SAMPLE_SECONDS)
    return min(found)


def _rows(record: Record, at_rest: tuple[int, int]) -> list[Row]:
    began = record.samples[0].at
    warm = began + WARM_UP_SHARE * (record.samples[-1].at - began)
    settled = [sample for sample in record.samples if sample.at >= warm]
    threads, descriptors = at_rest
    counts = Counter((name, status) for _, name, status, _ in record.answers)
    wrong = {
        f"{name}: {status}": count
        for (name, status), count in counts.items()
        if status not in _EXPECTED[name]
    }
    memory = {
        "the server": [(sample.at, sample.server) for sample in settled],
        "its picture processes": [(sample.at, sample.pictures) for sample in settled],
    }
    return [
        *(
            Row(
                f"growth of {name} after warm-up, by its median slope",
                _growth_percent(sizes),
                MOST_GROWTH_PERCENT,
                unit="%",
                details={"mebibytes": [size / 2**20 for _, size in sizes]},
            )
            for name, sizes in memory.items()
        ),
        Row(
            "threads at rest after, beyond the most while warm",
            threads - max(sample.threads for sample in settled),
            0.0,
            unit="",
        ),
        Row(
            "descriptors at rest after, beyond the fewest while warm",
            descriptors - min(sample.descriptors for sample in settled),
            0.0,
            unit="",
        ),
        *_latency_rows(record, warm),
        Row(
            "answers that were not as expected",
            sum(wrong.values()),
            0.0,
            unit="",
            details={"wrong": wrong, "answers": len(record.answers)},
        ),
        Row("requests", len(record.answers), unit=""),
    ]


def _growth_percent(sizes: Sequence[tuple[float, int]]) -> float:
    """Estimate the growth over the period by the median of all slopes (Theil and Sen).

    A peak does not affect it.

    Args:
        sizes: instants in seconds, and bytes.

    Returns:
        Percent of the median size.
    """
    thinned = sizes[:: max(1, len(sizes) // 300)]
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in itertools.combinations(thinned, 2)
    ]
    period = sizes[-1][0] - sizes[0][0]
    return 100 * statistics.median(slopes) * period / statistics.median(size for _, size in sizes)


def _latency_rows(record: Record, warm: float) -> list[Row]:
    """Compare the latency of one kind of request in the last half with the first half."""
    found = [
        (began, seconds)
        for began, name, status, seconds in record.answers
        if name == "multipart" and status == 200 and began >= warm
    ]
    middle = len(found) // 2
    halves = [[seconds for _, seconds in part] for part in (found[:middle], found[middle:])]
    return [
        Row(
            f"p{percent} of one picture by multipart, last half / first half",
            float(np.percentile(halves[1], percent) / np.percentile(halves[0], percent)),
            details={"milliseconds": [1000 * float(np.percentile(h, percent)) for h in halves]},
        )
        for percent in (50, 99)
    ]


if __name__ == "__main__":
    typer.run(main)
