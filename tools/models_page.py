"""Generator of docs/models.md: LeGrad's coverage of open_clip's architectures.

Usage: ``python -m tools.models_page docs/models.md``
"""

import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import nn

from legrad_engine.families import Score, find_tower, refusal
from legrad_engine.families.registry import Refusal, families, refusals
from legrad_engine.legrad.route import Route, route_of
from legrad_engine.models.foreign import FOREIGN
from legrad_engine.models.hugging_face.registry import class_names
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

{plain}
[models of your own](own-models.md).

The weights of these repositories load as plain ViTs, from the files that their programs save:
projection heads, predictors and decoders, which serve training alone, are left out.

| Trained by | Names of the weights | Explained |
| --- | --- | --- |
| DeiT, also distilled | `blocks.*`, `dist_token`, `head_dist.*` | its classes |
| DINO, iBOT | `teacher`: `backbone.*`, `head.mlp.*` | the encoder |
| MoCo v3 | `base_encoder.*`, `momentum_encoder.*` | the encoder; its linear classifier |
| MAE | `blocks.*`, `decoder_*`; fine-tuned: `fc_norm.*` | the encoder; its classes |
| one of these with a regulariser, as SGC | `backbone.*` beside others | the encoder |

### Refused

Every other architecture of timm, by the way in which its patches mix:

| timm's files | Its image tower is | The nearest that is explained |
| --- | --- | --- |
{refused_timm}

### Refused by name and by checkpoint

Models of the literature that are in no library here. A reference with their names is refused, and
so is a checkpoint with the names of their weights, given for any architecture:

| Model | Source | Why | The nearest that is explained |
| --- | --- | --- | --- |
{foreign}

## Models of transformers

{converted}
[models of your own](own-models.md#models-of-hugging-face-transformers).
"""

_PLAIN = (
    "timm's own models are served as `timm:NAME`: its {families} classes, where a block attends "
    "once and the tokens are pooled by class token, average or an attentional pooler. Blocks that "
    "attend twice (parallel, differential) are refused, and so are FastViTs without attention in "
    "their last stage. See"
)
_CONVERTED = (
    "Checkpoints of Hugging Face transformers are served as `transformers:FOLDER` or "
    "`transformers:ORG/REPO`, where the class that `config.json` names is one of {classes}. Each "
    "is compared with transformers' own modules, in features, logits and maps, by a test. See"
)
_LINE = 100


@dataclass(frozen=True, slots=True)
class Coverage:
    """LeGrad's coverage of an architecture.

    Attributes:
        family: name of the architecture family.
        attention: the explained attention, in words.
        grid: (rows, columns) of patches at the architecture's own input size.
        route: the form of LeGrad.
        scores: the scores that can be explained, the default first.
    """

    family: str
    attention: str
    grid: tuple[int, int]
    route: Route
    scores: tuple[Score, ...]


def coverage(architecture: str) -> Coverage | str:
    """Describe the coverage of an open_clip architecture, or give the reason for its refusal.

    The image tower is built on the meta device, without memory for its weights.
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
        tower = find_tower(model.eval())
    return Coverage(
        tower.family, tower.explained_attention, tower.grid, route_of(tower), tower.scores
    )


def row(name: str, found: Coverage | str) -> str:
    """Format an architecture's row in one of the page's two tables."""
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


def timm_row(refused: Refusal) -> str:
    """Format a refusal of timm's architectures as a row of the page."""
    reason = refused.reason.removeprefix("its image tower is timm's {name}, ")
    return f"| {', '.join(refused.timm_modules)} | {reason} | `{refused.nearest}` |"


def page() -> str:
    """Generate the text of docs/models.md."""
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
        plain=_plain_models(),
        refused_timm="\n".join(timm_row(each) for each in refusals() if each.timm_modules),
        foreign="\n".join(
            f"| {each.title} | {each.source} | {each.reason} | `{each.nearest}` |"
            for each in FOREIGN
        ),
        converted=_converted_models(),
    )


def _plain_models() -> str:
    *names, last = [family.plain_models for family in families() if family.plain_models]
    sentence = _PLAIN.format(families=f"{', '.join(names)} and {last}")
    return textwrap.fill(sentence, _LINE, break_on_hyphens=False)


def _converted_models() -> str:
    *names, last = class_names()
    sentence = _CONVERTED.format(classes=f"{', '.join(names)} and {last}")
    return textwrap.fill(sentence, _LINE, break_on_hyphens=False)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
