"""Progress, sentences and errors of the commands. Importing this module loads no torch."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from legrad_engine.layers import Layers

if TYPE_CHECKING:
    from rich.table import Table

    from legrad_engine import Explainer
    from legrad_engine.presence import PresenceCalibration
    from service.bulk.questions import Question

# The exit status of programs that SIGINT ends, by the convention of shells.
INTERRUPTED = 130
# Smaller changes of a score are none.
_NOTHING = 1e-4


def read_layers(text: str | None) -> Layers | None:
    """Read the option for explained blocks.

    Raises:
        BadParameter: it is neither a number nor `all`.
    """
    if text is None:
        return None
    if text == "all":
        return "all"
    if not text.isdigit():
        raise typer.BadParameter(f"layers must be a number or 'all', not {text!r}.")
    return int(text)


def read_prompt_options(given: Sequence[str] | None, file: Path | None) -> tuple[str, ...]:
    """Read the prompts of the command line and those of a file, each once.

    Raises:
        BadParameter: there is none.
        OSError: the file cannot be read.
        UnreadablePromptsError: the file is not text, or a prompt is the path of a file.
    """
    from service.bulk.prompts import gather_prompts

    texts = gather_prompts(given or (), file)
    if not texts:
        raise typer.BadParameter("give a prompt, or a file of prompts with --prompts.")
    return texts


def read_presence(file: Path | None) -> "PresenceCalibration | None":
    """Read the option for a presence calibration.

    Raises:
        PresenceError: the file cannot be read, or is no calibration.
    """
    if file is None:
        return None
    # Imported here, because it loads NumPy.
    from legrad_engine.presence import PresenceCalibration

    return PresenceCalibration.read(file)


@contextlib.contextmanager
def progress_bar(total: int, title: str) -> Iterator[Callable[[], object]]:
    """Show a progress bar on stderr and yield the function that advances it."""
    from rich.console import Console
    from rich.progress import Progress

    # Messages that are printed meanwhile are not wrapped, so that paths in them can be copied.
    with Progress(console=Console(stderr=True, soft_wrap=True)) as progress:
        task = progress.add_task(title, total=total)
        yield partial(progress.advance, task)


def fail(error: Exception) -> NoReturn:
    """Print an error and end the program with status 2."""
    typer.echo(str(error), err=True)
    raise typer.Exit(2) from error


def print_table(table: "Table") -> None:
    """Print a table on standard output, as wide as the terminal."""
    from rich.console import Console

    Console().print(table)


def load_model(question: "Question", device: str) -> "Explainer":
    """Load the model of a question and check that it accepts the question.

    Raises:
        LegradError: there is no such model, or it does not accept a prompt or an option.
    """
    from legrad_engine import Explainer

    reference = question.reference
    reference.check()
    explainer = Explainer.load(reference, device=device)
    question.check(explainer)
    method = explainer.method(question.method)
    if not method.targeted and len(question.prompts) > 1:
        typer.echo(f"{method.title} gives all prompts of a picture the same map.", err=True)
    return explainer


def trust_in_words(trust: Mapping[str, Any]) -> str:
    """Say in a sentence, as the page does, what the trust of a target means.

    Args:
        trust: the fields of the HTTP answer.
    """
    removed = trust["perturbation"]
    if removed is None:
        return _agreement(trust["agreement"])
    warmest, random, score = removed["warmest"], removed["random"], removed["score"]
    lead = "Removing the warmest fifth"
    if abs(warmest) < _NOTHING:
        return f"{lead} hardly changes the {score}."
    if warmest < 0:
        return f"{lead} raises the {score} by {-warmest:.2g}: the map does not show its evidence."
    if random < _NOTHING:
        return f"{lead} lowers the {score} by {warmest:.2g}; a random fifth does not lower it."
    only = "only " if warmest < random else ""
    return (
        f"{lead} lowers the {score} {only}{warmest / random:.2g} times as much as a random fifth."
    )


def _agreement(agreement: Mapping[str, Any]) -> str:
    told = [
        f"{value:.2f} {name}"
        for name, value in (
            ("with the map of a neutral prompt", agreement["neutral"]),
            ("with the closest map of another prompt", agreement["others"]),
            ("between the maps of the blocks", agreement["blocks"]),
        )
        if value is not None
    ]
    return f"Rank correlation: {', '.join(told)}." if told else "There is no map to compare with."
