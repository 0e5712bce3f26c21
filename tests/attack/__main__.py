"""`python -m tests.attack`: attack a server, print a table, write it as JSON.

The exit status is 1 if a case gets a wrong answer, takes too long or too much memory, or if the
server does not answer as before in the end.
"""

import json
import tempfile
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
from tests.attack.inside import key_timing, url_cases
from tests.attack.measuring import Light, Outcome, attack, beside_heavy_callers
from tests.support.api_keys import entry, listed
from tests.support.running_server import LEGRAD, Server

_HEAVY = 24
_LIGHT = "the key of a light caller"
_IMAGE_PIXELS = 4_000_000


def main(
    only: Annotated[str, typer.Option(help="Run only cases whose kind or name has this.")] = "",
    callers: Annotated[int, typer.Option(min=1, help="Attackers at once.")] = 3,
    output: Annotated[Path, typer.Option(help="The JSON file.")] = Path("build/attack.json"),
) -> None:
    """Attack a server of its own with every case, one after the other."""
    console = Console()
    configure_logs("error")
    heavy = [f"heavy {number}" for number in range(_HEAVY)]
    keys = listed(
        entry("attacker", ATTACKER, "explain"),
        entry("light", _LIGHT, "explain", "metrics"),
        *(entry(f"heavy-{number}", key, "explain") for number, key in enumerate(heavy)),
    )
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        with Server(
            STARTER,
            program=[str(LEGRAD)],
            api_keys=keys,
            compute_threads=torch.get_num_threads(),
            max_image_pixels=_IMAGE_PIXELS,
            log_level="error",
        ) as server:
            server.client.headers["Authorization"] = f"Bearer {_LIGHT}"
            server.wait_for_health()
            light = Light(server, _LIGHT)
            alone = light.alone()
            console.print(f"A light caller alone: {alone}")
            for case in cases():
                if only in f"{case.kind} {case.name}":
                    with console.status(f"{case.kind}: {case.name}"):
                        outcomes.append(attack(server, case, light, callers))
            if only in "fairness heavy callers":
                outcomes.append(beside_heavy_callers(server, heavy, light))
            server.wait_for_health()
        if only in "keys timing":
            outcomes.append(key_timing())
        outcomes += url_cases(Path(folder), only)
    console.print(_table(outcomes))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps([each.as_json() for each in outcomes], indent=2) + "\n")
    broken = [each for each in outcomes if not each.holds]
    console.print(f"{len(outcomes) - len(broken)} of {len(outcomes)} cases hold; {output}")
    raise typer.Exit(1 if broken else 0)


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("kind", "case", "status", "seconds", "MB", "light p99", "verdict")
    for each in outcomes:
        table.add_row(
            each.kind,
            each.name,
            each.statuses,
            f"{each.seconds:.2f}",
            f"{each.megabytes:.0f}",
            "" if each.light_p99 is None else f"{each.light_p99:.2f}",
            "holds" if each.holds else f"[red]{each.reason}[/]",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
