"""`legrad ask`: which word, which region, which change, of one picture and without a server."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from legrad_engine.errors import InvalidOptionError, LegradError, UnsupportedModelError
from legrad_engine.images.change_kinds import Change
from legrad_engine.models.schemes import STARTER
from service.bulk.commands.options import (
    DeviceOption,
    ModelOption,
    PresenceOption,
    PromptArgument,
    PromptsOption,
)
from service.bulk.console import fail, print_table, read_presence
from service.bulk.prompts import UnreadablePromptsError, gather_prompts

if TYPE_CHECKING:
    from legrad_engine import Explainer
    from legrad_engine.images.cropping import PixelBox
    from legrad_engine.measurements.base import Measured
    from legrad_engine.presence import PresenceCalibration

    Regions = tuple[PixelBox, ...] | Literal["warmest"]

_BOX_HELP = "left,top,right,bottom in pixels of the upright picture"


def ask(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A picture.")],
    prompt: PromptArgument = None,
    prompts: PromptsOption = None,
    words: Annotated[
        bool, typer.Option("--words", help="Print the contribution of each word of the prompts.")
    ] = False,
    like: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Another picture, as a further target."),
    ] = None,
    box: Annotated[
        str | None, typer.Option(help=f"Region of the other picture: {_BOX_HELP}.", metavar="BOX")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Region to change: {_BOX_HELP}; repeat for several that change together. Or "
            "`warmest`: that of each target.",
            metavar="BOX",
        ),
    ] = None,
    how: Annotated[
        Change | None, typer.Option(help="How regions change.", show_default="blur")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    model: ModelOption = STARTER,
    presence: PresenceOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Ask which words, regions and changes matter to the similarities of one picture."""
    try:
        if box is not None and like is None:
            raise InvalidOptionError("--box is a region of the picture that --like names.")
        if how is not None and not change:
            raise InvalidOptionError("--how is about the regions that --change names.")
        region = None if box is None else _read_box(box, "--box")
        regions = _read_change(change or [])
        texts = gather_prompts(prompt or (), prompts)
        found = _answer(
            image,
            texts,
            words,
            like,
            region,
            regions,
            how or "blur",
            model,
            read_presence(presence),
            device,
        )
    except (LegradError, OSError, UnreadablePromptsError) as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        _print(found)


def _read_box(text: str, option: str) -> "PixelBox":
    try:
        left, top, right, bottom = (int(edge) for edge in text.split(","))
    except ValueError as error:
        raise InvalidOptionError(f"{option} is {_BOX_HELP}, not {text!r}.") from error
    return left, top, right, bottom


def _read_change(given: list[str]) -> "Regions | None":
    """Return the regions to change; None for no change."""
    if not given:
        return None
    if given == ["warmest"]:
        return "warmest"
    return tuple(_read_box(each, "--change") for each in given)


def _answer(
    image: Path,
    prompts: tuple[str, ...],
    words: bool,
    like: Path | None,
    region: "PixelBox | None",
    regions: "Regions | None",
    how: Change,
    model: str,
    presence: "PresenceCalibration | None",
    device: str,
) -> dict[str, Any]:
    # Only now, because torch is imported with them.
    from legrad_engine.measurements.base import Measurement, Subjects
    from legrad_engine.measurements.batches import measure_batch
    from legrad_engine.measurements.counterfactual import Counterfactual
    from legrad_engine.measurements.words import Words
    from legrad_engine.targets import ImageTarget, TextTarget
    from legrad_engine.targets.questions import Question
    from service.bulk.batches import NOT_FINITE

    targets: list[TextTarget | ImageTarget] = [TextTarget(text, words=words) for text in prompts]
    if like is not None:
        targets.append(ImageTarget(like.read_bytes(), box=region))
    if not targets:
        raise InvalidOptionError("Give a prompt, or another picture with --like.")
    if words and not prompts:
        raise InvalidOptionError("--words is about the words of prompts: give one.")
    measurements: list[Measurement] = [Words(len(prompts))] if words else []
    if regions is not None:
        given = None if regions == "warmest" else regions
        measurements.append(Counterfactual(given, how))
    explainer, calibration = _load(model, presence, device)
    question = Question.of(targets)
    resolver = explainer.resolver
    resolver.check(question)
    resolved = [resolver.compose(question, resolver.embed([question]))]
    prepared = [explainer.prepare(image.read_bytes())]
    trace = explainer.trace(prepared)
    explanations = explainer.launch_attribution(trace, resolved).finish()
    if not explanations[0].is_finite:
        raise UnsupportedModelError(NOT_FINITE)
    subjects = Subjects(explainer, trace, resolved, [question], None, explanations, prepared, 16)
    (measured,) = measure_batch([measurements], subjects)
    if isinstance(measured, LegradError):
        raise measured
    names = [*prompts, *([] if like is None else [str(like)])]
    similarities = explanations[0].similarities.tolist()
    return {
        "targets": [
            {
                "target": name,
                "similarity": similarity,
                # A calibration is fitted on texts, and tells nothing about another picture.
                "presence": None
                if calibration is None or row >= len(prompts)
                else calibration.probability(similarity),
                "words": _words(measured.get("words"), row),
            }
            for row, (name, similarity) in enumerate(zip(names, similarities, strict=True))
        ],
        "counterfactual": _as_json(measured.get("counterfactual")),
    }


def _load(
    model: str, presence: "PresenceCalibration | None", device: str
) -> "tuple[Explainer, PresenceCalibration | None]":
    """Load a model, with the given calibration or the built-in model's own.

    Raises:
        LegradError: there is no such model, or the calibration was fitted for other weights.
    """
    from legrad_engine import Explainer
    from legrad_engine.models import ModelReference
    from legrad_engine.models.identity import ModelIdentity
    from legrad_engine.presence import built_in

    reference = ModelReference.parse(model)
    reference.check()
    calibration = presence or built_in(reference)
    if calibration is None:
        return Explainer.load(reference, device=device), None
    before = ModelIdentity.of(reference)
    explainer = Explainer.load(reference, device=device)
    calibration.check(ModelIdentity.of_loaded(reference, before).weights)
    return explainer, calibration


def _words(measured: "Measured | None", row: int) -> Any:
    of_target = None if measured is None or measured.targets is None else measured.targets[row]
    return None if of_target is None else dataclasses.asdict(of_target[0])  # type: ignore[index]


def _as_json(measured: "Measured | None") -> Any:
    return None if measured is None else dataclasses.asdict(measured.image)  # type: ignore[call-overload]


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("Target", "Similarity", "Presence")
    for target in found["targets"]:
        presence = target["presence"]
        table.add_row(
            target["target"],
            f"{target['similarity']:.3f}",
            "" if presence is None else f"{presence:.2f}",
        )
    print_table(table)
    for target in found["targets"]:
        if target["words"] is None:
            continue
        table = Table("Word", "Contribution", "Share", title=target["target"])
        for word in target["words"]["words"]:
            table.add_row(word["text"], f"{word['contribution']:+.4f}", f"{word['share']:.0%}")
        table.add_row("all other tokens", f"{target['words']['rest']:+.4f}", "")
        print_table(table)
    for case in (found["counterfactual"] or {"cases": []})["cases"]:
        boxes = "; ".join(
            f"{box['left']},{box['top']},{box['right']},{box['bottom']}" for box in case["regions"]
        )
        table = Table("Target", "New similarity", "Change", title=f"Changed: {boxes}")
        for target, new in zip(found["targets"], case["targets"], strict=True):
            table.add_row(target["target"], f"{new['similarity']:.3f}", f"{new['change']:+.3f}")
        print_table(table)
