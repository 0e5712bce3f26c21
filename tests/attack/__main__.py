"""`python -m tests.attack`: attack a server, print a table, write it as JSON.

The exit status is 1 if a case gets a wrong answer, takes too long or too much memory, or if the
server does not answer as before in the end.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from legrad_engine.models import STARTER
from service.telemetry.logs import configure_logs
from tests.attack.bodies import ATTACKER
from tests.attack.cases import cases
from tests.attack.connections import LIMIT_SECONDS, scenarios
from tests.attack.inside import key_timing, url_cases
from tests.attack.measuring import Light, attack, beside_heavy_callers, measured
from tests.attack.outcomes import Outcome
from tests.attack.own_servers import own_servers
from tests.attack.reporting import COLUMNS, Report, cells, page
from tests.support.api_keys import entry, listed
from tests.support.running_server import LEGRAD, Server

_HEAVY = 24
_LIGHT = "the key of a light caller"
_IMAGE_PIXELS = 4_000_000


def main(
    only: Annotated[str, typer.Option(help="Run only cases whose kind or name has this.")] = "",
    callers: Annotated[int, typer.Option(min=1, help="Attackers at once.")] = 3,
    output: Annotated[Path, typer.Option(help="The JSON file.")] = Path("build/attack.json"),
    table: Annotated[Path | None, typer.Option(help="A Markdown page of the table.")] = None,
    before: Annotated[
        Path | None, typer.Option(help="The JSON file of another version, for the page.")
    ] = None,
    program: Annotated[
        str, typer.Option(help="The `legrad` of another version, for a comparison.")
    ] = str(LEGRAD),
) -> None:
    """Attack a server of its own with every case, one after the other."""
    console = Console()
    configure_logs("error")
    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        verdict = "holds" if outcome.holds else f"[red]{outcome.reason}[/]"
        console.print(f"{outcome.kind}: {outcome.name}: {verdict}", highlight=False)

    light = _attack_server(only, callers, program, console, note)
    # Those inside this process attack this version.
    if program == str(LEGRAD):
        if only in "keys timing":
            note(key_timing())
        with tempfile.TemporaryDirectory() as folder:
            for outcome in url_cases(Path(folder), only):
                note(outcome)
    for outcome in own_servers(only, program):
        note(outcome)
    console.print(_shown(outcomes))
    report = Report(light, outcomes)
    report.write(output)
    if table is not None:
        table.write_text(page(report, Report.read(before) if before else None))
    broken = [each for each in outcomes if not each.holds]
    console.print(f"{len(outcomes) - len(broken)} of {len(outcomes)} cases hold; {output}")
    raise typer.Exit(1 if broken else 0)


def _attack_server(
    only: str, callers: int, program: str, console: Console, note: Callable[[Outcome], None]
) -> str:
    """Attack one server with the cases that need none of their own.

    Returns:
        The times of a light caller alone, as text.
    """
    heavy = [f"heavy {number}" for number in range(_HEAVY)]
    keys = listed(
        entry("attacker", ATTACKER, "explain"),
        entry("light", _LIGHT, "explain", "metrics"),
        *(entry(f"heavy-{number}", key, "explain") for number, key in enumerate(heavy)),
    )
    with Server(
        STARTER,
        program=[program],
        api_keys=keys,
        compute_threads=torch.get_num_threads(),
        max_image_pixels=_IMAGE_PIXELS,
        head_timeout_seconds=LIMIT_SECONDS,
        send_timeout_seconds=LIMIT_SECONDS,
        log_level="error",
    ) as server:
        server.client.headers["Authorization"] = f"Bearer {_LIGHT}"
        server.wait_for_health()
        light = Light(server, _LIGHT)
        alone = light.alone(heavy[0])
        console.print(f"A light caller alone: {alone}")
        for case in cases():
            if only in f"{case.kind} {case.name}":
                note(attack(server, case, light, callers))
        for name, act in scenarios(server).items():
            if only in f"connections {name}":
                note(measured(server, light, "connections", name, act))
        if only in "fairness heavy callers":
            note(beside_heavy_callers(server, heavy, light))
        server.wait_for_health()
    return alone


def _shown(outcomes: list[Outcome]) -> Table:
    table = Table(*COLUMNS)
    for each in outcomes:
        table.add_row(*cells(each))
    return table


if __name__ == "__main__":
    typer.run(main)
