"""Report of measurements: a table for people and a JSON file for programs."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

Bound = Literal["at most", "at least"]
_SIGNS: dict[Bound, str] = {"at most": "<=", "at least": ">="}


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure.

    Attributes:
        case: description of the measurement; for a ratio, with numerator and denominator.
        measured: the figure; a ratio of medians unless the case says otherwise.
        target: the figure to reach; None if it is only reported.
        bound: side of the target on which the figure must be.
        floor: bound by the arithmetic alone, if known.
        unit: ``"x"`` for a ratio, else the figure's unit.
        details: medians and samples behind the figure.
    """

    case: str
    measured: float
    target: float | None = None
    bound: Bound = "at most"
    floor: float | None = None
    unit: str = "x"
    details: dict[str, object] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``"reached"``, ``"missed"``, or ``"reported"`` if there is no target."""
        if self.target is None:
            return "reported"
        within = self.measured <= self.target
        if self.bound == "at least":
            within = self.measured >= self.target
        return "reached" if within else "missed"

    @property
    def target_text(self) -> str:
        """The target with its side; empty without a target."""
        return "" if self.target is None else f"{_SIGNS[self.bound]} {self.target:g}"


def environment() -> dict[str, object]:
    """Describe the conditions of the measurement, including the machine's other load."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": version("open_clip_torch"),
    }


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table."""
    table = Table("case", "must reach", "floor", "measured", "verdict")
    colours = {"reached": "green", "missed": "red", "reported": "default"}
    for row in rows:
        table.add_row(
            row.case,
            row.target_text,
            "" if row.floor is None else f"{row.floor:g}",
            f"{row.measured:.4g} {row.unit}",
            f"[{colours[row.verdict]}]{row.verdict}",
        )
    console.print(table)


def write(
    rows: Sequence[Row], path: Path, before: dict[str, object], after: dict[str, object]
) -> None:
    """Write the rows with the environment before and after the measurement."""
    document = {
        "environment": before,
        "load_average_after": after["load_average"],
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
