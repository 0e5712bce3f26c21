"""The command line: ``legrad serve | explain | models | openapi``."""

import re
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.progress import track
from rich.table import Table

from legrad_engine import Explainer, LegradError
from legrad_engine.families import Score
from legrad_engine.geometry import Fit, upsample
from legrad_engine.images import decode
from legrad_engine.layers import Layers
from legrad_engine.models import STARTER, ModelReference, catalogue
from legrad_engine.render import encode_png, normalize, overlay
from legrad_engine.statistics import summarize
from legrad_engine.targets import ClassTarget
from service.app import create_app
from service.server import serve as run_server
from service.settings import Settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="LeGrad heatmaps: where a model looked."
)
_console = Console()
# Not wrapped: paths in messages are there to be copied.
_errors = Console(stderr=True, soft_wrap=True)

_PICTURE_SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif"
}  # fmt: skip

_MODEL_HELP = (
    "`starter`, `NAME/TAG` for open_clip's weights, `NAME@PATH` for a checkpoint, `hf-hub:`, "
    "`local-dir:` or `timm:` names."
)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks one.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help=_MODEL_HELP + " Repeat for several.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
) -> None:
    """Starts the server. Every other setting is an environment variable, LEGRAD_*."""
    given = {"host": host, "port": port, "models": tuple(model) if model else None}
    given["device"] = device
    try:
        settings = Settings.model_validate(
            Settings().model_dump() | {name: v for name, v in given.items() if v is not None}
        )
        run_server(settings)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            name = "_".join(str(part) for part in each["loc"]).upper()
            _errors.print(f"LEGRAD_{name}: {each['msg']}", markup=False)
        raise typer.Exit(2) from error
    except (LegradError, OSError) as error:
        _fail(error)


@app.command()
def explain(
    image: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.")],
    prompts: Annotated[
        list[str],
        typer.Argument(
            help="What to look for: words, or a model's classes by label or index where it reads "
            "no words.",
            metavar="PROMPT...",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the overlays.")] = Path(
        "explanations"
    ),
    model: Annotated[str, typer.Option(help=_MODEL_HELP)] = STARTER,
    layers: Annotated[
        str | None, typer.Option(help="Count of last blocks, or `all`; the last two if none.")
    ] = None,
    score: Annotated[
        Score | None, typer.Option(help="The explained score; the model's own if none.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the model's input, in pixels.")] = None,
    fit: Annotated[Fit, typer.Option(help="How pictures are fitted to it.")] = "squash",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Explains pictures on this machine, without a server, and writes overlays."""
    pictures = _pictures(image)
    chosen_layers = _layers(layers)
    table = Table("Picture", "Prompt", "Similarity", "Probability", "Peak at", "Overlay")
    failed = False
    try:
        reference = ModelReference.parse(model)
        reference.check()
        explainer = Explainer.load(reference.name, reference.pretrained, device=device)
        explainer.resolve_layers(chosen_layers)
        targets = _targets(explainer, prompts)
        output.mkdir(parents=True, exist_ok=True)
    except (LegradError, OSError) as error:
        _fail(error)
    for path in track(pictures, "Explaining", console=_errors, disable=len(pictures) == 1):
        try:
            picture = decode(path)
            (found,) = explainer.explain(
                picture, targets, layers=chosen_layers, score=score, size=size,
                fit=fit,
            )  # fmt: skip
        except LegradError as error:
            failed = True
            _errors.print(f"{path}: {error}", markup=False)
            continue
        heatmaps = normalize(upsample(found.maps, found.geometry, picture.size))
        for index, prompt in enumerate(prompts):
            target = output / f"{path.stem}-{_slug(prompt)}.png"
            target.write_bytes(encode_png(overlay(picture, heatmaps[index])))
            peak = summarize(found.maps[index], found.geometry).peak_position
            table.add_row(
                path.name,
                prompt,
                f"{found.similarities[index]:.3f}",
                f"{found.probabilities[index]:.3f}",
                f"{peak[0]}, {peak[1]}",
                str(target),
            )
    if table.row_count:
        _console.print(table)
    if failed:
        raise typer.Exit(1)


@app.command()
def models(
    everything: Annotated[
        bool, typer.Option("--all", help="Also list what cannot be explained, and why.")
    ] = False,
) -> None:
    """Lists the models that can be explained, with their pretrained tags."""
    table = Table("Model", "Pretrained tags")
    table.add_row(STARTER, "built in")
    for entry in catalogue():
        if entry.refusal is None:
            table.add_row(entry.name, ", ".join(entry.tags) or "none: bring a checkpoint")
        elif everything:
            table.add_row(f"[dim]{entry.name}[/]", f"[dim]{entry.refusal}[/]")
    _console.print(table)


@app.command()
def openapi(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; standard output if none.")
    ] = None,
) -> None:
    """Writes the HTTP contract as OpenAPI 3.1 in YAML."""
    text = contract()
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text)


def contract() -> str:
    """The OpenAPI document of an application with default settings, in YAML."""
    document = create_app(Settings.model_construct()).openapi()
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def _pictures(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in _PICTURE_SUFFIXES)
    if not found:
        _errors.print(f"There is no picture in {path}.", markup=False)
        raise typer.Exit(2)
    return found


def _targets(explainer: Explainer, prompts: list[str]) -> list[str] | list[ClassTarget]:
    if explainer.classifier is None:
        return prompts
    return [ClassTarget(int(text) if text.isdecimal() else text) for text in prompts]


def _layers(text: str | None) -> Layers | None:
    if text is None:
        return None
    if text == "all":
        return "all"
    if not text.isdigit():
        raise typer.BadParameter(f"layers is a number or 'all', not {text!r}.")
    return int(text)


def _slug(prompt: str) -> str:
    return re.sub(r"\W+", "-", prompt.lower()).strip("-")[:60] or "prompt"


def _fail(error: Exception) -> None:
    _errors.print(str(error), markup=False)
    raise typer.Exit(2) from error
