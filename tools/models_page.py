"""What LeGrad explains of each of open_clip's architectures; writes docs/models.md.

Usage: ``python -m tools.models_page docs/models.md``
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import nn

from legrad_engine.families import Score, Tower, find_tower, refusal
from legrad_engine.families.heads import TokenHead
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.models.openclip_weights import settle

_PAGE = """\
# Models

Every architecture that open_clip {version} knows, and what is explained of it. This page is
generated: `make models-page`.

{summary}

- **Attention**: which attention the gradient is taken of, and how many blocks there are to choose
  from. Towers with an attentional pooler are explained through the pooler's own attention, read
  after each block. In hierarchical towers the blocks of the last stage are explained: the score is
  read from their tokens and from no others.
- **Route**: *closed form* is a short walk back by hand; *general* takes the gradient of the rest of
  the block by autograd; *pooler* takes that of the few operations behind the pooler's attention.
  All three are exact.
- **Scores**: the first one is the default; see [the method](method.md#scores).
- **Exactness test**: every row is held by `test_every_explained_architecture_equals_the_definition`
  in `tests/tools/test_models_page.py`, which builds the architecture with few and narrow blocks and
  compares its maps with explicit softmax and autograd in float64. The refusals are held by
  `test_every_other_architecture_is_refused_with_its_reason`.

- **Grid**: at the input size of open_clip's config, also where that differs from the weights' own
  (ViTamin-XL-384).

| Model | Family | Attention | Grid | Route | Scores |
| --- | --- | --- | --- | --- | --- |
{explained}

## Refused

| Model | Why |
| --- | --- |
{refused}

## Plain image models

timm's own models are served as `timm:NAME`: its VisionTransformer (ViT, DeiT with or without
distillation token, DINO, DINOv2 with registers), Eva (EVA, DINOv3, PE), VisionTransformerRelPos,
SwinTransformer and FastVit classes, where a block attends once and the tokens are pooled by class
token, average or an attentional pooler. Blocks that attend twice (parallel, differential) are
refused, and so are FastViTs without attention in their last stage. See
[models of your own](own-models.md).
"""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is explained of an architecture.

    Attributes:
        family: name of the architecture family.
        attention: which attention, in words.
        grid: (rows, columns) of patches at the architecture's own input size.
        route: ``"closed form"``, ``"general"`` or ``"pooler"``.
        scores: the scores that can be explained, the default first.
    """

    family: str
    attention: str
    grid: tuple[int, int]
    route: str
    scores: tuple[Score, ...]


def coverage(architecture: str) -> Coverage | str:
    """What is explained of an open_clip architecture, or why nothing is.

    The image tower is built without memory for its weights.
    """
    config = open_clip.get_model_config(architecture)
    why = refusal(config)
    if why is not None:
        return why
    build = open_clip.model._build_vision_tower
    with torch.device("meta"):
        model = nn.Module()
        model.visual = build(
            config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False)
        )
        settle(model)
        return _describe(find_tower(model.eval()))


def _describe(tower: Tower) -> Coverage:
    head = tower.score_head(tower.scores[0])
    if isinstance(head, PoolerHead):
        attention, route = f"pooler, after each of {tower.depth} blocks", "pooler"
    else:
        known = isinstance(head, TokenHead) and all(
            tower.known_block(index) is not None for index in range(tower.depth)
        )
        where = "" if isinstance(head, TokenHead) else " of the last stage"
        windows = " in windows" if tower.family == "timm-swin" else ""
        attention = f"self-attention{windows}, {tower.depth} blocks{where}"
        route = "closed form" if known else "general"
    return Coverage(tower.family, attention, tower.grid, route, tower.scores)


def row(name: str, found: Coverage | str) -> str:
    """An architecture's line in one of the page's two tables."""
    if isinstance(found, str):
        return f"| {name} | {found} |"
    rows, columns = found.grid
    cells = (
        name,
        found.family,
        found.attention,
        f"{rows} x {columns}",
        found.route,
        ", ".join(found.scores),
    )
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """The text of docs/models.md."""
    explained, refused, routes = [], [], Counter[str]()
    names = sorted((name for name in open_clip.list_models() if name != "starter"), key=str.lower)
    for name in names:
        found = coverage(name)
        if isinstance(found, str):
            refused.append(row(name, found))
        else:
            explained.append(row(name, found))
            routes[found.route] += 1
    counted = ", ".join(f"{count} by the {route} route" for route, count in routes.most_common())
    summary = (
        f"Of {len(names)} architectures {len(explained)} are explained ({counted}) and "
        f"{len(refused)} are refused, because their patches do not attend to each other."
    )
    return _PAGE.format(
        version=".".join(open_clip.__version__.split(".")[:2]),
        summary=summary,
        explained="\n".join(explained),
        refused="\n".join(refused),
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
