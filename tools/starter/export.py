"""Export of a training checkpoint to the files that the project ships."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.starter.art import Sprites
from tools.starter.learner import CONFIG_PATH, build_model, initialise
from tools.starter.text_tower import fit_text_tower, held_out_templates, text_accuracy
from tools.starter.vocabulary import SYNONYMS

_SEED = 7
# Share of the common component that is subtracted; chosen on the styles of training.
_SHARED = 0.4


def centre(concepts: Tensor) -> Tensor:
    """Compute the targets of the text tower from the directions that the visual tower learned.

    The component that all concepts share does not distinguish them, and it shifts every heatmap
    towards the background. Subtracting more of it makes maps find stickers more often, but also
    makes the maps of absent concepts fall on stickers more often.

    Args:
        concepts: float32 `[concepts + 1, embed]`, the background's direction last.

    Returns:
        Unit vectors of the same shape.
    """
    directions = F.normalize(concepts, dim=-1)
    shared = directions[:-1].mean(0)
    return F.normalize(torch.cat([directions[:-1] - _SHARED * shared, directions[-1:]]), dim=-1)


def write_model(
    sprites: Sprites, cache: Path, folder: Path, text_steps: int, refine: bool
) -> Iterator[str]:
    """Fit the text tower, then write `starter.safetensors` (float16) and `concepts.json`.

    Args:
        sprites: The art, for the concepts' names.
        cache: The folder with the backbone and the checkpoint.
        folder: Folder for the files.
        text_steps: Steps of fitting the text tower.
        refine: Whether to start from the text tower of the weights in the folder.

    Yields:
        Lines of progress.
    """
    concepts = [concept.name for concept in sprites.concepts]
    torch.manual_seed(_SEED)
    model = build_model()
    size = model.visual.image_size[0]
    path = folder / "starter.safetensors"
    if refine:
        model.load_state_dict(load_file(path))
    saved = torch.load(cache / "training" / "checkpoint.pt", weights_only=True)
    learner = initialise(cache / "backbone.onnx", len(concepts), size, _SEED)
    learner.load_state_dict(saved["average"], strict=False)
    model.visual.load_state_dict(learner.visual.state_dict())
    with torch.no_grad():
        model.logit_scale.copy_(learner.scene_scale)
    vectors = centre(learner.concepts.detach())
    tokenizer = open_clip.get_tokenizer(CONFIG_PATH.stem)
    fit_text_tower(model, tokenizer, concepts, vectors, steps=text_steps, seed=_SEED)
    yield f"{saved['seen']:,} scenes of training"
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
