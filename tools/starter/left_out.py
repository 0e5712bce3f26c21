"""Measurement of generalisation: short trainings that leave out one family of art each.

Each is measured on the family that it did not see, beside a training of the same length that left
out another family. The difference is the price of art by other hands.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import open_clip

from legrad_engine import Explainer
from tools.starter.art import Sprites
from tools.starter.evaluation import as_drawn, default_heatmaps, recognition
from tools.starter.export import assemble, read_checkpoint
from tools.starter.learner import CONFIG_PATH
from tools.starter.styles import TRAINING_FAMILIES, TRAINING_STYLES, family_of
from tools.starter.training import Run, Schedule, Stage, train

SHORT = Schedule(stages=(Stage(112, 32, 120, 48),), warm_up=320, prototypes=2000)
_TEXT_STEPS = 500
_CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class Measured:
    """Measures of one short training on one family.

    Attributes:
        recognition: Share of one-sticker scenes recognised.
        pointing: Share of heatmaps that peak on the named sticker.
        overlap: Mean intersection over union of sticker and heatmap.
        absent: Share of scenes in which an absent concept's map peaks on a given sticker.
    """

    recognition: float
    pointing: float
    overlap: float
    absent: float


@dataclass(frozen=True)
class LeftOut:
    """A family in a training that left it out, and in one that left out another family.

    Attributes:
        drawings: Number of its drawings.
        unseen: Measures after the training without the family.
        seen: Measures after the training without the next family of the table.
    """

    drawings: int
    unseen: Measured
    seen: Measured


def _styles_of(sprites: Sprites, family: str) -> dict[str, float]:
    return as_drawn(sprites, [style for style in TRAINING_STYLES if family_of(style) == family])


def _train(sprites: Sprites, cache: Path, left_out: str, workers: int) -> Explainer:
    """Train on all families but one; a finished training is not repeated."""
    name = left_out.lower().replace(" ", "-")
    run = Run(
        cache=cache,
        folder=cache / "left-out" / name,
        styles={
            style: share for style, share in TRAINING_STYLES.items() if family_of(style) != left_out
        },
        schedule=SHORT,
        workers=workers,
        checkpoint_every=_CHECKPOINT_SECONDS,
    )
    train(run)
    model, _ = assemble(sprites, cache, read_checkpoint(run.checkpoint), run.styles, _TEXT_STEPS)
    return Explainer(
        model,
        open_clip.get_tokenizer(CONFIG_PATH.stem),
        name=f"starter without {name}",
        preprocessing=Explainer.load("starter").preprocessing,
    )


def _measure(explainer: Explainer, sprites: Sprites, family: str, scenes: int) -> Measured:
    styles = _styles_of(sprites, family)
    maps = default_heatmaps(explainer, sprites, styles, scenes)
    return Measured(
        recognition=recognition(explainer, sprites, styles, scenes),
        pointing=maps.pointing,
        overlap=maps.overlap,
        absent=maps.absent,
    )


def leave_one_out(
    sprites: Sprites, cache: Path, workers: int, scenes: int, measured: Collection[str] = ()
) -> Iterator[tuple[str, LeftOut]]:
    """Train once without each family of training.

    Args:
        sprites: The rendered art.
        cache: The folder with the art and the backbone; trainings are kept in `left-out` there.
        workers: Processes of training.
        scenes: Scenes per measurement.
        measured: Families whose measures are known; they are passed over.

    Yields:
        The name and the measures of each family, once it is measured.
    """
    without = functools.cache(functools.partial(_train, sprites, cache, workers=workers))
    following = (*TRAINING_FAMILIES[1:], TRAINING_FAMILIES[0])
    for family, another in zip(TRAINING_FAMILIES, following, strict=True):
        if family in measured:
            continue
        yield (
            family,
            LeftOut(
                drawings=int(sum(_styles_of(sprites, family).values())),
                unseen=_measure(without(family), sprites, family, scenes),
                seen=_measure(without(another), sprites, family, scenes),
            ),
        )


def to_json(rows: dict[str, LeftOut], scenes: int) -> str:
    """Format the rows as the text of `docs/starter-left-out.json`."""
    families = {family: dataclasses.asdict(row) for family, row in rows.items()}
    document = {**_conditions(scenes), "families": families}
    return json.dumps(document, indent=2) + "\n"


def read_rows(path: Path, scenes: int) -> dict[str, LeftOut]:
    """Read the rows of an earlier run from `docs/starter-left-out.json`.

    Args:
        path: The file; it need not be there.
        scenes: Scenes per measurement.

    Returns:
        The rows; none if they were measured after other trainings, or on more or fewer scenes.
    """
    document = json.loads(path.read_text()) if path.is_file() else {}
    families = document.pop("families", {})
    if document != _conditions(scenes):
        return {}
    return {
        family: LeftOut(row["drawings"], Measured(**row["unseen"]), Measured(**row["seen"]))
        for family, row in families.items()
    }


def _conditions(scenes: int) -> dict[str, object]:
    # As JSON has them: without tuples.
    schedule = json.loads(json.dumps(dataclasses.asdict(SHORT)))
    return {"training_scenes": SHORT.scenes, "schedule": schedule, "scenes": scenes}


def to_markdown(rows: dict[str, LeftOut], scenes: int) -> str:
    """Format the rows as the text of `docs/starter-left-out.md`."""
    missing = [family for family in TRAINING_FAMILIES if family not in rows]
    lines = [
        "# The built-in model without one family of art",
        "",
        "Made by `python -m tools.starter left-out`; the JSON file beside this one has all digits.",
        "",
        "Left out: a training that never saw the family, measured on that family. Seen: the",
        "training of the next row, which left out another one. All of these trainings are short,",
        f"of {SHORT.scenes:,} scenes after a start from the features of {SHORT.prototypes:,}, so",
        "their figures are lower than those of the shipped model; the difference between the two",
        "columns of a pair tells how far the recipe generalises to art by other hands. Each figure",
        f"is over {scenes:,} scenes.",
        "",
        *([f"Not measured yet: {', '.join(missing)}.", ""] if missing else []),
        "| Family | Drawings | Name first of 288: seen | left out | Pointing: seen | left out "
        "| IoU at 0.5: seen | left out | Absent prompt at a given sticker: seen | left out |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for family in filter(rows.__contains__, TRAINING_FAMILIES):
        row = rows[family]
        seen, unseen = row.seen, row.unseen
        lines.append(
            f"| {family} | {row.drawings} | {seen.recognition:.1%} | {unseen.recognition:.1%} "
            f"| {seen.pointing:.1%} | {unseen.pointing:.1%} "
            f"| {seen.overlap:.3f} | {unseen.overlap:.3f} "
            f"| {seen.absent:.1%} | {unseen.absent:.1%} |"
        )
    return "\n".join([*lines, ""])
