"""The command `legrad bulk`. Importing it loads neither torch nor Ray."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from legrad_engine.errors import LegradError
from legrad_engine.methods import DEFAULT_METHOD
from legrad_engine.models.schemes import STARTER
from service.bulk.commands.options import (
    FitOption,
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
    read_layers,
    read_presence,
    read_prompt_options,
)

if TYPE_CHECKING:
    from legrad_engine import Explainer
    from service.bulk.jobs.run import Job, Summary
    from service.bulk.questions import Question

_MOST_PICTURES = 4096


def bulk(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Folder, s3://, gs:// or any other URI of fsspec: pictures, webdataset shards "
            "(.tar) or Parquet files with bytes or URIs.",
        ),
    ],
    prompt: PromptArgument = None,
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="Folder or URI for the files of rows; required."),
    ] = "",
    prompts: PromptsOption = None,
    column: Annotated[
        str | None,
        typer.Option(help="Column of Parquet files that holds bytes or URIs, if several might."),
    ] = None,
    model: ModelOption = STARTER,
    method: MethodOption = DEFAULT_METHOD,
    layers: LayersOption = None,
    score: ScoreOption = None,
    size: SizeOption = None,
    fit: FitOption = "squash",
    presence: PresenceOption = None,
    maps: Annotated[
        Literal["float16", "float32"], typer.Option(help="Type of the maps' values.")
    ] = "float32",
    batch: Annotated[
        int, typer.Option(min=1, max=_MOST_PICTURES, help="Most pictures in one forward pass.")
    ] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps, in each process.")] = "auto",
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster, HOST:PORT or auto; a local one is started by default."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that hold the model; one for each GPU, or for each machine, by "
            "default.",
        ),
    ] = None,
) -> None:
    """Explain the pictures of a folder or object store with Ray Data, into Parquet.

    The same command resumes an interrupted job. The exit status is 0 once every picture has its
    row, and not every row has an error; a picture that cannot be explained has a row with the
    reason.
    """
    from service.bulk.jobs.errors import JobError
    from service.bulk.prompts import UnreadablePromptsError
    from service.bulk.questions import Question

    if not output:
        raise typer.BadParameter("say where the rows go: -o FOLDER or -o s3://BUCKET/PREFIX.")
    chosen_layers = read_layers(layers)
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
            presence=read_presence(presence),
        )
        run = _runner()
        from service.bulk.jobs.run import Job

        job = Job(source, output, question, column, maps, batch, device, address, workers)
        # The job's processes load the model where they compute.
        summary = run(job, partial(load_model, device="cpu"))
    except (JobError, LegradError, OSError, UnreadablePromptsError) as error:
        fail(error)
    except KeyboardInterrupt:
        typer.echo("Interrupted: run the same command again to go on.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(_told(summary))
    if not summary.is_complete:
        raise typer.Exit(1)


def _runner() -> "Callable[[Job, Callable[[Question], Explainer]], Summary]":
    """Import the job.

    Raises:
        JobError: a package is missing.
    """
    from service.bulk.jobs.errors import JobError

    try:
        import pyarrow  # noqa: F401 # only to see that it is there

        from service.bulk.jobs.run import run
    except ImportError as error:
        raise JobError(
            f"`legrad bulk` needs packages that are not installed ({error.name}): "
            "pip install 'legrad-service[ray]'."
        ) from error
    return run


def _told(summary: "Summary") -> str:
    counts = [f"{summary.explained} explained"]
    for number, told in (
        (summary.known, "done before"),
        (summary.failed, "failed"),
        (summary.skipped, "skipped"),
        (summary.repeated, "repeated"),
    ):
        counts += [f"{number} {told}"] if number else []
    rows = f"{summary.rows} rows of {summary.inputs} pictures"
    return f"{', '.join(counts)}; {rows}: {summary.output}"
