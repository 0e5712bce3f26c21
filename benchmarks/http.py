"""Cost of HTTP: images per second at saturation, and the time of one request at rest.

Server and clients share the machine, as in a test on a laptop; a remote client would cost it less.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import servers, timing, workload
from benchmarks.load import closed_loop, multipart_request
from benchmarks.report import Row
from legrad_engine import Explainer
from legrad_engine.models import STARTER, ModelReference
from service.schemas.requests import OutputOptions

PROMPTS = ["a cat", "a dog", "a car", "a tree"]
OTHER_PROMPTS = ["a bus", "a cup", "a hat", "a sofa"]
SATURATION_TARGETS = {STARTER: 0.85, workload.ARCHITECTURE: 0.95}
SATURATION_SIDE = 256
CLIENTS = 32
BATCH = 16
BATCHES_PER_ROUND = 2
MOST_ROUNDS = 5
MEGAPIXEL = (1152, 864)
# Numbers only, as programs request them, and the default output for people.
OUTPUTS = {
    "numbers out": OutputOptions(heatmap="npy", overlay=False),
    "heatmaps and overlays out": OutputOptions(),
}
OVERLAY_ONLY = OutputOptions(heatmap="none", overlay=True)
_PATIENCE_SECONDS = 600


def measure(weights: Path, repeats: int) -> list[Row]:
    """Measure the rows that need a server."""
    rows: list[Row] = []
    starter = ModelReference(STARTER)
    with _server(STARTER) as client:
        rows += _at_saturation(starter, client, min(repeats, MOST_ROUNDS))
    large = ModelReference(workload.ARCHITECTURE, str(weights))
    with _server(f"{large.name}@{large.pretrained}") as client:
        rows += _at_saturation(large, client, min(repeats, MOST_ROUNDS))
        rows += _at_rest(client, 10 * repeats)
        rows += _second_question(client, 2 * repeats)
    return rows


def _at_saturation(reference: ModelReference, client: httpx.Client, rounds: int) -> list[Row]:
    """Measure server and engine in turns on the same pictures; one is idle while the other runs.

    The engine alone explains the same encoded pictures in full batches. All pictures of all rounds
    differ, because the server caches the forward pass of pictures that it has seen.
    """
    explainer = Explainer.load(reference)
    count = BATCH * BATCHES_PER_ROUND
    pictures = [workload.jpeg(SATURATION_SIDE, SATURATION_SIDE, seed) for seed in range(count)]

    def engine_alone() -> None:
        for start in range(0, count, BATCH):
            explainer.explain(pictures[start : start + BATCH], PROMPTS)

    def over_http(output: OutputOptions) -> None:
        requests = [
            multipart_request(workload.unseen(picture), PROMPTS, output.model_dump_json())
            for picture in pictures
        ]
        load = closed_loop(
            str(client.base_url),
            requests,
            clients=CLIENTS,
            count=count,
            patience=_PATIENCE_SECONDS,
        )
        if load.count(200) != count:
            raise RuntimeError("not every picture was explained")

    works = {"engine alone": engine_alone} | {
        name: partial(over_http, output) for name, output in OUTPUTS.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-1, rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn >= 0:
                rates[name].append(BATCH * BATCHES_PER_ROUND / (time.perf_counter() - start))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    # The target applies to the service around the engine, without the drawing of pictures.
    targets = dict.fromkeys(OUTPUTS, None) | {"numbers out": SATURATION_TARGETS[reference.name]}
    return [
        Row(
            f"HTTP at saturation / engine alone, images per second, {reference.name}, {name}",
            medians[name] / medians["engine alone"],
            target,
            "at least",
            floor=1,
            details={
                "images_per_second": medians,
                "prompts": len(PROMPTS),
                "clients": CLIENTS,
                "batch": BATCH,
            },
        )
        for name, target in targets.items()
    ]


def _at_rest(client: httpx.Client, requests: int) -> list[Row]:
    """Measure a caller's waiting time beyond the computation, by stages, without other requests."""
    picture = workload.jpeg(*MEGAPIXEL, seed=0)
    samples: dict[str, list[float]] = {}
    for turn in range(-2, requests):
        start = time.perf_counter()
        answer = _explain(
            client, workload.unseen(picture), prompts=PROMPTS[:1], output=OVERLAY_ONLY
        )
        waited = time.perf_counter() - start
        if turn < 0:
            continue
        timings = answer["timings"]
        stages = {name: timings[name] for name in ("decode", "queue", "render")}
        spent = {
            "overhead": waited - timings["compute"],
            **stages,
            "rest of the server": timings["total"] - timings["compute"] - sum(stages.values()),
            "transport and JSON": waited - timings["total"],
        }
        for name, seconds in spent.items():
            samples.setdefault(name, []).append(1000 * seconds)
    width, height = MEGAPIXEL
    case = f"HTTP overhead at rest, {width} x {height} JPEG in, overlay out"
    return [
        Row(
            f"{case}{part}, p{percentile}",
            float(np.percentile(found, percentile)),
            unit="ms",
            details={"requests": requests},
        )
        for name, found in samples.items()
        for percentile in (50, 99)
        for part in ("" if name == "overhead" else f": {name}",)
    ]


def _second_question(client: httpx.Client, rounds: int) -> list[Row]:
    """Measure a second request for a picture against the first, both with cached prompts."""
    picture = workload.jpeg(*MEGAPIXEL, seed=0)
    width, height = MEGAPIXEL
    rows = []
    for name, output in OUTPUTS.items():
        samples: timing.Samples = {"first": [], "second": []}
        for turn in range(-2, rounds):
            unseen = workload.unseen(picture)
            for question, prompts in (("first", PROMPTS), ("second", OTHER_PROMPTS)):
                start = time.perf_counter()
                answer = _explain(client, unseen, prompts=prompts, output=output)
                seconds = time.perf_counter() - start
                if answer["images"][0]["cached"] != (question == "second"):
                    raise RuntimeError(
                        f"the {question} question about a picture used the cache wrongly"
                    )
                if turn >= 0:
                    samples[question].append(seconds)
        rows.append(
            Row(
                f"HTTP at rest, second question about a picture / first, {len(PROMPTS)} prompts, "
                f"{width} x {height} JPEG in, {name}",
                timing.ratio(samples, "second", "first"),
                details=timing.details(samples, *samples),
            )
        )
    return rows


def _explain(
    client: httpx.Client, picture: bytes, *, prompts: Sequence[str], output: OutputOptions
) -> dict[str, Any]:
    response = client.post(
        "/explain",
        files={"image": ("picture.jpg", picture, "image/jpeg")},
        data={"prompts": list(prompts), "output": output.model_dump_json()},
    )
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


@contextmanager
def _server(model: str) -> Iterator[httpx.Client]:
    """Run ``legrad serve`` with one model and without refusals or timeouts under load."""
    with (
        servers.legrad(
            model,
            max_batch_images=BATCH,
            max_queue_cost=10_000,
            request_timeout_seconds=_PATIENCE_SECONDS,
        ) as running,
        httpx.Client(base_url=running.url, timeout=_PATIENCE_SECONDS) as client,
    ):
        yield client
