"""The table of outcomes, as rows and as a page of the documentation."""

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.attack.outcomes import Outcome

COLUMNS = ("kind", "case", "status", "seconds", "MB", "light p99 / s", "verdict")
"""Heads of the columns."""

_BEFORE_COLUMNS = ("before: status", "seconds", "light p99 / s", "verdict")

_HEAD = """# Attacks

`make attack TABLE=docs/attacks.md` writes this page;
[Operations](operations.md#attacks-and-fuzzing) describes the cases.
"""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of one run.

    Attributes:
        alone: the times of a light caller alone, as text.
        outcomes: the outcomes of all cases.
    """

    alone: str
    outcomes: list[Outcome]

    @classmethod
    def read(cls, path: Path) -> "Report":
        """Read the JSON file of a run."""
        told: dict[str, Any] = json.loads(path.read_text())
        return cls(told["alone"], [Outcome(**each) for each in told["outcomes"]])

    def write(self, path: Path) -> None:
        """Write the run as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"alone": self.alone, "outcomes": [each.as_json() for each in self.outcomes]}
        path.write_text(json.dumps(told, indent=2) + "\n")


def cells(outcome: Outcome) -> tuple[str, ...]:
    """Return the row of a case."""
    return (
        outcome.kind,
        outcome.name,
        outcome.statuses,
        f"{outcome.seconds:.2f}",
        f"{outcome.megabytes:.0f}",
        "" if outcome.light_p99 is None else f"{outcome.light_p99:.2f}",
        outcome.reason or "holds",
    )


def page(report: Report, before: Report | None) -> str:
    """Return the page of the documentation.

    Args:
        report: the outcomes of this version.
        before: those of another version, for a comparison.
    """
    return "\n".join(_lines(report, before)) + "\n"


def _lines(report: Report, before: Report | None) -> Iterator[str]:
    yield _HEAD
    yield (
        f"Measured on {platform.machine()} with {os.cpu_count()} cores and a load of "
        f"{os.getloadavg()[2]:.1f} over the last 15 minutes, the attack included."
    )
    yield f"A light caller alone: {report.alone}."
    columns: tuple[str, ...] = COLUMNS
    earlier: dict[tuple[str, str], Outcome] = {}
    if before is not None:
        yield f"Before, in another version: {before.alone}."
        columns += _BEFORE_COLUMNS
        earlier = {(each.kind, each.name): each for each in before.outcomes}
    yield ""
    yield f"| {' | '.join(columns)} |"
    yield "|" + " --- |" * len(columns)
    for each in report.outcomes:
        row: tuple[str, ...] = cells(each)
        if before is not None:
            row += _cells_before(earlier.get((each.kind, each.name)))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _cells_before(outcome: Outcome | None) -> tuple[str, ...]:
    if outcome is None:
        return ("",) * len(_BEFORE_COLUMNS)
    _, _, status, seconds, _, light, verdict = cells(outcome)
    return status, seconds, light, verdict
