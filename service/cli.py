"""The command line: ``legrad serve | explain | report | models | key | openapi``.

Only the program's own options are imported here. Each command imports the rest once it uses it, so
that ``--help``, ``key``, wrong settings and a folder run with nothing left to do answer at once.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from legrad_engine.errors import LegradError
from legrad_engine.families.scores import Score
from legrad_engine.images.file_formats import DEFAULT_QUALITY, PictureFormat
from legrad_engine.images.fits import Fit
from legrad_engine.layers import Layers
from legrad_engine.models.schemes import STARTER

if TYPE_CHECKING:
    from rich.table import Table

    from legrad_engine import Explainer
    from service.bulk.folders import Outcome
    from service.bulk.questions import Question

# The exit status of programs that SIGINT ends, by the convention of shells.
_INTERRUPTED = 130
_MOST_NAMES = 20

# Help in plain text: rich would be imported for it, which takes longer than all the rest.
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(metadata.version("legrad-service"))
        raise typer.Exit


_MODEL_HELP = (
    "`starter`, `NAME/TAG` for open_clip's weights, `NAME@PATH` for a checkpoint, `hf-hub:`, "
    "`local-dir:`, `timm:` or `transformers:` names."
)


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version."),
    ] = False,
) -> None:
    """LeGrad heatmaps: where a vision transformer looked."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks one.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help=_MODEL_HELP + " ID=MODEL gives it an id. Repeat for several."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda, cuda:N or mps; several, as cuda:0,cuda:1; or all."),
    ] = None,
    uds: Annotated[
        Path | None, typer.Option(help="Unix socket to listen on, in place of host and port.")
    ] = None,
) -> None:
    """Start the server.

    All other settings are environment variables, LEGRAD_*; see docs/settings.md.
    """
    from pydantic import ValidationError

    from service.settings import Settings
    from service.settings.mistakes import in_lines, named

    given = {"host": host, "port": port, "models": model, "device": device, "uds": uds}
    options = {name: value for name, value in given.items() if value not in (None, [], "")}
    flags = {name: "--model" if name == "models" else f"--{name}" for name in options}
    try:
        # Options replace variables before these are judged.
        settings = Settings.model_validate(options)
        from service.server.process import serve as run_server

        status = run_server(settings)
    except ValidationError as error:
        for line in in_lines(error, flags):
            typer.echo(line, err=True)
        raise typer.Exit(2) from error
    except (LegradError, OSError) as error:
        typer.echo(named(error, flags), err=True)
        raise typer.Exit(2) from error
    raise typer.Exit(status)


@app.command()
def explain(
    image: Annotated[
        Path,
        typer.Argument(exists=True, help="A picture, or a folder with pictures at any depth."),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts to look for; for models without a text encoder, labels or indices of "
            "classes.",
            metavar="PROMPT",
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="File of further prompts, one per line; # starts a comment.")
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for overlays, raw maps (npy) and manifest.jsonl."
        ),
    ] = Path("explanations"),
    model: Annotated[str, typer.Option(help=_MODEL_HELP)] = STARTER,
    layers: Annotated[
        str | None, typer.Option(help="Number of last blocks to explain, or `all`; 2 by default.")
    ] = None,
    score: Annotated[
        Score | None, typer.Option(help="The explained score; the model's own by default.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the model's input, in pixels.")] = None,
    fit: Annotated[Fit, typer.Option(help="How pictures are fitted to the input.")] = "squash",
    format_: Annotated[
        PictureFormat, typer.Option("--format", help="Format of the overlays; png loses nothing.")
    ] = "jpeg",
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="Quality of overlays in jpeg and webp.")
    ] = DEFAULT_QUALITY,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Explain pictures without a server.

    A folder is explained in batches. The same command resumes an interrupted run and tries failed
    pictures again.
    """
    from service.bulk.discovery import find_pictures
    from service.bulk.folders import explain_pictures
    from service.bulk.manifest import ManifestError
    from service.bulk.prompts import UnreadablePromptsError, read_prompts
    from service.bulk.questions import Question

    if image.is_dir() and output.resolve() == image.resolve():
        raise typer.BadParameter("explanations need a folder of their own: set one with -o.")
    pictures, skipped = find_pictures(image, output)
    if skipped:
        typer.echo(_name_skipped(skipped, image), err=True)
    if not pictures:
        typer.echo(f"There is no picture in {image}.", err=True)
        raise typer.Exit(2)
    chosen_layers = _layers(layers)
    outcomes: list[Outcome] = []
    try:
        asked = [*(prompt or ()), *(read_prompts(prompts) if prompts else ())]
        if not asked:
            raise typer.BadParameter("give a prompt, or a file of prompts with --prompts.")
        texts = tuple(dict.fromkeys(asked))
        question = Question(model, texts, chosen_layers, score, size, fit, format_, quality)
        root = image if image.is_dir() else image.parent
        with contextlib.ExitStack() as shown:
            advance: Callable[[], object] = int

            def load(asked: Question) -> "Explainer":
                nonlocal advance
                # Only now, because a run with nothing left to do is over before rich is imported.
                if len(pictures) > 1:
                    advance = shown.enter_context(_progress_bar(len(pictures)))
                return _load(asked, device)

            for outcome in explain_pictures(question, pictures, root, output, load):
                outcomes.append(outcome)
                advance()
                if outcome.error:
                    typer.echo(f"{outcome.path}: {outcome.error}", err=True)
    except (LegradError, ManifestError, OSError, UnreadablePromptsError) as error:
        _fail(error)
    except KeyboardInterrupt:
        explained = sum(outcome.error is None for outcome in outcomes)
        typer.echo(
            f"Interrupted: {explained} of {len(pictures)} explained; "
            "run the same command again to go on.",
            err=True,
        )
        raise typer.Exit(_INTERRUPTED) from None
    _summarize(outcomes, len(skipped), output)
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Output folder of `legrad explain`.")] = Path(
        "explanations"
    ),
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; report.html in the folder by default."),
    ] = None,
) -> None:
    """Write one self-contained HTML page of all explanations in a folder."""
    from service.bulk.manifest import ManifestError
    from service.bulk.report import contact_sheet

    target = output or folder / "report.html"
    try:
        target.write_text(contact_sheet(folder), encoding="utf-8")
    except (ManifestError, OSError) as error:
        _fail(error)
    typer.echo(str(target))


@app.command()
def models(
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also list models that are not supported, with the reason."),
    ] = False,
) -> None:
    """List the supported models with their pretrained tags."""
    from rich.table import Table

    from legrad_engine.models import catalogue
    from legrad_engine.models.hugging_face.registry import class_names

    table = Table("Model", "Pretrained tags")
    table.add_row(STARTER, "built in")
    for entry in catalogue():
        if entry.refusal is None:
            table.add_row(entry.name, ", ".join(entry.tags) or "none: bring a checkpoint")
        elif everything:
            table.add_row(f"[dim]{entry.name}[/]", f"[dim]{entry.refusal}[/]")
    table.add_row("transformers:FOLDER or :ORG/REPO", f"models of {', '.join(class_names())}")
    _print(table)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Name of the key in logs.")],
    scope: Annotated[
        list[str],
        typer.Option(help="Scope: explain, admin or metrics. Repeat for several."),
    ],
    max_concurrent: Annotated[
        int | None, typer.Option(help="Limit on concurrent requests.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Limit on the rate of requests, such as 10/second.")
    ] = None,
    max_cost_per_minute: Annotated[
        float | None,
        typer.Option(help="Limit on the work in a minute, in forward passes of one image."),
    ] = None,
) -> None:
    """Create an API key: print the key, which is not stored, and its entry for the list of keys.

    The list is the value of LEGRAD_API_KEYS or the content of LEGRAD_API_KEYS_FILE; see
    docs/access.md.
    """
    import json

    from service.settings.keys import digest, new_key, read_keys

    secret = new_key()
    fields = {
        "name": name,
        "sha256": digest(secret.encode()).hex(),
        "scopes": sorted(set(scope)),
        "max_concurrent": max_concurrent,
        "rate": rate,
        "max_cost_per_minute": max_cost_per_minute,
    }
    entry = {field: value for field, value in fields.items() if value is not None}
    try:
        read_keys(json.dumps([entry]), "the key")
    except LegradError as error:
        _fail(error)
    typer.echo(f"{secret}\n{json.dumps(entry)}")


@app.command()
def openapi(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; standard output by default."),
    ] = None,
) -> None:
    """Write the HTTP contract as OpenAPI 3.1 in YAML."""
    text = contract()
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text)


def contract() -> str:
    """Return the OpenAPI document of an application with default settings, in YAML."""
    import yaml

    from service.app import create_app
    from service.settings import Settings

    document = create_app(Settings.model_construct()).openapi()
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


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

        table = Table("Prompt", "Similarity", "Probability", "Peak at", "Overlay")
        for entry in new[0].entries:
            table.add_row(
                entry.prompt,
                f"{entry.similarity:.3f}",
                "" if entry.probability is None else f"{entry.probability:.3f}",
                "{}, {}".format(*entry.peak_position),
                str(output / entry.overlay),
            )
        _print(table)
        return
    failed = len(outcomes) - len(new) - known
    counts = [f"{len(new)} explained"]
    counts += [f"{known} done before"] if known else []
    counts += [f"{failed} failed"] if failed else []
    counts += [f"{skipped} skipped"] if skipped else []
    typer.echo(f"{', '.join(counts)}: {output / FILE_NAME}")


def _layers(text: str | None) -> Layers | None:
    if text is None:
        return None
    if text == "all":
        return "all"
    if not text.isdigit():
        raise typer.BadParameter(f"layers must be a number or 'all', not {text!r}.")
    return int(text)


def _load(question: "Question", device: str) -> "Explainer":
    """Load the model of a question and check that it accepts the question.

    Raises:
        LegradError: there is no such model, or it does not accept a prompt or an option.
    """
    from legrad_engine import Explainer

    reference = question.reference
    reference.check()
    explainer = Explainer.load(reference.name, reference.pretrained, device=device)
    question.check(explainer)
    return explainer


def _print(table: "Table") -> None:
    from rich.console import Console

    Console().print(table)


@contextlib.contextmanager
def _progress_bar(total: int) -> "Iterator[Callable[[], object]]":
    """Show a progress bar on stderr and yield the function that advances it."""
    from rich.console import Console
    from rich.progress import Progress

    # Messages that are printed meanwhile are not wrapped, so that paths in them can be copied.
    with Progress(console=Console(stderr=True, soft_wrap=True)) as progress:
        task = progress.add_task("Explaining", total=total)
        yield partial(progress.advance, task)


def _fail(error: Exception) -> NoReturn:
    typer.echo(str(error), err=True)
    raise typer.Exit(2) from error
