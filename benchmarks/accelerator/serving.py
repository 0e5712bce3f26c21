"""The service over loopback until it saturates, and the part that is then the limit."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import httpx
import psutil
import torch
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import servers, workload
from benchmarks.accelerator import launching
from benchmarks.accelerator.budget import Budget
from benchmarks.accelerator.findings import Findings, Serving
from benchmarks.http import OUTPUTS, PROMPTS, SATURATION_SIDE
from benchmarks.load import Load, closed_loop, raw_request
from benchmarks.timing import timed
from legrad_engine import Explainer
from legrad_engine.attribution import PendingExplanations
from legrad_engine.devices import dtype_name, usable_threads
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.targets.resolved import ResolvedTargets
from service.schemas.requests import OutputOptions
from service.settings.cores import available_cores

# The most first: if the time is not enough, the middle is left out.
PROCESSES = (16, 1, 4, 8, 2)
ANSWERS = {"JSON": "application/json", "multipart": "multipart/mixed"}
# Two of the largest batches of the engine, one on the device and one that fills, and some more.
_CLIENTS = 192
# Far more than are in the server at once, so that no two in a batch are equal.
_PICTURES = 512
_LOAD_SECONDS = 4.0
_START_SECONDS = 45.0
# No request is refused because of its deadline.
_PATIENCE_SECONDS = 600.0
_ENGINE_BATCHES = (16, 32, 64)
_ENGINE_CALLS = 10
_DRAWN = ("decode", "render")


def measure(device: torch.device, dtype: torch.dtype, budget: Budget, findings: Findings) -> None:
    """Drive the service with every number of picture processes until the time is over."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / f"{workload.ARCHITECTURE}.safetensors"
        workload.write_weights(weights)
        findings.engine_images_per_second = engine_rate(weights, device, dtype)
        pictures = encoded_pictures(_PICTURES)
        cores = len(os.sched_getaffinity(0))
        for processes in PROCESSES:
            case = f"service with {processes} picture processes"
            if processes > 1 and processes > cores:
                findings.not_measured.append(f"{case}: the machine has {cores} cores")
            elif budget.left < _START_SECONDS:
                findings.not_measured.append(f"{case}: no time left")
            else:
                with servers.legrad(
                    f"{workload.ARCHITECTURE}@{weights}",
                    device=str(device),
                    dtype=dtype_name(dtype),
                    compute_threads=usable_threads(device, available_cores()),
                    picture_processes=processes,
                    max_queue_cost=10_000,
                    # Every picture is decoded and computed.
                    trace_cache_bytes=0,
                    request_timeout_seconds=_PATIENCE_SECONDS,
                ) as server:
                    drive(server, processes, pictures, budget, findings)


def encoded_pictures(count: int) -> list[bytes]:
    """Encode different JPEG pictures; only the bytes after a few drawn ones differ."""
    drawn = [
        workload.jpeg(SATURATION_SIDE, SATURATION_SIDE, seed) for seed in range(min(count, 16))
    ]
    # Decoders ignore what follows the picture.
    return [drawn[place % len(drawn)] + os.urandom(8) for place in range(count)]


def engine_rate(weights: Path, device: torch.device, dtype: torch.dtype) -> float:
    """Measure the images per second of the engine alone, with prepared pictures."""
    explainer = Explainer.load(workload.ARCHITECTURE, str(weights), device=device, dtype=dtype)
    prepared = explainer.prepare(workload.picture(SATURATION_SIDE, SATURATION_SIDE))
    vectors = workload.targets(len(PROMPTS)).to(device)
    rates = []
    for batch in _ENGINE_BATCHES:
        images, resolved = [prepared] * batch, explainer.resolver.resolve(vectors, batch)

        def explain(
            images: Sequence[PreparedImage] = images,
            resolved: Sequence[ResolvedTargets] = resolved,
        ) -> PendingExplanations:
            return explainer.launch_attribution(explainer.trace(images), resolved)

        launching.run(explain, 1, device)
        rates.append(
            _ENGINE_CALLS * batch / timed(partial(launching.run, explain, _ENGINE_CALLS, device))
        )
    return max(rates)


def drive(
    server: servers.RunningServer,
    processes: int,
    pictures: Sequence[bytes],
    budget: Budget,
    findings: Findings,
    seconds: float = _LOAD_SECONDS,
) -> None:
    """Saturate a running server with every output and form of answer."""
    for output, options in OUTPUTS.items():
        for answer, accept in ANSWERS.items():
            case = f"{output} as {answer} with {processes} picture processes"
            # A probe, the load itself, and room for a slow end.
            if budget.left < 3 * seconds:
                findings.not_measured.append(f"{case}: no time left")
                continue
            requests = [_request(picture, options, accept) for picture in pictures]

            def load(count: int, requests: Sequence[bytes] = requests) -> Load:
                return closed_loop(
                    server.url,
                    requests,
                    clients=min(_CLIENTS, len(requests)),
                    count=count,
                    patience=_PATIENCE_SECONDS,
                )

            probe = load(len(requests) // 4)
            count = max(len(requests) // 4, int(seconds * len(probe.answers) / probe.seconds))
            found, busy = _watched(server, processes, lambda load=load, count=count: load(count))  # type: ignore[misc]
            if found.count(200) != count:
                findings.not_measured.append(f"{case}: statuses {found.statuses()}")
                continue
            findings.servings.append(
                Serving(
                    processes=processes,
                    answer=answer,
                    output=output,
                    images_per_second=count / found.seconds,
                    p50=found.percentile(50),
                    p99=found.percentile(99),
                    busy=busy,
                )
            )


def _watched(
    server: servers.RunningServer, processes: int, run: Callable[[], Load]
) -> tuple[Load, dict[str, float]]:
    """Run a load; return it with the share of the time in which each part was busy."""
    event_loop, stages = _main_thread_seconds(server.pid), _stage_seconds(server.url)
    own, began = time.process_time(), time.perf_counter()
    found = run()
    elapsed, spent = time.perf_counter() - began, time.process_time() - own
    later = _stage_seconds(server.url)
    grown = {stage: later[stage] - stages.get(stage, 0.0) for stage in later}
    drawn = sum(grown.get(stage, 0.0) for stage in _DRAWN)
    return found, {
        "device": (sum(grown.values()) - drawn) / elapsed,
        "pictures": drawn / elapsed / processes,
        "event loop": (_main_thread_seconds(server.pid) - event_loop) / elapsed,
        "load generator": spent / elapsed,
    }


def _stage_seconds(url: str) -> dict[str, float]:
    """Return the seconds that the service has spent in each stage, of all models."""
    exposition = httpx.get(f"{url}/metrics", timeout=_PATIENCE_SECONDS).raise_for_status().text
    seconds: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == "legrad_compute_seconds_sum":
                stage = sample.labels["stage"]
                seconds[stage] = seconds.get(stage, 0.0) + sample.value
    return seconds


def _main_thread_seconds(pid: int) -> float:
    """Return the processor seconds of a process's main thread, which runs the event loop."""
    for thread in psutil.Process(pid).threads():
        if thread.id == pid:
            return float(thread.user_time + thread.system_time)
    raise RuntimeError(f"the process {pid} has no main thread")


def _request(picture: bytes, output: OutputOptions, accept: str) -> bytes:
    request = httpx.Request(
        "POST",
        "http://benchmark/explain",
        files={"image": ("picture.jpg", picture, "image/jpeg")},
        data={"prompts": PROMPTS, "output": output.model_dump_json()},
    )
    body = request.read()
    return raw_request("/explain", body, request.headers["content-type"], Accept=accept)
