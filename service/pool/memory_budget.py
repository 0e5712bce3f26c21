"""Which models make room for another: the least recently used of those that nobody uses."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IdleModel:
    """A loaded model with no work in flight or queued.

    Attributes:
        id: which model.
        bytes: what unloading it gives back.
        last_used: when it was last used, on any clock.
    """

    id: str
    bytes: int
    last_used: float


def models_to_evict(idle: Iterable[IdleModel], excess_bytes: int) -> tuple[str, ...] | None:
    """The fewest least recently used models whose bytes cover the excess.

    Returns:
        Ids, the least recently used first; none where there is no excess. None where even all of
        them are too few.
    """
    chosen: list[str] = []
    for model in sorted(idle, key=lambda each: each.last_used):
        if excess_bytes <= 0:
            break
        chosen.append(model.id)
        excess_bytes -= model.bytes
    return tuple(chosen) if excess_bytes <= 0 else None
