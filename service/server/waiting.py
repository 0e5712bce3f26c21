"""Connections that wait for their clients, so that one of them can give way to a new one."""

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Waits(Protocol):
    """A connection, as far as its place among others depends on it."""

    @property
    def has_unread_answer(self) -> bool:
        """Whether the client has not read all of the last answer."""


_Connection = TypeVar("_Connection", bound=Waits)


@dataclass
class _Held(Generic[_Connection]):
    """The connections of one address that wait, by their turns, the longest wait first."""

    idle: dict[_Connection, int] = field(default_factory=dict)
    heads: dict[_Connection, int] = field(default_factory=dict)


class WaitingConnections(Generic[_Connection]):
    """Knows the open connections of each address, and which of them wait.

    A choice takes a time that grows with the number of addresses, and not of connections: a server
    at its limit makes one for each connection that somebody opens.
    """

    def __init__(self) -> None:
        self._open: Counter[str | None] = Counter()
        self._waiting: defaultdict[str | None, _Held[_Connection]] = defaultdict(_Held)
        self._turns = itertools.count()

    def add(self, address: str | None) -> None:
        """Count a new connection of an address."""
        self._open[address] += 1

    def remove(self, connection: _Connection, address: str | None) -> None:
        """Forget a connection that was closed."""
        self.begin_work(connection, address)
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
            self._waiting.pop(address, None)

    def begin_idleness(self, connection: _Connection, address: str | None) -> None:
        """Note that a connection waits between two requests."""
        self.begin_work(connection, address)
        self._waiting[address].idle[connection] = next(self._turns)

    def await_head(self, connection: _Connection, address: str | None) -> None:
        """Note that a connection waits for the head of a request."""
        self.begin_work(connection, address)
        self._waiting[address].heads[connection] = next(self._turns)

    def begin_work(self, connection: _Connection, address: str | None) -> None:
        """Note that a connection waits no more, or has been chosen to be closed."""
        held = self._waiting[address]
        held.idle.pop(connection, None)
        held.heads.pop(connection, None)

    def choose(self, address: str | None) -> tuple[_Connection, bool] | None:
        """Choose a connection that gives way to a new one of an address.

        The address with the most connections gives up the one that was idle for longest. One that
        waits for the head of a request is given up only for an address with fewer connections.

        Returns:
            The connection and whether it is idle; None if none gives way.
        """
        own = self._open[address]
        best: tuple[int, bool, int] | None = None
        chosen: _Connection | None = None
        for other, count in self._open.items():
            if best is not None and count < -best[0]:
                continue
            held = self._waiting[other]
            idle = next((each for each in held.idle if not each.has_unread_answer), None)
            if idle is not None:
                rank, found = (-count, False, held.idle[idle]), idle
            elif held.heads and count > own:
                found = next(iter(held.heads))
                rank = (-count, True, held.heads[found])
            else:
                continue
            if best is None or rank < best:
                best, chosen = rank, found
        if best is None or chosen is None:
            return None
        return chosen, not best[1]
