"""Bounded room that owners share: the part that each owner holds and may take.

Not thread-safe.
"""

import time
from collections.abc import Callable, Hashable, Mapping

# Room beyond the limit, as a part of it, for owners that hold little.
_SPARE = 1 / 8
# After a refusal, others keep to their shares until its owner has come back many times.
_CONTENDED_SECONDS = 30.0
# Relative tolerance: sums of floats depend on the order of addition.
_ROUNDING = 1e-9


class Shares:
    """The room of a queue or of another limit, by owner.

    The share of an owner is nine eighths of the limit, divided by the number of owners that hold
    something plus one: once all have filled their shares, a whole share is free for a new owner.
    Up to the limit, an owner may take

    - its share;
    - more than its share, while no other owner was refused lately: a single owner may use it all;
    - any amount that fits, while it holds nothing: a large request may exceed a share.

    Beyond the limit, an owner may hold as much as it leaves free of the nine eighths, within its
    share. So a new owner finds room at once, owners above their shares shrink to them, and the
    total never exceeds nine eighths of the limit.

    The idea of a threshold that leaves room for others is from A. K. Choudhury, E. L. Hahne:
    Dynamic Queue Length Thresholds for Shared-Memory Packet Switches. IEEE/ACM Trans. Networking 6
    (1998).
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._held: dict[Hashable, float] = {}
        self._total = 0.0
        # The two owners that were refused last, and when.
        self._refused: dict[Hashable, float] = {}

    @property
    def total(self) -> float:
        """Sum of what all owners hold."""
        return self._total

    def held(self, owner: Hashable) -> float:
        """Return what an owner holds."""
        return self._held.get(owner, 0.0)

    def excess(self, owner: Hashable, amount: float, *, admitted: bool = False) -> float:
        """Return how much has to be given back before an owner may take an amount.

        Not positive if the owner may take it now.

        Args:
            owner: the owner.
            amount: what it asks for.
            admitted: whether the amount belongs to a request that holds something already: it needs
                room, and no share.
        """
        held, total = self.held(owner), self._total + amount
        most = self._limit * (1 + _SPARE)
        owners = len(self._held) + (not held)
        beyond_share = held + amount - most / (owners + 1)
        if beyond_share <= 0:
            return min(total - self._limit, held + amount + total - most)
        if admitted or not held or not self._contended(owner):
            return total - self._limit
        # Others give back as much meanwhile, or all that they hold.
        return min(owners * beyond_share, total)

    def refused(self, owner: Hashable) -> None:
        """Note that an owner was refused: others keep to their shares for a while."""
        self._refused.pop(owner, None)
        self._refused[owner] = self._clock()
        if len(self._refused) > 2:
            del self._refused[next(iter(self._refused))]

    def _contended(self, owner: Hashable) -> bool:
        since = self._clock() - _CONTENDED_SECONDS
        return any(at > since for other, at in self._refused.items() if other != owner)

    def add(self, owner: Hashable, amount: float) -> None:
        """Let an owner hold more, or less by a negative amount."""
        held = self.held(owner) + amount
        if held > _ROUNDING * self._limit:
            self._held[owner] = held
        else:
            self._held.pop(owner, None)
        # Float sums drift. Nothing held must be exactly 0, or an item as large as the limit would
        # be refused because of a rounding error.
        self._total = self._total + amount if self._held else 0.0

    def ahead(self, owner: Hashable, amount: float) -> float:
        """Return what all receive until an owner has received what it holds and an amount."""
        return fair_total(self._held, owner, amount)


def fair_total(held: Mapping[Hashable, float], owner: Hashable, amount: float) -> float:
    """Return what all owners receive until one has received what it holds and an amount.

    Under fair sharing each other owner receives as much meanwhile, or all that it holds.

    Args:
        held: what each owner waits for.
        owner: the owner.
        amount: what it asks for in addition, or less by a negative amount.
    """
    own = held.get(owner, 0.0) + amount
    others = sum(min(each, own) for other, each in held.items() if other != owner)
    return own + others
