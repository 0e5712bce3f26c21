"""`legrad explain`: explains a picture or a folder of pictures without a server."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from legrad_engine.errors import LegradError
from legrad_engine.images.file_formats import DEFAULT_QUALITY, PictureFormat
from legrad_engine.measurements.trust.levels import TrustLevel
from legrad_engine.methods import DEFAULT_METHOD
from legrad_engine.models.schemes import STARTER
from service.bulk.commands.options import (
    DeviceOption,
    FitOption,
    HeadsOption,
    LayersOption,
    MethodOption,
    ModelOption,
    PresenceOption,
    PromptArgument,
    PromptsOption,
    ScoreOption,
    SizeOption,
)
from service.bulk.console import (
    INTERRUPTED,
    fail,
    load_model,
    print_table,
    progress_bar,
    read_layers,
    read_presence,
    read_prompt_options,
    trust_in_words,
)

if TYPE_CHECKING:
    from legrad_engine import Explainer
    from service.bulk.folders import Outcome

_MOST_NAMES = 20


def explain(
    image: Annotated[
        Path,
        typer.Argument(exists=True, help="A picture, or a folder with pictures at any depth."),
    ],
    prompt: PromptArgument = None,
    prompts: PromptsOption = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for overlays, raw maps (npy) and manifest.jsonl."
        ),
    ] = Path("explanations"),
    model: ModelOption = STARTER,
    method: MethodOption = DEFAULT_METHOD,
    heads: HeadsOption = "mean",
    layers: LayersOption = None,
    score: ScoreOption = None,
    size: SizeOption = None,
    fit: FitOption = "squash",
    format_: Annotated[
        PictureFormat, typer.Option("--format", help="Format of the overlays; png loses nothing.")
    ] = "jpeg",
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="Quality of overlays in jpeg and webp.")
    ] = DEFAULT_QUALITY,
    trust: Annotated[
        TrustLevel | None,
        typer.Option(help="How much to measure about the trust in each map; see docs/trust.md."),
    ] = None,
    layers_report: Annotated[
        bool,
        typer.Option(
            "--layers-report",
            help="Tell where in the model the decision forms; see docs/layers-report.md.",
        ),
    ] = False,
    presence: PresenceOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Explain pictures without a server.

    A folder is explained in batches. The same command resumes an interrupted run and tries failed
    pictures again.
    """
    from service.bulk.discovery import find_pictures
    from service.bulk.folders import explain_pictures
    from service.bulk.manifest import ManifestError
    from service.bulk.prompts import UnreadablePromptsError
    from service.bulk.questions import Question

    if image.is_dir() and output.resolve() == image.resolve():
        raise typer.BadParameter("explanations need a folder of their own: set one with -o.")
    pictures, skipped = find_pictures(image, output)
    if skipped:
        typer.echo(_name_skipped(skipped, image), err=True)
    if not pictures:
        typer.echo(f"There is no picture in {image}.", err=True)
        raise typer.Exit(2)
    chosen_layers = read_layers(layers)
    outcomes: list[Outcome] = []
    try:
        texts = read_prompt_options(prompt, prompts)
        question = Question(
            model,
            texts,
            method,
            chosen_layers,
            score,
            size,
            fit,
            format_,
            quality,
            trust,
            layers_report,
            heads,
            read_presence(presence),
        )
        root = image if image.is_dir() else image.parent
        with contextlib.ExitStack() as shown:
            advance: Callable[[], object] = int

            def load(asked: Question) -> "Explainer":
                nonlocal advance
                # Only now, because a run with nothing left to do is over before rich is imported.
                if len(pictures) > 1:
                    advance = shown.enter_context(progress_bar(len(pictures), "Explaining"))
                return load_model(asked, device)

            for outcome in explain_pictures(question, pictures, root, output, load):
                outcomes.append(outcome)
                advance()
                if outcome.error:
                    typer.echo(f"{outcome.path}: {outcome.error}", err=True)
    except (LegradError, ManifestError, OSError, UnreadablePromptsError) as error:
        fail(error)
    except KeyboardInterrupt:
        explained = sum(outcome.error is None for outcome in outcomes)
        typer.echo(
            f"Interrupted: {explained} of {len(pictures)} explained; "
            "run the same command again to go on.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    _summarize(outcomes, len(skipped), output)
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(1)


def _name_skipped(skipped: Sequence[Path], root: Path) -> str:
    names = [str(path.relative_to(root)) for path in skipped]
    listed = ", ".join(names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    kind = "file that is no picture" if len(names) == 1 else "files that are no pictures"
    return f"Skipped {len(names)} {kind}: {listed}{more}."


def _summarize(outcomes: "Sequence[Outcome]", skipped: int, output: Path) -> None:
    """Print the numbers of a single picture, or the counts of several."""
    from service.bulk.manifest import FILE_NAME

    new = [outcome for outcome in outcomes if outcome.entries and not outcome.error]
    known = sum(not outcome.entries for outcome in outcomes)
    if len(outcomes) == len(new) == 1:
        from rich.table import Table

        table = Table("Prompt", "Similarity", "Probability", "Presence", "Peak at", "Overlay")
        for entry in new[0].entries:
            table.add_row(
                entry.title,
                f"{entry.similarity:.3f}",
                "" if entry.probability is None else f"{entry.probability:.3f}",
                "" if entry.presence is None else f"{entry.presence:.2f}",
                "{}, {}".format(*entry.peak_position),
                str(output / entry.overlay),
            )
        print_table(table)
        for entry in new[0].entries:
            if entry.trust is not None:
                typer.echo(f"{entry.prompt}: {trust_in_words(entry.trust)}")
            if entry.layers_report is not None:
                values = " ".join(f"{each:.2f}" for each in entry.layers_report["similarities"])
                typer.echo(f"{entry.prompt}, similarity after each block: {values}")
        return
    failed = len(outcomes) - len(new) - known
    counts = [f"{len(new)} explained"]
    counts += [f"{known} done before"] if known else []
    counts += [f"{failed} failed"] if failed else []
    counts += [f"{skipped} skipped"] if skipped else []
    typer.echo(f"{', '.join(counts)}: {output / FILE_NAME}")
