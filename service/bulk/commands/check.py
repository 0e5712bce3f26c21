"""The command `legrad check`. Importing this module loads no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from legrad_engine.errors import LegradError
from legrad_engine.methods import DEFAULT_METHOD
from service.bulk.commands.options import DeviceOption, ModelArgument
from service.bulk.console import fail, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legrad_engine import Explainer
    from legrad_engine.images.inputs import PreparedImage
    from legrad_engine.models.reference import ModelReference
    from legrad_engine.targets.resolved import ResolvedTargets
    from service.schemas.sanity import RandomizedStage, SanityCheck


def check(
    model: ModelArgument,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Explanation method; repeat for several. legrad by default."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            envvar="LEGRAD_CHECKS_DIR",
            help="Folder of results, which the server reads too; legrad/checks in the user's cache "
            "by default.",
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Check that heatmaps change when the weights of a model are randomised.

    A method whose heatmaps stay the same shows the picture, not the model. The result is shown in
    /models by every server that reads the folder.
    """
    from legrad_engine.models.reference import ModelReference

    try:
        reference = ModelReference.parse(model)
        found, path = _check(reference, method or [DEFAULT_METHOD], output, device)
    except (LegradError, OSError) as error:
        fail(error)
    from rich.table import Table

    most = max(each.heatmaps for method in found.methods for each in method.stages)
    table = Table("Randomised down to", *(each.method for each in found.methods))
    for stages in zip(*(each.stages for each in found.methods), strict=True):
        table.add_row(stages[0].stage, *(_cell(each, most) for each in stages))
    print_table(table)
    typer.echo(f"Rank correlation with the heatmaps of the intact model, near 0 is good: {path}")


def _cell(stage: "RandomizedStage", most: int) -> str:
    """Tell the similarity, and of how many heatmaps if some could not be compared."""
    of = "" if stage.heatmaps == most else f" ({stage.heatmaps} of {most} heatmaps)"
    return ("" if stage.similarity is None else f"{stage.similarity:.2f}") + of


def _check(
    reference: "ModelReference", methods: list[str], folder: Path | None, device: str
) -> "tuple[SanityCheck, Path]":
    from dataclasses import asdict
    from importlib import metadata

    from legrad_engine import Explainer
    from legrad_engine.evaluation.randomization import randomize
    from legrad_engine.models.identity import ModelIdentity
    from service.pool.sanity_checks import write_check
    from service.schemas.sanity import SanityCheck

    reference.check()
    before = ModelIdentity.of(reference)
    explainer = Explainer.load(reference, device=device)
    for name in methods:
        explainer.method(name)
    weights = ModelIdentity.of_loaded(reference, before).weights
    pictures, prompts = _gallery()
    prepared = [explainer.prepare(each) for each in pictures]
    resolved = _targets(explainer, prepared, prompts)
    stages = randomize(explainer, prepared, resolved, methods)
    found = SanityCheck.model_validate(
        {
            "weights": weights,
            "version": metadata.version("legrad-service"),
            "pictures": len(pictures),
            "methods": [
                {"method": name, "stages": [asdict(each) for each in stages[name]]}
                for name in stages
            ],
        }
    )
    return found, write_check(folder, found)


def _gallery() -> tuple[list[bytes], list[list[str]]]:
    """Return the page's example pictures and their prompts."""
    import json
    from importlib.resources import files

    gallery = files("service") / "web" / "gallery"
    examples = json.loads((gallery / "examples.json").read_text())
    return (
        [(gallery / each["file"]).read_bytes() for each in examples],
        [each["prompts"] for each in examples],
    )


def _targets(
    explainer: "Explainer", prepared: "Sequence[PreparedImage]", prompts: list[list[str]]
) -> "list[ResolvedTargets]":
    """Return the prompts as targets; for a model without texts, each picture's own embedding."""
    from legrad_engine.targets.text import NoText

    if not isinstance(explainer.text, NoText):
        return explainer.resolver.resolve(prompts, len(prepared))
    embeddings = explainer.embed_images(prepared)
    own = [embeddings[index : index + 1] for index in range(len(prepared))]
    return explainer.resolver.resolve(own, len(prepared))
