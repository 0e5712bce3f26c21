"""One run: traffic, probes, and faults drawn by a seed."""

import contextlib
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.probing import Prober
from tests.chaos.pulse import Pulse
from tests.chaos.questions import questions
from tests.chaos.replicas import Forwarded, Level, Replica, Site
from tests.chaos.traffic import Ended, Traffic, expected_answers
from tests.support.pictures import data_url, encoded, picture
from tests.support.tiny_model import TINY, save_model

MODELS = ("tiny-tiny", "other-other")

_CALLERS = 3
_PAIR = 0.3
_PAUSE_SECONDS = (0.5, 2.0)
# Long enough for the idle picture processes to be replaced, threads to end and sockets to close.
_REST_SECONDS = 3.0
_WARM_UP_SECONDS = 6.0
_ROUNDS_OF_WARMING_UP = 2
_OTHER: dict[str, Any] = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": 96}}


@dataclass(slots=True)
class Injected:
    """A fault that was injected.

    Attributes:
        fault: the fault.
        replica: number of the replica.
        began: instant of the injection, on the monotonic clock.
        ended: instant at which it was taken away, and any other one at that time.
        recovered: instant at which requests succeeded again; None if they did not.
        error: why it went wrong; empty if it did not.
    """

    fault: Fault
    replica: int
    began: float
    ended: float = 0.0
    recovered: float | None = None
    error: str = ""


@dataclass(slots=True)
class Run:
    """All that was seen.

    Attributes:
        seconds: duration of the faults.
        began: instant at which the journal begins, on the monotonic clock.
        pulse: how busy the machine was.
        injected: the faults, in order.
        ends: the ends of the requests of callers.
        left: number of requests that their callers left.
        probers: those of both replicas, by their numbers.
        before: what the replicas held at rest before the faults, by their numbers.
        after: what they held after.
        forwarded: the balancer's log.
        counted: for each replica the answers of its last process by its own metrics, and the
            requests in the balancer's log and the probes since its start.
        died: replicas that ended though nothing ended them.
    """

    seconds: float
    began: float
    pulse: Pulse = field(default_factory=Pulse)
    injected: list[Injected] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    left: int = 0
    probers: dict[int, Prober] = field(default_factory=dict)
    before: dict[int, Level] = field(default_factory=dict)
    after: dict[int, Level] = field(default_factory=dict)
    forwarded: list[Forwarded] = field(default_factory=list)
    counted: dict[int, tuple[dict[int, int], list[Forwarded], list[int]]] = field(
        default_factory=dict
    )
    died: list[str] = field(default_factory=list)


def run(
    seed: int,
    seconds: float,
    journal: Path,
    *,
    kinds: Sequence[type[Fault]] = FAULTS,
    forked: bool = False,
) -> Run:
    """Run traffic and faults for a while; then let all come to rest.

    Args:
        seed: decides the faults, their replicas, their times and order.
        seconds: how long faults are injected.
        journal: file that receives one JSON object for each event.
        kinds: the faults.
        forked: whether replicas are forked from a warm process; then no clock jumps.
    """
    chance = random.Random(seed)
    found = Run(seconds, time.monotonic())
    with tempfile.TemporaryDirectory() as name, journal.open("w") as lines:
        folder = Path(name)
        references = [
            f"{model}={save_model(folder, model.partition('-')[0], config)}"
            for model, config in zip(MODELS, (TINY, _OTHER), strict=True)
        ]
        with Site(references, folder, forked=forked) as site:
            _Chaos(site, chance, found, _Journal(lines, found.began)).run(kinds)
    return found


class _Journal:
    def __init__(self, lines: Any, began: float) -> None:
        self._lines = lines
        self._began = began

    def write(self, event: str, **values: Any) -> None:
        at = round(time.monotonic() - self._began, 3)
        self._lines.write(json.dumps({"at": at, "event": event, **values}) + "\n")
        self._lines.flush()


class _Chaos:
    def __init__(self, site: Site, chance: random.Random, found: Run, journal: _Journal) -> None:
        self._site = site
        self._chance = chance
        self._found = found
        self._journal = journal
        self._body = {
            "image": data_url(encoded(picture(seed=99))),
            "prompts": ["a cat"],
            "options": {"cache": False},
            "output": {"heatmap": "none", "overlay": False},
        }

    def run(self, kinds: Sequence[type[Fault]]) -> None:
        site, found = self._site, self._found
        asked = questions(list(MODELS))
        for replica in site.replicas:
            for _ in range(_ROUNDS_OF_WARMING_UP):
                expected = expected_answers(replica.server.url, asked)
        # Every thread pool and every cache has its size.
        warming = Traffic(site.balancer.url, expected, random.Random(0), 2 * _CALLERS)
        with warming.running():
            time.sleep(_WARM_UP_SECONDS)
        time.sleep(_REST_SECONDS)
        found.before = {each.number: each.level() for each in site.replicas}
        own = {each.number: each.answers() for each in site.replicas}
        skipped = {each.number: site.forwarded(since_start_of=each) for each in site.replicas}
        traffic = Traffic(site.balancer.url, expected, random.Random(0), _CALLERS)
        found.probers = {each.number: Prober(each.server.url, self._body) for each in site.replicas}
        first = {each.number: each.started for each in site.replicas}
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.enter_context(found.pulse.running())
            stack.enter_context(traffic.running())
            for prober in found.probers.values():
                stack.enter_context(prober.running())
            for kind in self._drawn(kinds):
                if time.monotonic() - began > found.seconds:
                    break
                self._inject(kind)
                time.sleep(self._chance.uniform(*_PAUSE_SECONDS))
        time.sleep(_REST_SECONDS)
        found.ends, found.left = traffic.ends, traffic.left
        found.forwarded = site.forwarded()
        for replica in site.replicas:
            same = replica.started == first[replica.number]
            self._count(
                replica,
                own[replica.number] if same else {},
                len(skipped[replica.number]) if same else 0,
            )
        found.after = {each.number: each.level() for each in site.replicas}
        for end in found.ends:
            if end.wrong or end.code:
                self._journal.write(
                    "not as asked",
                    kind=end.kind,
                    id=end.request_id,
                    sent=round(end.began - found.began, 3),
                    seconds=round(end.ended - end.began, 3),
                    problem=end.wrong or end.code,
                )

    def _count(self, replica: Replica, earlier: dict[int, int], skipped: int) -> None:
        answers = replica.answers()
        own = {
            status: answers.get(status, 0) - earlier.get(status, 0)
            for status in answers.keys() | earlier.keys()
        }
        forwarded = self._site.forwarded(since_start_of=replica)[skipped:]
        probes = self._found.probers[replica.number].probes
        statuses = [each.status for each in probes if each.began >= replica.started]
        statuses += self._site.asked(replica)
        self._found.counted[replica.number] = (own, forwarded, statuses)

    def _drawn(self, kinds: Sequence[type[Fault]]) -> Iterator[list[tuple[Fault, Replica]]]:
        """Yield one fault or two at a time; each kind once before any of them again."""
        deck: list[type[Fault]] = []
        while True:
            together: list[tuple[Fault, Replica]] = []
            for _ in range(2 if self._chance.random() < _PAIR else 1):
                deck = deck or self._chance.sample(kinds, len(kinds))
                fault = deck.pop()()
                suited = [each for each in self._site.replicas if fault.suits(each)]
                if not suited:
                    continue
                replica = self._chance.choice(suited)
                # What ends a replica comes alone to it.
                alone = fault.restarts or any(other.restarts for other, _ in together)
                if not (alone and any(each is replica for _, each in together)):
                    together.append((fault, replica))
            yield together

    def _inject(self, together: Sequence[tuple[Fault, Replica]]) -> None:
        site, chance = self._site, self._chance
        injected = []
        for fault, replica in together:
            seconds = chance.uniform(*fault.seconds)
            one = Injected(fault, replica.number, time.monotonic())
            injected.append((one, replica, seconds))
            self._found.injected.append(one)
            self._journal.write(
                "begins", fault=fault.name, replica=replica.number, seconds=round(seconds, 3)
            )
            with self._noting(one):
                fault.begin(site, replica, chance)
        # A start takes long, and must not hold up the end of another fault.
        for one, replica, seconds in sorted(
            injected, key=lambda each: (each[0].fault.restarts, each[0].began + each[2])
        ):
            time.sleep(max(0.0, one.began + seconds - time.monotonic()))
            with self._noting(one):
                one.fault.end(site, replica)
            one.ended = time.monotonic()
            self._journal.write("ends", fault=one.fault.name, replica=replica.number)
        self._replace_dead()
        ended = time.monotonic()
        for one, _, _ in injected:
            one.ended = ended
        try:
            instants = site.wait_until_served(MODELS, self._body)
        except (TimeoutError, AssertionError) as error:
            self._journal.write("does not recover", reason=str(error))
            self._replace_dead()
            return
        for one, replica, _ in injected:
            one.recovered = instants[replica.number]
            self._journal.write(
                "recovered",
                fault=one.fault.name,
                replica=replica.number,
                seconds=round(one.recovered - one.ended, 3),
            )

    def _replace_dead(self) -> None:
        for replica in self._site.replicas:
            if not replica.server.alive:
                status = replica.server.wait()
                self._found.died.append(f"replica {replica.number} ended with {status}")
                self._journal.write("died", replica=replica.number, status=status)
                self._site.start_again(replica)

    def _noting(self, one: Injected) -> contextlib.AbstractContextManager[None]:
        @contextlib.contextmanager
        def noting() -> Iterator[None]:
            try:
                yield
            except (TimeoutError, AssertionError) as error:
                one.error = f"{one.error} {error}".strip()
                self._journal.write("error", fault=one.fault.name, reason=str(error))

        return noting()
