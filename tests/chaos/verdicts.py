"""The invariants: whether what was seen in a run is as promised."""

import time
from collections import Counter
from dataclasses import dataclass

from tests.chaos.probing import LONGEST_LIE_SECONDS, SLACK_SECONDS, Lie, Probe, lies
from tests.chaos.replicas import REQUEST_SECONDS
from tests.chaos.running import Injected, Run
from tests.chaos.traffic import BOUND_SECONDS, LATE, Ended

# Memory that allocators keep for later, beyond the level before.
_MORE_SHARE, _MORE_MEGABYTES = 0.25, 40.0
# Threads of pools that grow when they are first needed, up to their bounds.
_MORE_THREADS = 12
_MORE_DESCRIPTORS = 4
# A machine that is slower by this factor misses deadlines, and the balancer's limits for checks.
_BUSY = 4.0
_OF_A_BUSY_MACHINE = LATE | {"no-replica"}
# Share of requests that miss their deadline although the machine is hardly busy.
_MOST_LATE = 0.01


@dataclass(frozen=True, slots=True)
class Verdict:
    """One invariant.

    Attributes:
        invariant: the promise.
        seen: what was seen.
        broken: each breach of it; empty if it holds.
    """

    invariant: str
    seen: str
    broken: list[str]


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One kind of fault.

    Attributes:
        name: its name.
        times: number of injections.
        outcome: the problems that requests had because of it, with their numbers.
        recovery: longest time until requests succeeded again, in seconds.
        broken: each breach; empty if there is none.
    """

    name: str
    times: int
    outcome: str
    recovery: float
    broken: list[str]


def verdicts(run: Run) -> list[Verdict]:
    """Return the verdict on each invariant."""
    return [
        _once(run),
        _true(run),
        _readiness(run),
        _counters(run),
        _levels(run),
        Verdict("no replica ends by itself", f"{len(run.died)} did", run.died),
    ]


def fault_rows(run: Run) -> list[FaultRow]:
    """Return a row for each kind of fault."""
    rows = {}
    for name in dict.fromkeys(each.fault.name for each in run.injected):
        injected = [each for each in run.injected if each.fault.name == name]
        codes = Counter(
            end.code for end in run.ends if end.code and any(_explains(i, end) for i in injected)
        )
        told = ", ".join(f"{code} x {count}" for code, count in codes.most_common())
        longest = max((_recovery(each) for each in injected), default=0.0)
        broken = [each.error for each in injected if each.error]
        limit = injected[0].fault.recovers
        for each in injected:
            if each.recovered is None:
                broken.append("requests do not succeed again")
            elif _recovery(each) > limit * run.pulse.slowdown(each.ended, each.recovered):
                broken.append(f"recovers after {_recovery(each):.1f} s, not {limit:g}")
        rows[name] = FaultRow(name, len(injected), told or "all as asked", longest, broken)
    return list(rows.values())


def _recovery(injected: Injected) -> float:
    return 0.0 if injected.recovered is None else injected.recovered - injected.ended


def _explains(injected: Injected, end: Ended) -> bool:
    over = injected.recovered is not None and end.began > injected.recovered
    during = end.ended >= injected.began and not over
    return during and end.code in injected.fault.explains


def _once(run: Run) -> Verdict:
    seen = Counter(each.request_id for each in run.forwarded)
    asked = [each.request_id for each in run.ends]
    broken = [f"{each} has {seen[each]} lines in the log" for each in asked if seen[each] != 1]
    logged = {each.request_id: each for each in run.forwarded}
    for end in run.ends:
        if end.status == 0:
            line = logged.get(end.request_id)
            if line is None or not (line.lost_in_request and _restarts(run, end)):
                broken.append(
                    f"{end.kind} {end.request_id} at {end.began - run.began:.1f}: {end.wrong}; "
                    f"the balancer logged {line}"
                )
        elif _is_late(run, end.began, end.ended, end.deadline):
            broken.append(
                f"{end.kind} {end.request_id}: {end.status} {end.code} after "
                f"{end.ended - end.began:.2f} s, with a deadline of {end.deadline:.2f}"
            )
    for number, prober in run.probers.items():
        broken += [
            f"a probe of replica {number} at {each.began - run.began:.1f} ended with "
            f"{each.status} {each.code} after {each.ended - each.began:.2f} s"
            for each in prober.probes
            if _is_late(run, each.began, each.ended, REQUEST_SECONDS)
            and not _starting(run, number, each)
        ]
    longest = max((end.ended - end.began for end in run.ends), default=0.0)
    probes = sum(len(each.probes) for each in run.probers.values())
    told = (
        f"{len(asked)} requests, {probes} probes, {run.left} left; longest {longest:.2f} s, "
        f"the machine slower by {run.pulse.slowdown(run.began, time.monotonic()):.1f}"
    )
    return Verdict("every request ends once, in time", told, broken)


def _restarts(run: Run, end: Ended) -> bool:
    """Whether a replica was killed or started again during the request."""
    return any(
        each.fault.restarts and each.began <= end.ended and end.began <= each.ended
        for each in run.injected
    )


def _is_late(run: Run, began: float, ended: float, deadline: float) -> bool:
    return ended - began > deadline + BOUND_SECONDS * run.pulse.slowdown(began, ended)


def _starting(run: Run, number: int, probe: Probe) -> bool:
    """Whether the replica was about to start: its port is open, and its clock does not run yet."""
    return any(
        each.fault.restarts and each.replica == number and each.began <= probe.began <= each.ended
        for each in run.injected
    )


def _true(run: Run) -> Verdict:
    broken: list[str] = []
    unexplained: list[str] = []
    for end in run.ends:
        if end.wrong and end.status:
            broken.append(f"{end.kind} {end.request_id}: {end.wrong}")
        elif end.code and not any(_explains(each, end) for each in run.injected):
            busy = run.pulse.slowdown(end.began, end.ended) > _BUSY
            if not (busy and end.code in _OF_A_BUSY_MACHINE):
                told = f"{end.status} {end.code} without a fault"
                unexplained.append(f"{end.kind} {end.request_id}: {told}")
    late_ones = sum("deadline-exceeded" in each for each in unexplained)
    if late_ones <= _MOST_LATE * len(run.ends):
        unexplained = [each for each in unexplained if "deadline-exceeded" not in each]
    broken += unexplained
    counted = Counter(f"{end.status} {end.code}".strip() for end in run.ends)
    told = ", ".join(f"{status} x {count}" for status, count in counted.most_common())
    return Verdict("every status is true, every map is right", told, broken)


def _readiness(run: Run) -> Verdict:
    broken, longest = [], 0.0
    for number, prober in run.probers.items():
        for lie in lies(prober.polls, prober.probes):
            slowdown = run.pulse.slowdown(lie.began, lie.began + lie.seconds)
            if lie.seconds <= (LONGEST_LIE_SECONDS + SLACK_SECONDS) * slowdown:
                continue
            if not lie.said_ready and _meant(run, number, lie):
                continue
            longest = max(longest, lie.seconds)
            said = "ready" if lie.said_ready else "not ready"
            broken.append(
                f"replica {number} says {said} for {lie.seconds:.1f} s from "
                f"{lie.began - run.began:.1f}, and requests get {lie.example}"
            )
    polls = sum(len(each.polls) for each in run.probers.values())
    told = f"{polls} polls; longest lie over {LONGEST_LIE_SECONDS:g} s: {longest:.1f} s"
    return Verdict("readiness is wrong for no longer than a second", told, broken)


def _meant(run: Run, number: int, lie: Lie) -> bool:
    """Whether a replica that stops said so, and still answered what it was sent."""
    return any(
        each.fault.unready
        and each.replica == number
        and each.began <= lie.began + lie.seconds
        and lie.began <= each.ended
        for each in run.injected
    )


def _counters(run: Run) -> Verdict:
    broken, total = [], 0
    for number, (own, forwarded, probes) in run.counted.items():
        answered = Counter(each.status for each in forwarded if each.ended.startswith("--"))
        answered += Counter(status for status in probes if status)
        left = sum(not each.ended.startswith("--") for each in forwarded)
        left += sum(status == 0 for status in probes)
        total += sum(answered.values())
        beyond = 0
        for status in sorted(own.keys() | answered.keys()):
            counted, seen = own.get(status, 0), answered[status]
            if counted < seen:
                broken.append(f"replica {number} counts {counted} x {status}, clients saw {seen}")
            beyond += counted - seen
        if beyond > left:
            broken.append(f"replica {number} counts {beyond} more than {left} that were left")
    told = f"{total} answers of the replicas' last processes"
    return Verdict("metrics add up to the answers", told, broken)


def _levels(run: Run) -> Verdict:
    broken, told = [], []
    for number, before in run.before.items():
        after = run.after[number]
        most = before.megabytes * (1 + _MORE_SHARE) + _MORE_MEGABYTES
        for what, now, limit in (
            ("MB", after.megabytes, most),
            ("descriptors", after.descriptors, before.descriptors + _MORE_DESCRIPTORS),
            ("threads", after.threads, before.threads + _MORE_THREADS),
            ("processes", after.processes, before.processes),
        ):
            if now > limit:
                broken.append(f"replica {number} holds {now:.0f} {what}, not {limit:.0f}")
        if after.processes < before.processes:
            broken.append(f"replica {number} has {after.processes} of {before.processes} processes")
        told.append(
            f"{before.megabytes:.0f} -> {after.megabytes:.0f} MB, "
            f"{before.descriptors} -> {after.descriptors} descriptors, "
            f"{before.threads} -> {after.threads} threads"
        )
    return Verdict("memory, descriptors and threads return", "; ".join(told), broken)
