"""Generator of docs/methods.md: the explanation methods, from their registry.

The figures are those that `make methods-eval` and `make methods-times` have left beside the page.

Usage: ``python -m tools.methods_page docs``
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from legrad_engine.methods.base import Method
from legrad_engine.methods.registry import methods
from legrad_engine.models import ModelReference
from legrad_engine.models.identity import ModelIdentity
from legrad_engine.models.schemes import STARTER
from tools import methods_tables

PAGE = "methods.md"
TIMES = "methods-times.json"

_PAGE = """\
# Explanation methods

Every method that `options.method` takes, in HTTP, in the client, on the page and as `--method` on
the command line. `GET /models` lists those that a model offers, with the blocks and the score that
they explain by default; `legrad methods` lists all. A method that a model cannot have is refused
with the reason (422 `invalid-option`, field `options.method`). This page is generated:
`make methods-page`.

- The answer names the method that made its heatmaps, in `images[].method`. Its `note` says how the
  method is defined for this model, where that is not evident: a model without a class token shows
  the mean over the queries of its tokens, one with an attentional pooler the pooler's query.
- Where **depends on the target** is *no*, all targets of an image have the same heatmap: it is
  drawn once and repeated in each entry, and `method.targeted` is false. Similarities are those of
  the targets. `negatives` are refused, as they are by a method that compares the targets of a
  request with one another (`clip-surgery`).
- Where **heads** is *yes*, `heads: each` gives one map for each attention head: the answer has one
  entry for each `head`, in place of the targets, and takes a single prompt or target. The command
  line has `--heads each`, the page *Heads*.
- **Cost** is that of a picture with one target and with eight, in forward passes of a model with
  {depth} blocks and a class token: the price in admission and in a key's `max_cost_per_minute`.
  Texts and pictures of targets are counted beside it. Where the score averages all tokens, methods
  that follow the class token's row cost more, and their price is higher.
- **Measured** is the processor time of the same, over that of a plain forward pass, {run}.

| Method | Name | Depends on the target | Heads | Default blocks | Cost of 1, 8 targets | Measured |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

{measured}
{sections}
A method is one file of `legrad_engine/methods/` that registers itself: see
[development](development.md#a-new-explanation-method).
"""

_DEPTH = 12


def page(docs: Path) -> str:
    """Return the page.

    Args:
        docs: folder with the figures.
    """
    path = docs / TIMES
    times = json.loads(path.read_text()) if path.exists() else {"times": {}}
    run = "not measured yet"
    if path.exists():
        same = [times["times"][name]["8"] for name in ("legrad", "legrad-libra")]
        run = (
            "in the\n"
            f"  committed run of `make methods-times` on {times['model']}: medians of "
            f"{times['rounds']} rounds in turns,\n"
            f"  threads: {times['threads']}. `legrad` and `legrad-libra` have the same work: "
            f"what\n  differs for eight targets ({same[0]:.2f} and {same[1]:.2f}) is noise"
        )
    shipped = ModelIdentity.of_loaded(ModelReference.of(STARTER), None).weights
    return _PAGE.format(
        run=run,
        depth=_DEPTH,
        rows="\n".join(_row(method, times["times"].get(method.name, {})) for method in methods()),
        measured=methods_tables.measured(docs, [each.name for each in methods()], shipped),
        sections="\n".join(map(_section, methods())),
    )


def _row(method: Method[Any], times: Mapping[str, float]) -> str:
    default = method.default_layers
    blocks = _DEPTH if default == "all" else default
    if not isinstance(blocks, int):
        blocks = len(blocks)
    costs = (
        f"{1 + method.trace_share * blocks / _DEPTH + _targets(method, count, blocks):.2f}"
        for count in (1, 8)
    )
    cells = (
        method.title,
        f"`{method.name}`",
        "yes" if method.targeted else "no",
        "yes" if method.splits_heads else "no",
        "all" if default == "all" else "the last" if blocks == 1 else f"the last {blocks}",
        ", ".join(costs),
        ", ".join(f"{value:.2f}" for value in times.values()),
    )
    return f"| {' | '.join(cells)} |"


def _targets(method: Method[Any], count: int, blocks: int) -> float:
    return method.target_share * (count if method.targeted else 1) * blocks / _DEPTH


def _section(method: Method[Any]) -> str:
    description = method.description.replace("\n", "  \n")
    return f"## {method.title}\n\n{description}\n\nSource: {method.source}.\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / PAGE).write_text(page(folder))
