"""Command ``python -m benchmarks.accelerator``: measures a GPU in a few minutes."""

import gc
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks import report
from benchmarks.accelerator import accuracy, cards, page, serving, speed
from benchmarks.accelerator.budget import Budget, TimeUp
from benchmarks.accelerator.findings import Findings
from legrad_engine.devices import (
    automatic_dtype,
    disable_cudnn_attention,
    release_cached_memory,
)

NO_DEVICE = 2
# Of the time that is left, in the order of the parts; what one saves is for the next ones.
_ACCURACY_SHARE, _SPEED_SHARE, _SERVING_SHARE = 0.2, 0.45, 0.9


def main(
    output: Annotated[Path, typer.Option(help="The Markdown page.")] = Path(
        "docs/figures-accelerator.md"
    ),
    data: Annotated[Path, typer.Option(help="The JSON file.")] = Path(
        "docs/figures-accelerator.json"
    ),
    minutes: Annotated[float, typer.Option(min=0.1, help="Longest duration.")] = 8.0,
) -> None:
    """Compare, time and serve models on the first CUDA device, and write the figures."""
    budget = Budget(60 * minutes)
    if not torch.cuda.is_available():
        typer.echo(
            "This machine has no CUDA device that torch can use: nothing measured.", err=True
        )
        raise typer.Exit(NO_DEVICE)
    device = torch.device("cuda", 0)
    # As the service chooses them.
    dtype = automatic_dtype([device])
    disable_cudnn_attention([device])
    described = cards.describe(device, dtype)
    day = datetime.now(UTC).date().isoformat()
    findings = Findings(described | report.environment() | {"day": day})
    run(findings, budget, parts_of(device, dtype, findings))
    page.write(findings, output, data)
    typer.echo(f"Written to {output} and {data}")


Part = tuple[str, float, Callable[[Budget], None]]


def parts_of(device: torch.device, dtype: torch.dtype, findings: Findings) -> list[Part]:
    """Return the parts: name, share of the time that is left, and measurement."""
    peak = findings.environment["peak_flops"]
    if not isinstance(peak, float):
        raise TypeError("the peak must be a number")

    def agree(budget: Budget) -> None:
        accuracy.measure(device, budget, findings)

    def race(budget: Budget) -> None:
        speed.measure(device, dtype, peak, budget, findings)

    def serve(budget: Budget) -> None:
        serving.measure(device, dtype, budget, findings)

    return [
        ("agreement", _ACCURACY_SHARE, agree),
        ("speed", _SPEED_SHARE, race),
        ("service", _SERVING_SHARE, serve),
    ]


def run(findings: Findings, budget: Budget, parts: list[Part]) -> None:
    """Run the parts, each within its share; keep what a part has found if it fails."""
    handler = _Warnings(findings)
    logging.getLogger("legrad_engine").addHandler(handler)
    try:
        for name, share, measure in parts:
            part = budget.part(share)
            typer.echo(f"{name}: at most {part.left:.0f} s")
            try:
                with part.enforced():
                    measure(part)
            except TimeUp:
                findings.not_measured.append(f"the rest of {name}: the time was over")
            except Exception as error:
                findings.not_measured.append(f"{name}: {type(error).__name__}: {error}")
            # Graphs and their model refer to each other. The next part needs the memory.
            gc.collect()
            release_cached_memory()
    finally:
        logging.getLogger("legrad_engine").removeHandler(handler)


class _Warnings(logging.Handler):
    """Keeps the warnings of the engine, such as that of a kernel that could not be compiled."""

    def __init__(self, findings: Findings) -> None:
        super().__init__(logging.WARNING)
        self._findings = findings

    def emit(self, record: logging.LogRecord) -> None:
        self._findings.warnings.append(record.getMessage())


if __name__ == "__main__":
    typer.run(main)
