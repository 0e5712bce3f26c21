"""Train the starter model's visual tower on composed scenes.

The tower learns against one unit vector per concept (the text tower is fitted to those vectors afterwards). LeGrad's maps play
no part in the loss: they stay a by-product that the evaluation can judge.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as functional
from open_clip.transformer import VisionTransformer
from torch import nn

from legrad_engine.starter.art import TRAINING_STYLES, Sprites, load_sprites
from legrad_engine.starter.backbone import read_backbone
from legrad_engine.starter.scenes import Scenes, compose, training_recipe
from legrad_engine.starter.style import vary_scenes

CONFIG_PATH = Path(__file__).parent / "starter.json"
MODEL_NAME = "legrad-starter"
# DINOv2 was trained on inputs normalised with ImageNet's statistics.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_FROZEN_BLOCKS = 3
_STICKER_COVER = 0.6
_BACKGROUND_COVER = 0.02
_LOG_STEPS = 100


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one picture size.

    Attributes:
        size: Side of the pictures in pixels, a multiple of 14.
        batch: Scenes per step, over all workers.
        steps: Number of steps.
    """

    size: int
    batch: int
    steps: int


@dataclass(frozen=True)
class Schedule:
    """All of training.

    Attributes:
        stages: Run in order; the learning rate falls along a cosine over all their scenes.
        learning_rate: Peak rate of the head and the concept vectors.
        block_rate: Factor on it for the transformer blocks.
        warm_up: Scenes over which the rate rises linearly.
        weight_decay: AdamW's, on matrices only.
        average_decay: Decay per step of the exponential moving average that is shipped.
        seed: Decides every scene.
    """

    stages: tuple[Stage, ...]
    learning_rate: float = 1e-3
    block_rate: float = 0.3
    warm_up: int = 8000
    weight_decay: float = 0.05
    average_decay: float = 0.998
    seed: int = 20_000_000

    @property
    def scenes(self) -> int:
        """Scenes over all stages."""
        return sum(stage.batch * stage.steps for stage in self.stages)


def build_model(image_size: int | None = None) -> Any:
    """Create the open_clip model of `starter.json` with fresh weights, at `image_size` if given."""
    open_clip.add_model_config(CONFIG_PATH)
    overrides = {} if image_size is None else {"force_image_size": image_size}
    return open_clip.create_model(CONFIG_PATH.stem, **overrides)


class Learner(nn.Module):
    """The visual tower with what is needed only while it learns.

    Attributes:
        visual: open_clip's tower.
        concepts: float32 `[concepts + 1, embed_dim]`; rows are directions, the last one stands for the background.
        scene_scale: Logarithm of the temperature's inverse for whole scenes.
        patch_scale: The same for single patches.
    """

    def __init__(self, visual: VisionTransformer, concept_count: int) -> None:
        super().__init__()
        self.visual = visual
        width = visual.output_dim
        self.concepts = nn.Parameter(torch.randn(concept_count + 1, width) / math.sqrt(width))
        self.scene_scale = nn.Parameter(torch.tensor(math.log(16.0)))
        self.patch_scale = nn.Parameter(torch.tensor(math.log(16.0)))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Look at tokens `[..., width]` through the tower's own head: unit vectors `[..., embed_dim]`."""
        return functional.normalize(self.visual.ln_post(tokens) @ self.visual.proj, dim=-1)

    def block_outputs(self, images: torch.Tensor, count: int) -> list[torch.Tensor]:
        """The outputs `[batch, 1 + patches, width]` of the last `count` blocks for normalised `images`."""
        with torch.no_grad():
            tokens = self.visual._embeds(images)
            for block in self.visual.transformer.resblocks[:_FROZEN_BLOCKS]:
                tokens = block(tokens)
        outputs = []
        for block in self.visual.transformer.resblocks[_FROZEN_BLOCKS:]:
            tokens = block(tokens)
            outputs.append(tokens)
        return outputs[-count:]


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Apply `MEAN` and `STD` to pictures `[..., 3, height, width]` in 0..1."""
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@dataclass(frozen=True)
class Targets:
    """What a batch of scenes says.

    Attributes:
        present: bool `[scenes, concepts]`.
        sticker_patches: int64 indices into the flattened patches, those mostly covered by one sticker.
        sticker_concepts: int64, the concept of each of them.
        background_patches: int64 indices of the patches that no sticker touches.
    """

    present: torch.Tensor
    sticker_patches: torch.Tensor
    sticker_concepts: torch.Tensor
    background_patches: torch.Tensor


def read_targets(scenes: Scenes, concept_count: int, patch: int = 14) -> Targets:
    """Derive training targets from the visible masks."""
    cover = functional.avg_pool2d(scenes.masks.float(), patch).flatten(2)
    best, slot = cover.max(1)
    present = torch.zeros(len(scenes.concepts), concept_count + 1, dtype=torch.bool)
    present.scatter_(1, scenes.concepts.where(scenes.concepts >= 0, concept_count), True)
    sticker = torch.nonzero((best > _STICKER_COVER).flatten()).squeeze(1)
    concepts = scenes.concepts.gather(1, slot).flatten()[sticker]
    background = torch.nonzero((cover.sum(1) < _BACKGROUND_COVER).flatten()).squeeze(1)
    return Targets(present[:, :concept_count], sticker, concepts, background)


def scene_loss(logits: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Push every true concept above the log-sum-exp of the absent ones: softplus, averaged over true concepts.

    Args:
        logits: float32 `[scenes, concepts]`.
        present: bool, the same shape.
    """
    absent = logits.masked_fill(present, -torch.inf).logsumexp(1, keepdim=True)
    return functional.softplus(absent - logits)[present].mean()


def loss(learner: Learner, images: torch.Tensor, targets: Targets) -> dict[str, torch.Tensor]:
    """All loss terms, already weighted, for normalised `images` `[batch, 3, size, size]`."""
    directions = functional.normalize(learner.concepts, dim=-1)
    scene_scale, patch_scale = learner.scene_scale.exp(), learner.patch_scale.exp()
    terms: dict[str, torch.Tensor] = {}
    # The last-but-one block is taught too, because LeGrad looks at both through the same head.
    for name, weight, tokens in zip(("earlier", "last"), (0.5, 1.0), learner.block_outputs(images, 2), strict=True):
        patches = tokens[:, 1:]
        flat = patches.flatten(0, 1)
        chosen = torch.cat([targets.sticker_patches, targets.background_patches])
        logits = patch_scale * learner.embed(flat[chosen]) @ directions.T
        background = torch.full_like(targets.background_patches, len(directions) - 1)
        split = len(targets.sticker_patches)
        terms[f"{name} sticker patches"] = weight * functional.cross_entropy(
            logits[:split], targets.sticker_concepts, label_smoothing=0.05
        )
        terms[f"{name} background patches"] = 0.2 * weight * functional.cross_entropy(logits[split:], background)
        scene_directions = directions[:-1].T
        pooled = scene_scale * learner.embed(patches.mean(1)) @ scene_directions
        terms[f"{name} scene"] = weight * scene_loss(pooled, targets.present)
        # The class token sees the stickers only through attention: teaching it makes the value vectors carry concepts.
        gathered = scene_scale * learner.embed(tokens[:, 0]) @ scene_directions
        terms[f"{name} class token"] = 0.5 * weight * scene_loss(gathered, targets.present)
    return terms


def initialise(backbone: Path, concept_count: int, size: int, seed: int) -> Learner:
    """A learner whose first blocks come from the DINOv2 export at `backbone`."""
    torch.manual_seed(seed)
    learner = Learner(build_model(size).visual, concept_count)
    weights = read_backbone(backbone, layers=len(learner.visual.transformer.resblocks), grid=size // 14)
    missing, unexpected = learner.visual.load_state_dict(weights, strict=False)
    if unexpected or set(missing) != {"ln_post.weight", "ln_post.bias", "proj"}:
        raise ValueError(f"the backbone does not fit: missing {missing}, unexpected {unexpected}")
    visual = learner.visual
    for frozen in (visual.conv1, *visual.transformer.resblocks[:_FROZEN_BLOCKS]):
        frozen.requires_grad_(False)
    visual.class_embedding.requires_grad_(False)
    visual.positional_embedding.requires_grad_(False)
    return learner


def _optimiser(learner: Learner, schedule: Schedule) -> torch.optim.AdamW:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            key = ("resblocks" in name, parameter.ndim >= 2)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "rate": schedule.learning_rate * (schedule.block_rate if in_block else 1.0),
                "weight_decay": schedule.weight_decay if matrix else 0.0,
            }
            for (in_block, matrix), parameters in groups.items()
        ],
        betas=(0.9, 0.98),
        fused=True,
    )


def _rate_factor(seen: int, schedule: Schedule) -> float:
    warm = min(1.0, (seen + 1) / schedule.warm_up)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, seen / schedule.scenes)))


@dataclass(frozen=True)
class Run:
    """Where and how a schedule runs.

    Attributes:
        cache: The folder with the rendered art and the DINOv2 export.
        folder: Where the checkpoint and the log go.
        schedule: What to run.
        workers: Processes of one thread each. Threads inside one process would waste the machine at every barrier as soon as
            anything else runs on it; processes meet once per step.
        checkpoint_every: Seconds between checkpoints.
        warm_start: Checkpoint of an earlier run whose averaged weights a new run begins from.
    """

    cache: Path
    folder: Path
    schedule: Schedule
    workers: int
    checkpoint_every: float
    warm_start: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """The file that holds the averaged weights (`average`) and what resuming needs."""
        return self.folder / "checkpoint.pt"


def train(run: Run) -> None:
    """Train, or resume from the run's checkpoint; returns when the schedule is complete."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as meeting:
        torch.multiprocessing.spawn(_work, args=(run, f"file://{meeting}/point"), nprocs=run.workers, join=True)


def _work(rank: int, run: Run, meeting_point: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=run.workers)
    sprites = load_sprites(run.cache)
    saved = torch.load(run.checkpoint, weights_only=True) if run.checkpoint.exists() else None
    first_scene = 0
    for stage in run.schedule.stages:
        last_scene = first_scene + stage.batch * stage.steps
        if saved is None or saved["seen"] < last_scene:
            saved = _run_stage(rank, run, stage, first_scene, sprites, saved)
        first_scene = last_scene
    torch.distributed.destroy_process_group()


def _share_gradients(parameters: list[nn.Parameter], workers: int) -> None:
    """Replace each gradient by its mean over the workers."""
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    torch.distributed.all_reduce(flat)
    flat /= workers
    offset = 0
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.copy_(flat[offset : offset + parameter.numel()].view_as(parameter))
            offset += parameter.numel()


def _run_stage(
    rank: int, run: Run, stage: Stage, first_scene: int, sprites: Sprites, saved: dict[str, Any] | None
) -> dict[str, Any]:
    schedule, concept_count = run.schedule, len(sprites.concepts)
    learner = initialise(run.cache / "backbone.onnx", concept_count, stage.size, schedule.seed)
    optimiser = _optimiser(learner, schedule)
    seen = first_scene
    if saved is not None:
        learner.load_state_dict(saved["weights"], strict=False)
        optimiser.load_state_dict(saved["optimiser"])
        seen = int(saved["seen"])
    elif run.warm_start is not None:
        learner.load_state_dict(torch.load(run.warm_start, weights_only=True)["average"], strict=False)
    weights = {name: parameter.detach() for name, parameter in learner.named_parameters() if parameter.requires_grad}
    average = {name: tensor.clone() for name, tensor in weights.items()} if saved is None else saved["average"]
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    recipe = training_recipe(stage.size)
    share = stage.batch // run.workers
    running: dict[str, float] = {}
    state: dict[str, Any] = {}
    last_saved = last_logged = time.monotonic()
    for step in range((seen - first_scene) // stage.batch, stage.steps):
        seen = first_scene + step * stage.batch
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * _rate_factor(seen, schedule)
        seed = schedule.seed + seen + rank * share
        scenes = compose(sprites, TRAINING_STYLES, recipe, seed, share)
        varied = vary_scenes(scenes.images, np.random.default_rng(seed))
        terms = loss(learner, normalise(varied), read_targets(scenes, concept_count))
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
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
        state = {"seen": seen, "size": stage.size, "weights": weights, "average": average}
        if rank == 0 and ((step + 1) % _LOG_STEPS == 0 or finished):
            record = {"seen": seen, "size": stage.size, "rate": round(_LOG_STEPS * stage.batch / (now - last_logged), 1)}
            record |= {name: round(value, 3) for name, value in running.items()}
            with (run.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            last_logged = now
        if finished or now - last_saved > run.checkpoint_every:
            state["optimiser"] = optimiser.state_dict()
            if rank == 0:
                partial = run.checkpoint.with_suffix(".partial")
                torch.save(state, partial)
                partial.replace(run.checkpoint)
            last_saved = now
    return state
