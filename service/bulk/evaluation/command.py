"""The command `legrad evaluate`. Importing this module loads no torch."""

from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from legrad_engine.errors import LegradError
from legrad_engine.families.scores import Score
from service.bulk.commands.options import DeviceOption, FitOption, ModelArgument, SizeOption
from service.bulk.console import INTERRUPTED, fail, progress_bar, read_layers

if TYPE_CHECKING:
    from legrad_engine import Explainer
    from legrad_engine.targets.templates import Templates
    from service.bulk.evaluation.question import EvaluationQuestion
    from service.bulk.evaluation.run import Outcome


def evaluate(
    model: ModelArgument,
    data: Annotated[
        str,
        typer.Argument(help="Data set, KIND:PATH, such as voc:VOC2012; see docs/evaluation.md."),
    ],
    protocol: Annotated[
        list[str],
        typer.Option(help="Protocol, such as segmentation or perturbation; several with commas."),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Method, or the baselines random and centre; several with commas. legrad by "
            "default."
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for journal.jsonl, results.json and results.md."
        ),
    ] = Path("evaluation"),
    split: Annotated[str | None, typer.Option(help="Split of the data set.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, if not in its usual place.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Largest number of samples, spread over the data set.")
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="Template of prompts with {} for the class, `openai` or `simple`; by default `a "
            "photo of a {}`, and `{}` for a folder, whose prompts are whole. Repeat for several.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Number of last blocks to explain, or `all`.")
    ] = None,
    score: Annotated[Score | None, typer.Option(help="The explained score.")] = None,
    size: SizeOption = None,
    fit: FitOption = "squash",
    device: DeviceOption = "auto",
) -> None:
    """Measure explanation methods on a data set, by published protocols.

    The same command resumes an interrupted evaluation and tries failed samples again.
    """
    if find_spec("scipy") is None:
        fail(LegradError("legrad evaluate needs SciPy: install legrad-service[evaluate]."))
    from legrad_engine.evaluation.options import MapOptions
    from legrad_engine.evaluation.registry import data_set_type
    from legrad_engine.evaluation.samples import Options
    from service.bulk.evaluation.journal import Journal, JournalError
    from service.bulk.evaluation.question import EvaluationQuestion
    from service.bulk.evaluation.run import Evaluation
    from service.bulk.evaluation.summary import JSON_NAME, MARKDOWN_NAME, summarize

    chosen_layers = read_layers(layers)
    outcomes: list[Outcome] = []
    try:
        templates = _templates(template or [data_set_type(data).template])
        maps = MapOptions(chosen_layers, score, size, fit, templates)
        question = EvaluationQuestion(
            model,
            data,
            _names(protocol),
            _names(method or ["legrad"]),
            Options(split, images),
            maps,
            limit,
        )
        with Journal(output) as journal, ExitStack() as shown:
            evaluation = Evaluation(question, journal)
            advance: Callable[[], object] = int

            def load(asked: EvaluationQuestion) -> "Explainer":
                nonlocal advance
                # Only now, because with nothing left to do rich need not be imported.
                advance = shown.enter_context(progress_bar(evaluation.samples, "Evaluating"))
                return _load(asked, device)

            for outcome in evaluation.outcomes(load):
                outcomes.append(outcome)
                advance()
                if outcome.error:
                    typer.echo(f"{outcome.key}: {outcome.error}", err=True)
            summary = summarize(evaluation, outcomes)
            summary.write(output)
    except (LegradError, JournalError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        typer.echo(
            f"Interrupted: {len(outcomes)} samples are measured; run the same command again to go "
            "on.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(summary.markdown)
    typer.echo(_counts(outcomes, output / JSON_NAME, output / MARKDOWN_NAME))
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(1)


def _names(values: list[str]) -> tuple[str, ...]:
    return tuple(name for value in values for part in value.split(",") if (name := part.strip()))


def _templates(values: list[str]) -> "Templates":
    """Return a set of templates by its name, or template strings."""
    from legrad_engine.targets.templates import TEMPLATE_SETS, resolve_templates

    for name in TEMPLATE_SETS:
        if values == [name]:
            return name
    return resolve_templates(values)


def _load(question: "EvaluationQuestion", device: str) -> "Explainer":
    from legrad_engine import Explainer

    reference = question.reference
    reference.check()
    return Explainer.load(reference, device=device)


def _counts(outcomes: "list[Outcome]", *files: Path) -> str:
    failed = sum(outcome.error is not None for outcome in outcomes)
    new = sum(outcome.is_new and outcome.error is None for outcome in outcomes)
    counts = [f"{new} measured"]
    known = len(outcomes) - new - failed
    counts += [f"{known} done before"] if known else []
    counts += [f"{failed} failed"] if failed else []
    return f"{', '.join(counts)}: {', '.join(map(str, files))}"
