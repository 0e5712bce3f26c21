"""Export of a training checkpoint to the files that the project ships."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tools.starter.art import Sprites
from tools.starter.checkpoint import check_complete
from tools.starter.checkpoint import read_checkpoint as read_checkpoint
from tools.starter.learner import CONFIG_PATH, Learner, build_model, initialise, normalise
from tools.starter.scenes import chunks
from tools.starter.styles import TRAINING_STYLES
from tools.starter.text_tower import fit_text_tower, held_out_templates, text_accuracy
from tools.starter.vocabulary import SYNONYMS

_SEED = 7
# Shares of the directions in the targets, chosen on Twemoji and on the styles of training.
_SHARED = 0.4
_BACKGROUND = 0.3
_QUIET_SEED = 7_000_000
_QUIET_SCENES = 500


def aim(concepts: Tensor, unknown: Tensor) -> Tensor:
    """Compute the targets of the text tower from the directions that the visual tower learned.

    The component that all concepts share does not distinguish them, and a part of it is left out. A
    part of the background's direction is added: a heatmap of something absent then falls on
    stickers less often.

    Args:
        concepts: float32 `[concepts + 1, embed]`, the background's direction last.
        unknown: float32 `[embed]`, the target of words that name no concept.

    Returns:
        Unit vectors `[concepts + 1, embed]`, that of unknown words last.
    """
    directions = F.normalize(concepts, dim=-1)
    known, background = directions[:-1], directions[-1:]
    aimed = known - _SHARED * known.mean(0) + _BACKGROUND * background
    return F.normalize(torch.cat([aimed, unknown[None]]), dim=-1)


@torch.no_grad()
def quietest_direction(embeddings: Tensor) -> Tensor:
    """Find the direction in which pictures have the least.

    Words that the model does not know are aimed at it, so that no picture is similar to them. The
    background's direction would not do: nearly every picture has much of it.

    Args:
        embeddings: float32 `[pictures, embed]`, unit vectors.

    Returns:
        A unit vector `[embed]`, with a mean similarity of at most 0.
    """
    direction: Tensor = torch.linalg.eigh(embeddings.T @ embeddings).eigenvectors[:, 0]
    return -direction if (embeddings @ direction).mean() > 0 else direction


@torch.no_grad()
def _embeddings(
    learner: Learner, sprites: Sprites, styles: Mapping[str, float], size: int
) -> Tensor:
    """Embed scenes: float32 `[scenes, embed]`."""
    found = []
    for scenes in chunks(sprites, styles, (1, 2, 3), _QUIET_SEED, _QUIET_SCENES, size):
        [tokens] = learner.block_outputs(normalise(scenes.images), 1)
        found.append(learner.embed(tokens[:, 1:].mean(1)))
    return torch.cat(found)


def assemble(
    sprites: Sprites,
    cache: Path,
    saved: dict[str, Any],
    styles: Mapping[str, float],
    text_steps: int,
) -> tuple[Any, Tensor]:
    """Make an open_clip model of a trained visual tower, and fit its text tower.

    Args:
        sprites: The art, for the concepts' names.
        cache: The folder with the backbone.
        saved: The checkpoint of the training.
        styles: Art styles of the training, and their relative frequencies.
        text_steps: Steps of fitting the text tower.

    Returns:
        The model, and the targets of its text tower: float32 `[concepts + 1, embed]`, unit vectors,
        that of unknown words last.
    """
    concepts = [concept.name for concept in sprites.concepts]
    torch.manual_seed(_SEED)
    model = build_model()
    size = model.visual.image_size[0]
    learner = initialise(cache / "backbone.onnx", len(concepts), size, _SEED).eval()
    learner.load_state_dict(saved["average"], strict=False)
    model.visual.load_state_dict(learner.visual.state_dict())
    with torch.no_grad():
        model.logit_scale.copy_(learner.scene_scale)
    unknown = quietest_direction(_embeddings(learner, sprites, styles, size))
    vectors = aim(learner.concepts.detach(), unknown)
    tokenizer = open_clip.get_tokenizer(CONFIG_PATH.stem)
    fit_text_tower(model, tokenizer, concepts, vectors, steps=text_steps, seed=_SEED)
    return model, vectors


def write_model(sprites: Sprites, cache: Path, folder: Path, text_steps: int) -> Iterator[str]:
    """Fit the text tower, then write `starter.safetensors` (float16) and `concepts.json`.

    Args:
        sprites: The art, for the concepts' names.
        cache: The folder with the backbone and the checkpoint.
        folder: Folder for the files.
        text_steps: Steps of fitting the text tower.

    Yields:
        Lines of progress.

    Raises:
        StarterError: The training is not complete; nothing is written.
    """
    concepts = [concept.name for concept in sprites.concepts]
    path = folder / "starter.safetensors"
    checkpoint = cache / "training" / "checkpoint.pt"
    saved = read_checkpoint(checkpoint)
    check_complete(checkpoint, saved)
    yield f"{saved['seen']:,} scenes of training"
    model, vectors = assemble(sprites, cache, saved, TRAINING_STYLES, text_steps)
    tokenizer = open_clip.get_tokenizer(CONFIG_PATH.stem)
    for name, templates in (("bare names", ("{}",)), ("unseen templates", held_out_templates())):
        pairs = [text_accuracy(model, tokenizer, concepts, vectors, t) for t in templates]
        right, cosine = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        yield f"text tower, {name}: {right:.1%} find their concept, cosine {cosine:.3f}"
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, path, metadata={"format": "pt", "license": "Apache-2.0"})
    # safetensors makes the file readable by its owner only.
    path.chmod(0o644)
    table = {concept: SYNONYMS.get(concept, ()) for concept in concepts}
    lines = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(words)}" for name, words in table.items()
    )
    (folder / "concepts.json").write_text(f"{{\n{lines}\n}}\n")
    yield f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB"
