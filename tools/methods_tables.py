"""Tables of docs/methods.md: figures of methods on the built-in model's scenes, from JSON."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from legrad_engine.evaluation.baselines import BASELINES

FIGURES = "methods-evaluation.json"
PICTURE = "images/methods.webp"

_LINE = 100

_SECTION = """\
## Side by side

![The example picture and its map of "{prompt}" by every method]({picture})

The map of "{prompt}" by every method of the built-in model, each with its own default blocks,
stretched from its lowest to its highest value.

## Measured on scenes with exact masks

Made by `make methods-eval` with the built-in model, in an art style that its training never saw
(Twemoji; choices between recipes of the model looked at LeGrad's figures in this style, which may
favour LeGrad); [the JSON file]({figures}) has every digit. Prompts are plain names, among the
model's {classes}. Each method explains its own default blocks. The protocols are those of
[the evaluation](evaluation.md#protocols). These are drawings and a small model without a class
token: the order of methods on photographs with a CLIP model may differ.

{age}\
The best of each column is in bold; `random` and `centre` are maps that look at no picture. An empty
cell is not measured.

{several}
{single}
{times}
{lost}
"""

_EARLIER = """\
**Measured with earlier weights of the built-in model than those that this version ships.**
`make methods-eval` measures these.

"""

_SEVERAL = """\
**Where the map lies**: {scenes:,} scenes of two or three stickers, {pairs:,} prompts. The standard
error of a share of so many scenes is up to {error:.1f} points.

{table}

- *mIoU*, *pixel accuracy*, *mAP*: segmentation of the named sticker, at 0.5 of the stretched map.
- *Pointing*: the map's peak lies on the named sticker's visible pixels.
- *Wrong prompt*: mIoU with the same sticker of the map of a name that the scene does not show.
  Lower is better; a map that no target changes has the same as under the right name.
- *AUROC*: the chance that the raw map of a shown name has a higher maximum than that of an absent
  one; 50 is chance.
"""

_SINGLE = """\
**Where the score follows the map**: {scenes:,} scenes of one sticker. The true class is the
sticker's name, and the model's answer the most similar of its {classes} names: right in
{accuracy} % of these scenes. The standard error of a share of so many scenes is up to
{error:.1f} points.

{table}

- *Positive*, *negative*: area under the model's accuracy while the pixels that the map of the true
  class ranks highest (positive) or lowest (negative) turn black, a tenth at a time.
- *Deletion*, *insertion*: area under the cosine to the sticker's name, times 100, while the
  highest pixels turn to the mean colour, or replace a blur; less the same for a random order.
- Changed pictures are scored in bfloat16.
"""

_TIMES = """\
**Time**: processor time of explaining one picture, its forward pass included, over that of a plain
forward pass of the built-in model, measured in turns. It averages all tokens: methods that follow
the row of a class token take longer here than in a model with one.

{table}
"""

_MISSING = """\
Perturbation, deletion and insertion are not measured yet: `make methods-eval` goes on with them.
"""

Rows = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: its title.
        protocol: the protocol, or None for the times.
        figure: name of the figure.
        better: which values are good.
        percent: whether it is shown times 100.
    """

    title: str
    protocol: str | None
    figure: str
    better: Literal["higher", "lower"]
    percent: bool = True


_COLUMNS: dict[str, tuple[Column, ...]] = {
    "several": (
        Column("mIoU ↑", "segmentation", "mIoU, threshold 0.5", "higher"),
        Column("Pixel accuracy ↑", "segmentation", "pixel accuracy, threshold 0.5", "higher"),
        Column("mAP ↑", "segmentation", "mAP", "higher"),
        Column("Pointing ↑", "localisation", "pointing", "higher"),
        Column("Wrong prompt ↓", "wrong-prompt", "mIoU, threshold 0.5", "lower"),
        Column("AUROC ↑", "wrong-prompt", "AUROC of the raw maximum", "higher"),
    ),
    "single": (
        Column("Positive ↓", "perturbation", "positive AUC, target class", "lower"),
        Column("Negative ↑", "perturbation", "negative AUC, target class", "higher"),
        Column("Deletion ↓", "insertion-deletion", "deletion, cosine, less random", "lower"),
        Column("Insertion ↑", "insertion-deletion", "insertion, cosine, less random", "higher"),
    ),
    "times": (
        Column("1 target ↓", None, "1", "lower", percent=False),
        Column("8 targets ↓", None, "8", "lower", percent=False),
    ),
}
_TEXTS = {"several": _SEVERAL, "single": _SINGLE, "times": _TIMES}


def measured(docs: Path, methods: Sequence[str], weights: str) -> str:
    """Return the part of the page with the picture and the tables; empty without figures.

    Args:
        docs: folder with :data:`FIGURES`.
        methods: names of the methods, in order.
        weights: identity of the weights that the package ships.
    """
    path = docs / FIGURES
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    parts = {
        split: _TEXTS[split].format(**_values(found, split, methods))
        if split in found
        else _MISSING
        for split in _COLUMNS
    }
    return _SECTION.format(
        prompt=found["picture"]["prompt"],
        picture=PICTURE,
        figures=FIGURES,
        classes=found["classes"],
        age=""
        if all(found[split]["weights"] == weights for split in _measured(found))
        else _EARLIER,
        lost=_where_legrad_loses(found, methods),
        **parts,
    )


def _measured(found: Mapping[str, Any]) -> list[str]:
    return [split for split in _COLUMNS if split in found and split != "times"]


def _values(found: Mapping[str, Any], split: str, methods: Sequence[str]) -> dict[str, Any]:
    if split == "times":
        return {"table": _table(found, split, methods)}
    protocols = found[split]["protocols"]
    values: dict[str, Any] = {
        "scenes": found[split]["scenes"],
        # Of a share of a half, the largest.
        "error": 50 / math.sqrt(found[split]["scenes"]),
        "classes": found["classes"],
        "table": _table(found, split, [*methods, *BASELINES]),
    }
    some = next(iter(protocols.values()))
    if split == "several":
        values["pairs"] = int(next(iter(some.values()))["pairs"])
    else:
        accuracy = next(iter(protocols["perturbation"].values()))["accuracy"]
        values["accuracy"] = f"{100 * accuracy:.1f}"
    return values


def _rows(found: Mapping[str, Any], split: str, column: Column) -> Rows:
    rows: Rows = (
        found["times"] if column.protocol is None else found[split]["protocols"][column.protocol]
    )
    return rows


def _table(found: Mapping[str, Any], split: str, names: Sequence[str]) -> str:
    columns = _COLUMNS[split]
    header = ["Method", *(column.title for column in columns)]
    lines = [header, ["---", *("---:" for _ in columns)]]
    best = {column.title: _best(found, split, column, names) for column in columns}
    for name in names:
        # A method that the built-in model cannot have.
        if not any(name in _rows(found, split, column) for column in columns):
            continue
        line = [f"`{name}`"]
        for column in columns:
            value = _rows(found, split, column).get(name, {}).get(column.figure)
            text = "" if value is None else _shown(value, column)
            line.append(f"**{text}**" if text and name in best[column.title] else text)
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: float, column: Column) -> str:
    return f"{100 * value:.1f}" if column.percent else f"{value:.2f}"


def _best(found: Mapping[str, Any], split: str, column: Column, names: Sequence[str]) -> set[str]:
    """Return the methods with the best value as it is shown, without the baselines."""
    values = {
        name: float(_shown(value, column))
        for name in names
        if name not in BASELINES
        and (value := _rows(found, split, column).get(name, {}).get(column.figure)) is not None
    }
    if not values:
        return set()
    best = (max if column.better == "higher" else min)(values.values())
    return {name for name, value in values.items() if value == best}


def _where_legrad_loses(found: Mapping[str, Any], methods: Sequence[str]) -> str:
    """Return a sentence with the columns in which another method is better than LeGrad."""
    lost = []
    for split, columns in _COLUMNS.items():
        if split not in found:
            continue
        for column in columns:
            best = _best(found, split, column, methods)
            if best and "legrad" not in best:
                title = column.title.removesuffix(" ↑").removesuffix(" ↓")
                title = f"time of {title}" if split == "times" else title
                lost.append(f"{title} ({', '.join(f'`{name}`' for name in sorted(best))})")
    if not lost:
        return ""
    sentence = f"LeGrad is not the best in: {', '.join(lost)}."
    return textwrap.fill(sentence, _LINE, break_on_hyphens=False)
