"""Jobs that wait for a picture process: requests take turns, and drawing goes first."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

_Job = TypeVar("_Job")

Work = Literal["draw", "decode"]
# Drawing goes first: it finishes a request, decoding begins one.
BY_URGENCY: tuple[Work, ...] = ("draw", "decode")


class Turns(Generic[_Job]):
    """Waiting jobs, by kind of work and by request."""

    def __init__(self) -> None:
        self._waiting: dict[Work, OrderedDict[object, deque[_Job]]] = {
            work: OrderedDict() for work in BY_URGENCY
        }

    def count(self, work: Work) -> int:
        """Return the number of waiting jobs of a kind."""
        return sum(map(len, self._waiting[work].values()))

    def add(self, owner: object, work: Work, job: _Job, *, first: bool = False) -> None:
        """Add a job behind the others of its request, or before all others of its kind."""
        queue = self._waiting[work]
        jobs = queue.setdefault(owner, deque())
        if first:
            jobs.appendleft(job)
            queue.move_to_end(owner, last=False)
        else:
            jobs.append(job)

    def remove(self, owner: object, work: Work, job: _Job) -> None:
        """Remove a waiting job."""
        queue = self._waiting[work]
        queue[owner].remove(job)
        if not queue[owner]:
            del queue[owner]

    def take(self, fits: Callable[[_Job], bool]) -> _Job | None:
        """Remove and return the next job that fits, or return None.

        The request whose turn it was is behind all others then.
        """
        for work in BY_URGENCY:
            for owner, jobs in self._waiting[work].items():
                job = next((each for each in jobs if fits(each)), None)
                if job is not None:
                    self.remove(owner, work, job)
                    if owner in self._waiting[work]:
                        self._waiting[work].move_to_end(owner)
                    return job
        return None
