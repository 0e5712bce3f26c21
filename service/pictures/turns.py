"""Jobs that wait for a picture process: owners take turns, and so do the requests of each."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, Literal, TypeVar

from service.batching.shares import fair_total

_Job = TypeVar("_Job")

Work = Literal["draw", "decode"]
# Drawing goes first: it finishes a request, decoding begins one.
BY_URGENCY: tuple[Work, ...] = ("draw", "decode")
# Waiting jobs that count in the rank of an owner: more make no difference.
_MOST_RANKED = 8


class _Line(Generic[_Job]):
    """The waiting jobs of one owner.

    Attributes:
        taken: number of its jobs that were taken, on a clock that all owners share.
        waiting: number of its waiting jobs, by kind of work.
        jobs: its waiting jobs, by kind of work and by request.
    """

    def __init__(self, taken: int) -> None:
        self.taken = taken
        self.waiting: Counter[Work] = Counter()
        self.jobs: dict[Work, OrderedDict[object, deque[_Job]]] = {
            work: OrderedDict() for work in BY_URGENCY
        }

    @property
    def rank(self) -> int:
        return self.taken + min(self.waiting.total(), _MOST_RANKED)

    def add(self, work: Work, request: object, job: _Job) -> None:
        self.jobs[work].setdefault(request, deque()).append(job)
        self.waiting[work] += 1

    def remove(self, work: Work, request: object, job: _Job) -> None:
        requests = self.jobs[work]
        requests[request].remove(job)
        self.waiting[work] -= 1
        if not requests[request]:
            del requests[request]

    def take(self, fits: Callable[[_Job], bool]) -> _Job | None:
        for work in BY_URGENCY:
            for request, jobs in self.jobs[work].items():
                job = next((each for each in jobs if fits(each)), None)
                if job is not None:
                    self.remove(work, request, job)
                    if request in self.jobs[work]:
                        self.jobs[work].move_to_end(request)
                    return job
        return None


class Turns(Generic[_Job]):
    """Waiting jobs, by owner, kind of work and request.

    Each owner has a score: the number of jobs that it was given, plus that of its waiting jobs, at
    most eight. The next job is one of the owner with the lowest score. So an owner with few jobs
    waits for the running jobs only, and owners that always have jobs are given equally many. A new
    or returning owner starts with at least the lowest number of given jobs among the others, so
    that an absence gives no credit.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, _Line[_Job]] = OrderedDict()
        # Jobs that are carried out again, before all others.
        self._again: deque[tuple[Work, _Job]] = deque()
        # Lowest number of given jobs among owners with waiting ones; higher ones of absent owners.
        self._taken = 0
        self._ahead: dict[Hashable, int] = {}

    def count(self, work: Work) -> int:
        """Return the number of waiting jobs of a kind."""
        again = sum(each == work for each, _ in self._again)
        return again + sum(line.waiting[work] for line in self._lines.values())

    def ahead(self, work: Work, owner: Hashable, count: int) -> float:
        """Return how many jobs of a kind are taken until an owner's and ``count`` more are."""
        waiting = {each: line.waiting[work] for each, line in self._lines.items()}
        return fair_total(waiting, owner, count)

    def add(
        self,
        owner: Hashable,
        work: Work,
        job: _Job,
        *,
        request: object = None,
        first: bool = False,
    ) -> None:
        """Add a job behind the others of its request, or before all others.

        Args:
            owner: owners take turns.
            work: the kind of work.
            job: the job.
            request: the owner's requests take turns; those without one are the same.
            first: whether the job goes before all others.
        """
        if first:
            self._again.append((work, job))
            return
        line = self._lines.get(owner)
        if line is None:
            line = self._lines[owner] = _Line(max(self._taken, self._ahead.pop(owner, 0)))
        line.add(work, request, job)

    def remove(self, owner: Hashable, work: Work, job: _Job, *, request: object = None) -> None:
        """Remove a waiting job."""
        if (work, job) in self._again:
            self._again.remove((work, job))
            return
        self._lines[owner].remove(work, request, job)
        self._leave(owner)

    def take(self, fits: Callable[[_Job], bool]) -> _Job | None:
        """Remove and return the next job that fits, or return None."""
        for repeated in self._again:
            if fits(repeated[1]):
                self._again.remove(repeated)
                return repeated[1]
        for owner, line in sorted(self._lines.items(), key=lambda each: each[1].rank):
            job = line.take(fits)
            if job is not None:
                self._taken = max(self._taken, min(each.taken for each in self._lines.values()))
                line.taken += 1
                self._lines.move_to_end(owner)
                self._leave(owner)
                return job
        return None

    def _leave(self, owner: Hashable) -> None:
        """Forget an owner without waiting jobs, but not that it is ahead of others."""
        line = self._lines[owner]
        if line.waiting.total():
            return
        del self._lines[owner]
        self._ahead[owner] = line.taken
        if not self._lines:
            self._taken = 0
            self._ahead.clear()
        elif len(self._ahead) > 2 * len(self._lines):
            self._ahead = {each: had for each, had in self._ahead.items() if had > self._taken}
