"""The command line of the program `legrad`.

Only the program's own options are imported here. Each command imports the rest once it uses it, so
that ``--help``, ``key``, wrong settings and a folder run with nothing left to do answer at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from legrad_engine.errors import LegradError
from legrad_engine.importing import frozen_after
from legrad_engine.models.schemes import STARTER
from service.bulk.commands.asking import ask
from service.bulk.commands.calibration import calibrate
from service.bulk.commands.check import check
from service.bulk.commands.explaining import explain
from service.bulk.commands.options import MODEL_HELP
from service.bulk.console import fail, print_table
from service.bulk.evaluation.command import evaluate
from service.bulk.jobs.command import bulk

# Help in plain text: rich would be imported for it, which takes longer than all the rest.
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(metadata.version("legrad-service"))
        raise typer.Exit


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
        typer.Option(help=MODEL_HELP + " ID=MODEL gives it an id. Repeat for several."),
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
        # Options override environment variables before their validation.
        settings = Settings.model_validate(options)
        with frozen_after():
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


app.command()(explain)


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
        fail(error)
    typer.echo(str(target))


app.command()(bulk)
app.command()(evaluate)
app.command()(check)
app.command()(calibrate)
app.command()(ask)


@app.command()
def models(
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also list models that are not supported, with the reason."),
    ] = False,
) -> None:
    """List the supported models of open_clip with their tags, and the classes of transformers."""
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
    print_table(table)


@app.command()
def methods() -> None:
    """List the explanation methods."""
    from rich.table import Table

    from legrad_engine.methods.registry import methods as registered

    table = Table("Method", "Map", "Depends on the prompt", "Source", show_lines=True)
    for method in registered():
        targeted = "yes" if method.targeted else "no"
        table.add_row(method.name, method.description, targeted, method.source)
    print_table(table)


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
        fail(error)
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
