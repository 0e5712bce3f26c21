"""The choice of models to evict: the least recently used ones without work."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IdleModel:
    """A loaded model with no work in flight or queued.

    Attributes:
        id: the model's id.
        bytes: memory that unloading it frees.
        last_used: time of its last use, on any clock.
    """

    id: str
    bytes: int
    last_used: float


def models_to_evict(idle: Iterable[IdleModel], excess_bytes: int) -> tuple[str, ...] | None:
    """Choose the least recently used models, no more than needed to free the excess.

    Returns:
        Ids, the least recently used first; empty without an excess. None if even all idle models
        free too little.
    """
    chosen: list[str] = []
    for model in sorted(idle, key=lambda each: each.last_used):
        if excess_bytes <= 0:
            break
        chosen.append(model.id)
        excess_bytes -= model.bytes
    return tuple(chosen) if excess_bytes <= 0 else None
