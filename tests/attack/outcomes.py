"""The outcomes of attacks."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one case.

    Attributes:
        kind: what was attacked.
        name: name of the case within its kind.
        statuses: statuses of the answers, with their numbers.
        seconds: the longest time until an answer.
        megabytes: growth of the memory of the server and its processes together, at its peak.
        light_p99: 99th percentile of a light caller's seconds meanwhile; None if not measured.
        reason: why the case does not hold; empty if it does.
    """

    kind: str
    name: str
    statuses: str
    seconds: float
    megabytes: float
    light_p99: float | None
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether the server withstood the attack."""
        return not self.reason

    def as_json(self) -> dict[str, Any]:
        """Return the outcome, from which another one can be made."""
        return asdict(self)


@dataclass(slots=True)
class Finding:
    """The result of an attack itself, without what is measured beside it.

    Attributes:
        statuses: how often each status was answered.
        seconds: the longest time until an answer.
        reasons: why it does not hold.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    reasons: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        """The statuses with their numbers, as text."""
        return ", ".join(
            f"{status}" if count == 1 else f"{status} x {count}"
            for status, count in sorted(self.statuses.items())
        )
