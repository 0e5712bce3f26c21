"""Time of an explanation over that of a plain forward pass, and the share of the card's peak."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import workload
from benchmarks.accelerator.accuracy import modes
from benchmarks.accelerator.budget import Budget
from benchmarks.accelerator.findings import EIGHT_TARGETS, ONE_TARGET, Findings, Speed
from benchmarks.accelerator.launching import Launch, run
from benchmarks.accelerator.models import TIMED, Build, HeldPixels, explainer_of
from benchmarks.timing import interleave, timed
from legrad_engine.attribution import PendingExplanations
from legrad_engine.devices import dtype_name, is_out_of_memory, release_cached_memory
from legrad_engine.legrad.switches import Acceleration
from legrad_engine.targets.resolved import ResolvedTargets

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Graphs are for batches that compute faster than they are launched.
_MOST_CAPTURED = 16
_ROUNDS = 5
# One measured round is at least this long, so that the clock and the last wait count little.
_ROUND_SECONDS = 0.03
_MOST_LOOPS = 30


def measure(
    device: torch.device,
    dtype: torch.dtype,
    peak: float,
    budget: Budget,
    findings: Findings,
    models: Mapping[str, Build] = TIMED,
    batches: Sequence[int] = BATCHES,
) -> None:
    """Time every model, batch size, number of targets and acceleration until the time is over."""
    for place, (name, build) in enumerate(models.items()):
        part = budget.part(1 / (len(models) - place))
        explainers = _explainers(build, name, device, dtype)
        flops = _flops(explainers["off"], device, dtype)
        needed = 0.0
        for batch in batches:
            # Twice the images take at most about twice the time.
            if part.left <= 2 * needed:
                findings.not_measured.append(f"speed of {name}, batch {batch}: no time left")
                continue
            before = part.left
            try:
                findings.speeds.append(
                    _time_batch(name, explainers, device, dtype, batch, flops * batch / peak)
                )
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                release_cached_memory()
                findings.not_measured.append(f"speed of {name}, batch {batch}: out of memory")
            needed = before - part.left


def _explainers(
    build: Build, name: str, device: torch.device, dtype: torch.dtype
) -> dict[Acceleration, HeldPixels]:
    model = build().to(device, dtype)
    return {mode: explainer_of(model, name, mode) for mode in modes(device)}


def _flops(explainer: HeldPixels, device: torch.device, dtype: torch.dtype) -> int:
    """Count the floating-point operations of one picture's forward pass."""
    width, height = explainer.own_size
    pixels = torch.zeros(1, 3, height, width, device=device, dtype=dtype)
    model: Any = explainer.model
    counter = FlopCounterMode(display=False)
    # torch counts nothing of the attention's fast path.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), counter:
            model.encode_image(pixels)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    total: int = counter.get_total_flops()
    return total


def _time_batch(
    name: str,
    explainers: Mapping[Acceleration, HeldPixels],
    device: torch.device,
    dtype: torch.dtype,
    batch: int,
    least_seconds: float,
) -> Speed:
    plain = explainers["off"]
    width, height = plain.own_size
    pixels = torch.randn(batch, 3, height, width, device=device).to(dtype)
    images = [plain.prepare(workload.picture(width, height))] * batch
    # Before the time is taken: checking vectors waits for the device.
    targets = {
        count: plain.resolver.resolve(
            workload.targets(count, plain.tower.embedding_size).to(device), batch
        )
        for count in (ONE_TARGET, EIGHT_TARGETS)
    }

    def explain(explainer: HeldPixels, resolved: Sequence[ResolvedTargets]) -> PendingExplanations:
        return explainer.launch_attribution(explainer.trace(images), resolved)

    model: Any = plain.model

    def pass_forward() -> None:
        model.encode_image(pixels)

    works: dict[tuple[int, Acceleration] | None, Launch] = {None: pass_forward}
    for mode, explainer in explainers.items():
        explainer.pixels = pixels
        graphs = explainer.accelerator.graphs
        if graphs is not None and batch > _MOST_CAPTURED and mode == "graphs":
            continue
        for count, resolved in targets.items():
            if graphs is not None and batch <= _MOST_CAPTURED:
                with graphs.capturing():
                    explain(explainer, resolved).finish()
            works[count, mode] = partial(explain, explainer, resolved)

    measures = {str(key): _timer(work, device) for key, work in works.items()}
    samples = interleave(measures, _ROUNDS)
    forward = median(samples[str(None)])
    explained: dict[int, dict[Acceleration, float]] = {count: {} for count in targets}
    for key in works:
        if key is not None:
            count, mode = key
            explained[count][mode] = median(samples[str(key)])
    return Speed(name, dtype_name(dtype), batch, forward, least_seconds / forward, explained)


def _timer(work: Launch, device: torch.device) -> Callable[[], float]:
    """Return a measure of the seconds of one call, averaged over enough of them."""
    run(work, 1, device)
    once = timed(lambda: run(work, 1, device))
    loops = max(1, min(_MOST_LOOPS, int(_ROUND_SECONDS / once)))
    return lambda: timed(lambda: run(work, loops, device)) / loops
