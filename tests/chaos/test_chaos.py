"""A short run with a few faults: all promises hold, and the program sees if one does not."""

import itertools
from pathlib import Path

import pytest

from tests.chaos.faults import LauncherStopped, PictureProcessKilled, ReplicaKilled, WorkerDies
from tests.chaos.probing import Poll, Probe, Prober, lies
from tests.chaos.pulse import Pulse
from tests.chaos.questions import difference
from tests.chaos.replicas import Forwarded
from tests.chaos.running import Injected, Run, run
from tests.chaos.traffic import Ended
from tests.chaos.verdicts import fault_rows, verdicts
from tests.support.pictures import base64_of, encoded, picture


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_faults_of_workers_pictures_and_replicas_break_no_promise(tmp_path: Path) -> None:
    kinds = (WorkerDies, PictureProcessKilled, LauncherStopped, ReplicaKilled)
    found = run(3, 10, tmp_path / "journal", kinds=kinds, forked=True)
    assert len(found.injected) >= 2
    assert {each.status for each in found.ends} >= {200, 400, 404, 422}
    assert {row.name: row.broken for row in fault_rows(found) if row.broken} == {}
    assert {each.invariant: each.broken for each in verdicts(found) if each.broken} == {}


def test_readiness_that_says_ready_for_long_while_requests_fail_is_a_lie() -> None:
    polls = [Poll(at / 10, 200) for at in range(100)]
    fails = [Probe(at, at + 0.1, 503, "not-ready") for at in (2.0, 2.5, 3.0, 3.5, 4.0)]
    (lie,) = lies(polls, fails)
    assert (lie.began, lie.said_ready, lie.example) == (2.1, True, "503 not-ready")
    assert lie.seconds == pytest.approx(2.0)
    answered = Probe(3.1, 3.2, 200, "")
    assert lies(polls, [*fails, answered]) == []
    told = [Poll(at / 10, 200 if at < 30 else 503) for at in range(100)]
    assert lies(told, fails) == []


def test_readiness_that_says_unready_for_long_while_requests_succeed_is_a_lie() -> None:
    polls = [Poll(at / 10, 503) for at in range(100)]
    succeed = [Probe(at, at + 0.1, 200, "") for at in (2.0, 2.5, 3.0, 3.5, 4.0)]
    assert [lie.said_ready for lie in lies(polls, succeed)] == [False]
    assert lies(polls, succeed[:3]) == []
    busy = [Probe(each.began, each.ended, 429, "queue-full") for each in succeed]
    assert lies(polls, busy) == []


def measured(pulse: Pulse, *ticks: float) -> None:
    """Note measurements that came at these times, and took as long as their processor time."""
    for last, at in itertools.pairwise(ticks):
        pulse.note(last, at - 0.005, at, 0.005)


def test_a_machine_is_slower_while_it_stalls() -> None:
    pulse = Pulse()
    measured(pulse, *(each / 2 for each in range(21)), 12.0, *(each / 2 for each in range(25, 45)))
    assert pulse.slowdown(1.0, 5.0) == pytest.approx(1.0, abs=0.02)
    assert pulse.slowdown(9.5, 12.5) == pytest.approx(4.0, abs=0.1)
    assert pulse.slowdown(16.0, 20.0) == pytest.approx(1.0, abs=0.02)


def test_limits_of_time_are_extended_where_the_machine_stalls_and_only_there() -> None:
    def breaches(code: str, stall_at: float) -> list[list[str]]:
        run = Run(100.0, 0.0)
        run.ends = [Ended("JSON", "a", 5.0, 20.0, 23.0, 422, code)]
        run.forwarded = [Forwarded("a", 422, 1, "--")]
        prober = Prober("http://localhost", {})
        prober.polls = [Poll(at / 10, 200) for at in range(1000)]
        times = (20.0, 20.5, 21.0, 21.5, 22.0)
        prober.probes = [Probe(at, at + 0.1, 503, "not-ready") for at in times]
        run.probers = {1: prober}
        measured(run.pulse, stall_at, stall_at + 3.0)
        return [each.broken for each in verdicts(run) if each.broken]

    assert breaches("picture-timeout", stall_at=20.0) == []
    assert len(breaches("picture-timeout", stall_at=50.0)) == 2
    assert len(breaches("image-decode-failed", stall_at=20.0)) == 1


def test_no_answer_is_a_breach_unless_a_killed_replica_was_lost_during_the_request() -> None:
    def breaches(status: int, ended: str, killed_at: float) -> list[str]:
        run = Run(10.0, 0.0)
        run.ends = [Ended("JSON", "a", 5.0, 2.0, 2.5, 0, "", "no answer")]
        run.forwarded = [Forwarded("a", status, 1, ended)]
        run.injected = [Injected(ReplicaKilled(), 1, killed_at, killed_at + 1.0)]
        return verdicts(run)[0].broken

    assert breaches(-1, "SD", killed_at=2.2) == []
    assert breaches(422, "SD", killed_at=2.2) != []
    assert breaches(-1, "CD", killed_at=2.2) != []
    assert breaches(-1, "SD", killed_at=3.0) != []


def test_other_maps_numbers_and_overlays_are_differences() -> None:
    overlay = base64_of(encoded(picture(seed=1)))
    answer = {"seconds": 0.5, "targets": [{"score": 0.25, "overlay": overlay, "cached": False}]}
    target = answer["targets"][0]  # type: ignore[index]
    assert difference(answer, answer) == ""
    assert difference(answer, {**answer, "targets": [{**target, "cached": True}]}) == ""
    for changed in (
        {**target, "score": 0.26},
        {**target, "overlay": base64_of(encoded(picture(seed=2)))},
        {"score": 0.25},
    ):
        assert difference(answer, {**answer, "targets": [changed]}).startswith("answer.targets[0]")
    assert difference(answer, {**answer, "targets": []}) != ""
