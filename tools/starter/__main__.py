"""Training program of the starter model: `python -m tools.starter COMMAND`.

It needs the optional extra `starter`, and npm and a Debian system for the art.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

import legrad_engine.starter
from tools.starter import art
from tools.starter.errors import StarterError

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

_PACKAGE = Path(legrad_engine.starter.__file__).parent
_REPOSITORY = _PACKAGE.parents[1]
_Cache = Annotated[Path, typer.Option(help="Folder for downloads and rendered art.")]
_CACHE = Path("build/starter")
_CORES = os.cpu_count() or 1
_Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes of one thread each; they must divide the scenes of a step. By default one "
        "with a GPU, or as many as the cores allow.",
        show_default=False,
    ),
]
_EvaluatedScenes = Annotated[int, typer.Option(min=1, help="Scenes per measurement.")]


def _sprites(cache: Path) -> art.Sprites:
    return art.sprites_of(cache, typer.echo)


@app.command("art")
def art_command(cache: _Cache = _CACHE) -> None:
    """Fetch the art and the backbone at their pinned versions, and render the sprites."""
    art.fetch(cache)
    art.render(cache)
    sprites = art.load_sprites(cache)
    for style, present in zip(sprites.styles, sprites.present, strict=True):
        typer.echo(f"{style}: {present.sum()} of {len(sprites.concepts)} stickers")


@app.command()
def train(
    cache: _Cache = _CACHE,
    workers: _Workers = None,
    checkpoint_minutes: Annotated[float, typer.Option(help="Time between checkpoints.")] = 2,
) -> None:
    """Train the visual tower; the same command resumes from the last checkpoint."""
    from tools.starter.styles import TRAINING_STYLES
    from tools.starter.training import SCHEDULE, Run, default_workers
    from tools.starter.training import train as run_training

    _sprites(cache)
    run_training(
        Run(
            cache=cache,
            folder=cache / "training",
            styles=TRAINING_STYLES,
            schedule=SCHEDULE,
            workers=workers or default_workers(SCHEDULE, _CORES),
            checkpoint_every=60 * checkpoint_minutes,
        )
    )


@app.command()
def export(
    cache: _Cache = _CACHE,
    folder: Annotated[Path, typer.Option(help="Folder for the weights and concepts.")] = _PACKAGE,
    text_steps: Annotated[int, typer.Option(help="Steps of fitting the text tower.")] = 1500,
) -> None:
    """Fit the text tower to the trained concepts and write the shipped files."""
    from tools.starter.export import write_model

    for line in write_model(_sprites(cache), cache, folder, text_steps):
        typer.echo(line)


@app.command()
def evaluate(
    cache: _Cache = _CACHE,
    output: Annotated[
        Path, typer.Option(help="The Markdown file; the JSON file is written beside it.")
    ] = (_REPOSITORY / "docs" / "starter-evaluation.md"),
    scenes: _EvaluatedScenes = 1000,
) -> None:
    """Measure the shipped model on each family of art and write the tables."""
    from legrad_engine import Explainer
    from tools.starter import evaluation, evaluation_page

    report = evaluation.evaluate(Explainer.load("starter"), _sprites(cache), scenes, typer.echo)
    output.parent.mkdir(parents=True, exist_ok=True)
    text = evaluation_page.to_markdown(report)
    output.write_text(text)
    output.with_suffix(".json").write_text(json.dumps(report.as_dictionary(), indent=2) + "\n")
    typer.echo(text)


@app.command("left-out")
def left_out_command(
    cache: _Cache = _CACHE,
    output: Annotated[
        Path, typer.Option(help="The Markdown file; the JSON file is written beside it.")
    ] = (_REPOSITORY / "docs" / "starter-left-out.md"),
    workers: _Workers = None,
    scenes: _EvaluatedScenes = 300,
) -> None:
    """Train shortly without each family of art in turn, and measure on it.

    Rows that are in the output, of the same trainings and scenes, are kept.
    """
    from tools.starter import left_out
    from tools.starter.training import default_workers

    workers = workers or default_workers(left_out.SHORT, _CORES)
    rows = left_out.read_rows(output.with_suffix(".json"), scenes)
    output.parent.mkdir(parents=True, exist_ok=True)
    for family, row in left_out.leave_one_out(_sprites(cache), cache, workers, scenes, tuple(rows)):
        rows[family] = row
        output.write_text(left_out.to_markdown(rows, scenes))
        output.with_suffix(".json").write_text(left_out.to_json(rows, scenes))
        typer.echo(
            f"{family}: names {row.seen.recognition:.1%} with it, "
            f"{row.unseen.recognition:.1%} without it"
        )


@app.command()
def calibrate(
    cache: _Cache = _CACHE,
    output: Annotated[Path, typer.Option(help="File of the calibration.")] = (
        _PACKAGE / "presence.json"
    ),
    scenes: Annotated[int, typer.Option(help="Number of scenes.")] = 2000,
) -> None:
    """Fit the presence calibration of the shipped model."""
    from legrad_engine import Explainer
    from tools.starter.presence import fit_presence

    calibration = fit_presence(Explainer.load("starter"), _sprites(cache), scenes)
    calibration.write(output)
    typer.echo(
        f"expected calibration error {calibration.calibration_error:.3f}, "
        f"Brier score {calibration.brier:.3f}"
    )


@app.command()
def samples(
    cache: _Cache = _CACHE,
    scenes: Annotated[Path, typer.Option(help="Folder for the test scenes.")] = (
        _REPOSITORY / "tests" / "tools" / "starter" / "scenes"
    ),
    example: Annotated[Path, typer.Option(help="File for the example picture.")] = (
        _PACKAGE / "example.png"
    ),
    gallery: Annotated[Path, typer.Option(help="Folder for the page's gallery.")] = (
        _REPOSITORY / "service" / "web" / "gallery"
    ),
) -> None:
    """Write the committed test scenes, the example picture and the page's gallery again."""
    from tools.starter.gallery import write_example, write_gallery
    from tools.starter.samples import write_test_scenes

    sprites = _sprites(cache)
    write_test_scenes(sprites, scenes)
    write_example(cache, sprites.concepts, example)
    write_gallery(cache, sprites.concepts, gallery)


@app.command("all")
def all_command(
    cache: _Cache = _CACHE, workers: _Workers = None, scenes: _EvaluatedScenes = 1000
) -> None:
    """Make the model from nothing, with all files that belong to it; a finished training is kept.

    It runs art, train, export, calibrate, samples and evaluate. The calibration and the tables are
    of the weights that export wrote, and of no others.
    """
    art_command(cache)
    train(cache, workers)
    export(cache)
    calibrate(cache)
    samples(cache)
    evaluate(cache, scenes=scenes)


if __name__ == "__main__":
    # open_clip warns that a model without weights is random; training starts from one on purpose.
    logging.getLogger().addFilter(lambda record: "No pretrained weights" not in record.getMessage())
    torch.set_num_threads(_CORES)
    try:
        app()
    except StarterError as error:
        sys.exit(f"Error: {error}")
