"""The tables of the starter model's evaluation, as the page `docs/starter-evaluation.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tools.starter.evaluation import Family, Localisation, Report
from tools.starter.presence import CROWDED, RARE
from tools.starter.styles import VALIDATION_FAMILY

_PARTS = {
    "unseen": "unseen",
    "validation": "held out; choices of recipe looked at it",
    "training": "trained on",
}


def to_markdown(report: Report) -> str:
    """Format the report as the text of `docs/starter-evaluation.md`."""
    lines = [
        "# What the starter model's heatmaps are worth",
        "",
        f"Made by `python -m tools.starter evaluate --scenes {report.scenes}`; the JSON file",
        "beside this one has every digit.",
        "",
        f"Each figure is over {report.scenes:,} composed scenes whose masks are exact. Prompts are",
        "plain concept names through the text tower. A family of art is drawn by the same hands or",
        "after the same designs, and is trained on as a whole or not at all. No training and no",
        "choice of recipe looked at an unseen family.",
        "",
        *_families(report.families),
        "",
        *_presence(report.families),
        "",
        *_methods(report.methods),
    ]
    return "\n".join([*lines, ""])


def _families(families: Mapping[str, Family]) -> Iterator[str]:
    yield from (
        "## Families of art",
        "",
        "| Family | Drawings of concepts | Name first of 288 | Pointing | IoU at 0.5 "
        "| Absent prompt at a given sticker |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    )
    for name, family in families.items():
        row = family.heatmaps
        yield (
            f"| {name} ({_PARTS[family.part]}) | {family.drawings} of {family.concepts} "
            f"| {family.recognition:.1%} ± {family.recognition_error:.1%} "
            f"| {row.pointing:.1%} ± {row.pointing_error:.1%} "
            f"| {row.overlap:.3f} ± {row.overlap_error:.3f} "
            f"| {row.absent:.1%} ± {row.absent_error:.1%} |"
        )
    yield from (
        "",
        "Name first: one sticker in the scene, and its name is the most similar of all. The other",
        "columns are of LeGrad over the last two blocks, in scenes of two and three stickers.",
        "Pointing: the map's peak lies on the named sticker's visible pixels. IoU: the map,",
        "min-maxed and cut at 0.5, against those pixels. Absent prompt: the map of a concept that",
        "is not in the scene peaks on one given sticker; lower is better. After ±: the standard",
        "error, by a bootstrap over the drawings of the scenes.",
    )


def _presence(families: Mapping[str, Family]) -> Iterator[str]:
    yield from (
        "## Presence",
        "",
        "Scenes of one to three stickers, each with the names of its stickers and as many other",
        "names. The calibration was fitted on such scenes in the styles of training.",
        "",
        "| Family | Expected calibration error | Brier score | Right side of one half |",
        "| --- | ---: | ---: | ---: |",
    )
    for name, family in families.items():
        row = family.presence.overall
        yield f"| {name} | {row.calibration_error:.3f} | {row.brier:.3f} | {row.right:.1%} |"
    yield from (
        "",
        f"By the number of stickers in the scene; no scene of the fit has {CROWDED}. Half of the",
        "pairs are shown, so a mean presence below 50 % is too low.",
        "",
        "| Family | Stickers | Pairs | Expected calibration error | Brier score | Mean presence |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    )
    for name, family in families.items():
        for stickers, row in family.presence.by_stickers.items():
            yield (
                f"| {name} | {stickers} | {row.pairs:,} | {row.calibration_error:.3f} "
                f"| {row.brier:.3f} | {row.mean:.1%} |"
            )
    yield from (
        "",
        f"Among rarer things: the pairs of the first table, weighted so that {RARE:.0%} are shown.",
        "Corrected: with log(p / (1 - p)) added to the logit, where p is that share.",
        "",
        "| Family | Expected calibration error | Corrected | Brier score | Corrected |",
        "| --- | ---: | ---: | ---: | ---: |",
    )
    for name, family in families.items():
        rare, corrected = family.presence.rare, family.presence.rare_corrected
        yield (
            f"| {name} | {rare.calibration_error:.3f} | {corrected.calibration_error:.3f} "
            f"| {rare.brier:.3f} | {corrected.brier:.3f} |"
        )


def _methods(methods: Mapping[str, Localisation]) -> Iterator[str]:
    any_row = next(iter(methods.values()))
    yield from (
        "## Other layers and baselines",
        "",
        f"On {VALIDATION_FAMILY}: scenes of two and three stickers, {any_row.pairs:,} prompts; a",
        f"sticker covers {any_row.area:.1%} of its picture on average.",
        "",
        "| Map | Pointing | IoU at 0.5 | IoU at mean | Absent prompt at a given sticker |",
        "| --- | ---: | ---: | ---: | ---: |",
    )
    for name, row in methods.items():
        yield (
            f"| {name} | {row.pointing:.1%} | {row.overlap:.3f} | {row.overlap_at_mean:.3f} "
            f"| {row.absent:.1%} |"
        )
