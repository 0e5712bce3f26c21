"""Command ``python -m benchmarks``: measures, prints a table and writes JSON."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks import (
    against_peers,
    engine,
    fairness,
    families,
    feed,
    fidelity,
    http,
    memory,
    methods,
    overload,
    picture_pools,
    report,
    workload,
)
from benchmarks.report import Row


class Part(StrEnum):
    """Group of rows."""

    ENGINE = "engine"
    FAMILIES = "families"
    METHODS = "methods"
    FIDELITY = "fidelity"
    REFERENCE = "reference"
    MEMORY = "memory"
    HTTP = "http"
    FEED = "feed"
    POOLS = "pools"
    PEERS = "peers"
    OVERLOAD = "overload"
    FAIRNESS = "fairness"


def main(
    output: Annotated[Path, typer.Option(help="The JSON file.")] = Path("benchmarks/results.json"),
    part: Annotated[
        list[Part] | None, typer.Option(help="Measure only this part; may be repeated.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measured rounds of each pair.")] = 15,
    quick: Annotated[
        bool, typer.Option("--quick", help="One round of each, to check that every part runs.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for torch, on both sides.")
    ] = None,
) -> None:
    """Measure models with seeded random weights in float32 on the CPU."""
    console = Console()
    if threads is not None:
        torch.set_num_threads(threads)
    rounds = 1 if quick else repeats
    parts = part or list(Part)
    before = report.environment()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / f"{workload.ARCHITECTURE}.safetensors"
        workload.write_weights(weights)
        measures = {
            Part.ENGINE: lambda: engine.measure_over_plain(weights, rounds),
            Part.FAMILIES: lambda: families.measure(rounds),
            Part.METHODS: lambda: methods.measure(weights, rounds),
            Part.FIDELITY: lambda: fidelity.measure(),
            # A third of the rounds, because the reference is slow and its ratio is large.
            Part.REFERENCE: lambda: engine.measure_against_reference(weights, max(1, rounds // 3)),
            Part.MEMORY: lambda: memory.measure(weights, min(rounds, 3)),
            Part.HTTP: lambda: http.measure(weights, rounds),
            Part.FEED: lambda: feed.measure(rounds),
            Part.POOLS: lambda: picture_pools.measure(),
            Part.PEERS: lambda: against_peers.measure(rounds),
            Part.OVERLOAD: lambda: overload.measure(weights, rounds),
            Part.FAIRNESS: lambda: fairness.measure(quick=quick),
        }
        for each in parts:
            with console.status(f"Measuring: {each}"):
                rows += measures[each]()
    report.show(rows, console)
    report.write(rows, output, before, report.environment())
    console.print(f"Written to {output}")


if __name__ == "__main__":
    typer.run(main)
