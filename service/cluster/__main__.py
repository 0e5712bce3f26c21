"""Command ``python -m service.cluster FILE``: checks a configuration file of Ray Serve."""

from pathlib import Path
from typing import Annotated

import typer

from legrad_engine.errors import LegradError
from service.cluster.configuration import mistakes_in


def main(
    file: Annotated[
        Path, typer.Argument(help="A file for `serve run`, or a RayService manifest of KubeRay.")
    ],
) -> None:
    """Check a configuration file of Ray Serve, which itself ignores misspelt keys."""
    try:
        found = mistakes_in(file)
    except LegradError as error:
        found = [str(error)]
    for line in found:
        typer.echo(line, err=True)
    if found:
        raise typer.Exit(2)
    typer.echo(f"{file} can be deployed.")


if __name__ == "__main__":
    typer.run(main)
