"""`python -m tests.chaos`: faults at random, drawn by a seed, under mixed traffic.

Two replicas run behind the deployed balancer. The exit status is 1 if an invariant does not hold.
"""

import secrets
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.telemetry.logs import configure_logs
from tests.chaos.running import run
from tests.chaos.verdicts import fault_rows, verdicts

_MOST_LINES = 20


def main(
    seed: Annotated[int | None, typer.Option(help="Decides the faults; drawn if unset.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long faults are injected.")] = 600,
    output: Annotated[Path, typer.Option(help="Folder of the journal.")] = Path("build/chaos"),
) -> None:
    """Inject faults into two replicas behind their balancer, and check what callers see."""
    console = Console()
    configure_logs("error")
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    output.mkdir(parents=True, exist_ok=True)
    journal = output / f"{seed}.jsonl"
    console.print(f"Seed {seed}, {seconds:g} s of faults, journal {journal}")
    with console.status("Faults are injected"):
        found = run(seed, seconds, journal)
    table = Table("fault", "times", "problems of requests", "recovery", "verdict")
    rows = fault_rows(found)
    for row in rows:
        table.add_row(
            row.name, str(row.times), row.outcome, f"{row.recovery:.1f} s", _verdict(row.broken)
        )
    console.print(table)
    table = Table("invariant", "seen", "verdict")
    judged = verdicts(found)
    for verdict in judged:
        table.add_row(verdict.invariant, verdict.seen, _verdict(verdict.broken))
    console.print(table)
    broken = [line for row in rows for line in row.broken]
    broken += [line for verdict in judged for line in verdict.broken]
    for line in broken[:_MOST_LINES]:
        console.print(f"- {line}", markup=False)
    if len(broken) > _MOST_LINES:
        console.print(f"- and {len(broken) - _MOST_LINES} more")
    if broken:
        console.print(f"Replay: make chaos SEED={seed} SECONDS={seconds:g}")
        raise typer.Exit(1)


def _verdict(broken: list[str]) -> str:
    return "holds" if not broken else f"[red]broken x {len(broken)}[/]"


if __name__ == "__main__":
    typer.run(main)
