"""Cost of all that surrounds the model, measured around a model that costs next to nothing.

Processor time of a request, of all threads and child processes of the server but the model's own
worker, next to the floor: the same requests answered by bare library calls in one plain process
(:mod:`benchmarks.peers.floor`).
"""

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks import servers, workload
from benchmarks.load import Load, closed_loop, multipart_request
from benchmarks.processor_time import ProcessorTime, lock_share
from benchmarks.report import Row
from benchmarks.servers import RunningServer
from service.schemas.requests import OutputOptions
from service.settings.native_libraries import NATIVE_VARIABLES

CLIENTS = 16
PROMPTS = ("a cat", "a dog", "a car", "a tree")
MOST_TIMES_FLOOR = 1.6
DECODE_MILLISECONDS = 90.0
ANSWER_MEGABYTES = 0.9
PROCESSES = (1, 2, 4)
_MOST_ROUNDS = 5
_PICTURES = 16
_PATIENCE_SECONDS = 600.0
_SAMPLING_SECONDS = 3
# For the start of the sampler, which the load has to outlast.
_SPARE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request.

    Attributes:
        size: (width, height) of its JPEG.
        out: name of its outputs.
        output: its outputs.
        milliseconds: most processor time of one request; None if it is only reported.
        requests: number of requests of one round.
    """

    size: tuple[int, int]
    out: str
    output: OutputOptions
    milliseconds: float | None
    requests: int

    def __str__(self) -> str:
        width, height = self.size
        return f"{width} x {height} JPEG in, {self.out}"


_NUMBERS = OutputOptions(heatmap="npy", overlay=False)
NOTHING_DRAWN = Case(
    (256, 256),
    "no heatmap, no regions",
    OutputOptions(heatmap="none", overlay=False, regions_threshold=None),
    3.0,
    320,
)
DEFAULT = Case((1152, 864), "heatmaps and overlays, the default", OutputOptions(), 58.0, 48)
LARGE = Case((4000, 3000), "heatmaps and overlays, the default", OutputOptions(), None, 16)
CASES = (
    NOTHING_DRAWN,
    Case((256, 256), "npy and regions", _NUMBERS, 6.0, 320),
    Case((1152, 864), "npy and regions", _NUMBERS, 15.0, 96),
    Case((1152, 864), "overlays", OutputOptions(heatmap="none", overlay=True), 46.0, 48),
    DEFAULT,
    LARGE,
)


def measure(repeats: int) -> list[Row]:
    """Measure processor time, the held lock, the size of answers, and rates by processes."""
    rounds = min(repeats, _MOST_ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        model = workload.write_nearly_free_model(Path(folder))
        with (
            _server(model) as server,
            # With the allocator of the service, which keeps large blocks.
            servers.peer("benchmarks.peers.floor", "/health", [], NATIVE_VARIABLES) as floor,
        ):
            rows = _processor_time(server, floor, rounds)
            rows += [_lock(server, case) for case in (NOTHING_DRAWN, DEFAULT)]
            rows += _one_at_a_time(server, rounds)
        rates = {}
        for processes in PROCESSES:
            with _server(model, picture_processes=processes) as server:
                rates[processes] = _rate(server, rounds)
    return rows + [
        Row(
            f"images per second, {DEFAULT}, picture processes: {processes}",
            statistics.median(found),
            unit="/s",
            details={"images_per_second": found},
        )
        for processes, found in rates.items()
    ]


def _server(model: str, **settings: object) -> AbstractContextManager[RunningServer]:
    """Run the service without refusals or timeouts under load; the model has one thread."""
    return servers.legrad(
        model,
        compute_threads=1,
        max_queue_cost=10_000,
        slow_request_seconds=_PATIENCE_SECONDS,
        request_timeout_seconds=_PATIENCE_SECONDS,
        **settings,
    )


def _processor_time(server: RunningServer, floor: RunningServer, rounds: int) -> list[Row]:
    rows = []
    for case in CASES:
        pictures = _pictures(case)
        # Both have done everything once before their threads are named and their time is read.
        for each in (server, floor):
            _drive(each, case, pictures, CLIENTS)
        ours, bare = ProcessorTime(server.pid), ProcessorTime(floor.pid)
        spent: defaultdict[str, list[float]] = defaultdict(list)
        floors = []
        for _ in range(rounds):
            for name, milliseconds in _milliseconds(ours, server, case, pictures).items():
                spent[name].append(milliseconds)
            floors.append(sum(_milliseconds(bare, floor, case, pictures).values()))
        model = spent.pop("model", [0.0])
        parts = {name: statistics.median(found) for name, found in spent.items()}
        total = statistics.median(map(sum, zip(*spent.values(), strict=True)))
        lowest = statistics.median(floors)
        details: dict[str, object] = {
            "milliseconds": {**parts, "model": statistics.median(model)},
            "samples": dict(spent),
            "floor_milliseconds": floors,
            "clients": CLIENTS,
            "prompts": len(PROMPTS),
        }
        rows.append(
            Row(
                f"processor time of a request but the model's, {case}",
                total,
                case.milliseconds,
                floor=round(lowest, 2),
                unit="ms",
                details=details,
            )
        )
        rows.append(Row(f"the same / floor, {case}", total / lowest, MOST_TIMES_FLOOR, floor=1))
        rows += [
            Row(f"of it {name}, {case}", spent_on, unit="ms") for name, spent_on in parts.items()
        ]
    return rows


def _milliseconds(
    time_of: ProcessorTime, server: RunningServer, case: Case, pictures: Sequence[bytes]
) -> dict[str, float]:
    before = time_of.read()
    _drive(server, case, pictures, case.requests)
    after = time_of.read()
    return {
        name: 1000 * (seconds - before.get(name, 0.0)) / case.requests
        for name, seconds in after.items()
    }


def _lock(server: RunningServer, case: Case) -> Row:
    """Measure for how long one request holds the lock of the server's own process."""
    pictures = _pictures(case)
    rate = _drive(server, case, pictures, case.requests).steady_rate()
    requests = int(rate * (_SAMPLING_SECONDS + _SPARE_SECONDS)) + CLIENTS
    share, load = lock_share(
        server.pid, _SAMPLING_SECONDS, lambda: _drive(server, case, pictures, requests)
    )
    rate = load.steady_rate()
    return Row(
        f"interpreter's lock of the server held for each request, its model included, {case}",
        1000 * share / rate,
        unit="ms",
        details={"share_of_time": share, "images_per_second": rate},
    )


def _one_at_a_time(server: RunningServer, rounds: int) -> list[Row]:
    (large,) = _pictures(LARGE, 1)
    (usual,) = _pictures(DEFAULT, 1)
    seconds = []
    with httpx.Client(base_url=server.url, timeout=_PATIENCE_SECONDS) as client:
        for _ in range(max(2, rounds)):
            answer = _explain(client, workload.unseen(large), LARGE.output)
            seconds.append(answer.json()["timings"]["decode"])
        size = len(_explain(client, usual, DEFAULT.output).content)
    width, height = LARGE.size
    return [
        Row(
            f"decoding at rest, {width} x {height} JPEG",
            1000 * statistics.median(seconds),
            DECODE_MILLISECONDS,
            unit="ms",
            details={"seconds": seconds},
        ),
        Row(f"bytes of the answer, {DEFAULT}", size / 1e6, ANSWER_MEGABYTES, unit="MB"),
    ]


def _explain(client: httpx.Client, picture: bytes, output: OutputOptions) -> httpx.Response:
    return client.post(
        "/explain",
        files={"image": ("picture.jpg", picture, "image/jpeg")},
        data={"prompts": list(PROMPTS), "output": output.model_dump_json()},
    ).raise_for_status()


def _rate(server: RunningServer, rounds: int) -> list[float]:
    pictures = _pictures(DEFAULT)
    _drive(server, DEFAULT, pictures, CLIENTS)
    return [
        _drive(server, DEFAULT, pictures, DEFAULT.requests).steady_rate() for _ in range(rounds)
    ]


def _pictures(case: Case, count: int = _PICTURES) -> list[bytes]:
    # Large ones take a second each to make.
    distinct = min(count, 2) if case is LARGE else count
    return [workload.jpeg(*case.size, seed) for seed in range(distinct)]


def _drive(server: RunningServer, case: Case, pictures: Sequence[bytes], count: int) -> Load:
    """Answer requests at saturation; all their pictures differ, so no cache helps."""
    options = case.output.model_dump_json()
    requests = [
        multipart_request(workload.unseen(pictures[each % len(pictures)]), PROMPTS, options)
        for each in range(count)
    ]
    load = closed_loop(
        server.url, requests, clients=CLIENTS, count=count, patience=_PATIENCE_SECONDS
    )
    if load.count(200) != count:
        raise RuntimeError(f"not every request was answered: {load.statuses()}")
    return load
