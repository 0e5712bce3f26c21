"""Training of the starter model's visual tower on composed scenes.

The tower learns one unit vector per concept; the text tower is fitted to these vectors afterwards.
LeGrad's maps are not part of the loss, so that the evaluation measures them independently.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import nn
from torch.multiprocessing.spawn import start_processes

from tools.starter.art import Sprites, load_sprites
from tools.starter.checkpoint import check_recipe, read_checkpoint, write_checkpoint
from tools.starter.errors import StarterError
from tools.starter.learner import Learner, initialise, normalise
from tools.starter.losses import loss, read_targets
from tools.starter.prototypes import start_from_features
from tools.starter.scenes import compose, training_recipe
from tools.starter.style import vary_scenes

_LOG_STEPS = 100


@dataclass(frozen=True)
class Stage:
    """Part of training at one picture size.

    Attributes:
        size: Side of the pictures in pixels, a multiple of 14.
        batch: Scenes per step, over all workers.
        steps: Number of steps.
        patches: Patches kept in each scene, or None for all. Most of a scene is background with
            little information; without part of it, more scenes fit in the same time.
    """

    size: int
    batch: int
    steps: int
    patches: int | None = None


@dataclass(frozen=True)
class Schedule:
    """Schedule of the whole training.

    Attributes:
        stages: Stages, in order; the learning rate falls along a cosine over all their scenes.
        learning_rate: Peak rate of the head and the concept vectors.
        block_rate: Factor of the rate for the last transformer block.
        block_decay: Factor of the rate from each block to the one before it. The first blocks see
            edges and textures, which a few styles must not change.
        warm_up: Number of scenes over which the rate rises linearly.
        weight_decay: Weight decay of AdamW, on matrices only.
        average_decay: Decay per step of the exponential moving average that is shipped.
        seed: Seed of all scenes.
        prototypes: Number of scenes from whose features the first directions are computed; with 0
            they are random.
    """

    stages: tuple[Stage, ...]
    learning_rate: float = 1e-3
    block_rate: float = 0.3
    block_decay: float = 0.8
    warm_up: int = 8000
    weight_decay: float = 0.05
    average_decay: float = 0.998
    seed: int = 20_000_000
    prototypes: int = 0

    @property
    def scenes(self) -> int:
        """Number of scenes over all stages."""
        return sum(stage.batch * stage.steps for stage in self.stages)

    @property
    def worker_counts(self) -> tuple[int, ...]:
        """Numbers of workers that share the scenes of every step equally, ascending."""
        common = math.gcd(*(stage.batch for stage in self.stages))
        return tuple(count for count in range(1, common + 1) if common % count == 0)


def default_workers(schedule: Schedule, cores: int) -> int:
    """Choose the number of workers: one with a GPU, or as many as fit the schedule and the cores.

    Args:
        schedule: The schedule to run.
        cores: Number of the machine's cores.
    """
    if torch.cuda.is_available():
        return 1
    return max(count for count in schedule.worker_counts if count <= cores)


def _optimiser(learner: Learner, schedule: Schedule) -> torch.optim.AdamW:
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    last = len(learner.visual.transformer.resblocks) - 1
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            factor = 1.0
            if "resblocks" in name:
                number = int(name.partition("resblocks.")[2].partition(".")[0])
                factor = schedule.block_rate * schedule.block_decay ** (last - number)
            groups.setdefault((factor, parameter.ndim >= 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "rate": schedule.learning_rate * factor,
                "weight_decay": schedule.weight_decay if matrix else 0.0,
            }
            for (factor, matrix), parameters in groups.items()
        ],
        betas=(0.9, 0.98),
        fused=True,
    )


def _rate_factor(seen: int, schedule: Schedule) -> float:
    warm = min(1.0, (seen + 1) / schedule.warm_up)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, seen / schedule.scenes)))


SCHEDULE = Schedule(stages=(Stage(112, 32, 6000, 48), Stage(140, 32, 3200, 64)))


@dataclass(frozen=True)
class Run:
    """Configuration of a training run.

    Attributes:
        cache: The folder with the rendered art and the DINOv2 export.
        folder: Folder for the checkpoint and the log.
        styles: Art styles and their relative frequencies.
        schedule: The schedule to run.
        workers: Processes of one thread each, one of the schedule's `worker_counts`. Threads inside
            one process wait at every barrier when the machine has other load; processes
            synchronise once per step. Each draws its share of a step from a seed of its own, so
            that another number of workers sees other scenes.
        checkpoint_every: Seconds between checkpoints.
    """

    cache: Path
    folder: Path
    styles: Mapping[str, float]
    schedule: Schedule
    workers: int
    checkpoint_every: float

    @property
    def checkpoint(self) -> Path:
        """File of the averaged weights (`average`) and the state for resuming."""
        return self.folder / "checkpoint.pt"

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides about the scenes and the steps, in plain values."""
        return {
            "schedule": asdict(self.schedule),
            "styles": dict(self.styles),
            "workers": self.workers,
        }


def train(run: Run) -> None:
    """Train, or resume from the run's checkpoint, until the schedule is complete.

    Raises:
        StarterError: The workers cannot share the scenes of a step equally, or the folder has a
            checkpoint of another recipe.
    """
    counts = run.schedule.worker_counts
    if run.workers not in counts:
        raise StarterError(
            f"{run.workers} workers cannot share the scenes of a step equally; possible numbers: "
            f"{', '.join(map(str, counts))}."
        )
    if run.checkpoint.exists():
        saved = read_checkpoint(run.checkpoint)
        check_recipe(run.checkpoint, saved, run.recipe)
        if saved["seen"] >= run.schedule.scenes:
            return
    run.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as meeting:
        arguments = (run, f"file://{meeting}/point")
        # Processes of a fork server end at once. Spawned ones first search torch for garbage, a
        # second each.
        start_processes(  # type: ignore[no-untyped-call]
            _work, arguments, nprocs=run.workers, start_method="forkserver"
        )


def _work(rank: int, run: Run, meeting_point: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=meeting_point, rank=rank, world_size=run.workers
    )
    sprites = load_sprites(run.cache)
    saved = read_checkpoint(run.checkpoint) if run.checkpoint.exists() else None
    first_scene = 0
    for stage in run.schedule.stages:
        last_scene = first_scene + stage.batch * stage.steps
        if saved is None or saved["seen"] < last_scene:
            saved = _run_stage(rank, run, stage, first_scene, sprites, saved)
        first_scene = last_scene
    torch.distributed.destroy_process_group()


def _share_gradients(parameters: list[nn.Parameter], workers: int) -> None:
    """Replace each gradient by its mean over the workers."""
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).cpu()
    torch.distributed.all_reduce(flat)
    flat /= workers
    offset = 0
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.copy_(flat[offset : offset + parameter.numel()].view_as(parameter))
            offset += parameter.numel()


def _run_stage(
    rank: int,
    run: Run,
    stage: Stage,
    first_scene: int,
    sprites: Sprites,
    saved: dict[str, Any] | None,
) -> dict[str, Any]:
    schedule, concept_count = run.schedule, len(sprites.concepts)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learner = initialise(run.cache / "backbone.onnx", concept_count, stage.size, schedule.seed)
    learner.to(device)
    optimiser = _optimiser(learner, schedule)
    seen = first_scene
    if saved is not None:
        learner.load_state_dict(saved["weights"], strict=False)
        optimiser.load_state_dict(saved["optimiser"])
        seen = int(saved["seen"])
    elif schedule.prototypes:
        start_from_features(
            learner, sprites, run.styles, stage.size, schedule.seed - 1_000_000, schedule.prototypes
        )
    weights = {
        name: parameter.detach()
        for name, parameter in learner.named_parameters()
        if parameter.requires_grad
    }
    average = (
        {name: tensor.clone() for name, tensor in weights.items()}
        if saved is None
        else {name: tensor.to(device) for name, tensor in saved["average"].items()}
    )
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    recipe = training_recipe(stage.size)
    share = stage.batch // run.workers
    running: dict[str, float] = {}
    state: dict[str, Any] = {}
    last_saved = last_logged = time.monotonic()
    logged = seen
    for step in range((seen - first_scene) // stage.batch, stage.steps):
        seen = first_scene + step * stage.batch
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * _rate_factor(seen, schedule)
        seed = schedule.seed + seen + rank * share
        torch.manual_seed(seed)
        scenes = compose(sprites, run.styles, recipe, seed, share)
        generator = np.random.default_rng(seed)
        varied = vary_scenes(scenes.images, generator)
        targets = read_targets(scenes, concept_count, stage.patches, generator)
        terms = loss(learner, normalise(varied.to(device)), targets.to(device))
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        _share_gradients(parameters, run.workers)
        nn.utils.clip_grad_norm_(parameters, 3.0)
        optimiser.step()
        decay = min(schedule.average_decay, (seen / stage.batch + 1) / (seen / stage.batch + 10))
        for name, tensor in weights.items():
            average[name].lerp_(tensor, 1 - decay)
        for name, term in terms.items():
            value = float(term.detach())
            running[name] = 0.98 * running.get(name, value) + 0.02 * value
        seen += stage.batch
        finished = step + 1 == stage.steps
        now = time.monotonic()
        state = {
            "recipe": run.recipe,
            "seen": seen,
            "size": stage.size,
            "weights": weights,
            "average": average,
        }
        if rank == 0 and ((step + 1) % _LOG_STEPS == 0 or finished):
            record = {
                "seen": seen,
                "size": stage.size,
                "rate": round((seen - logged) / (now - last_logged), 1),
            }
            record |= {name: round(value, 3) for name, value in running.items()}
            with (run.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            last_logged, logged = now, seen
        if finished or now - last_saved > run.checkpoint_every:
            state["optimiser"] = optimiser.state_dict()
            if rank == 0:
                write_checkpoint(run.checkpoint, state)
            last_saved = now
    return state
