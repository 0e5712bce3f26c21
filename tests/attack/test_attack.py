"""A short run holds and is reported, and the program sees when a case does not hold."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from legrad_engine.models import STARTER
from tests.attack import measuring
from tests.attack.cases import Case
from tests.attack.framing import got
from tests.attack.measuring import Light, attack
from tests.attack.outcomes import Outcome
from tests.attack.reporting import Report, page
from tests.support.forked_program import ForkedProgram, module_program
from tests.support.running_server import Server, environment

_LIVE = got(b"/health/live")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(STARTER, log_level="error") as running:
        running.wait_for_health()
        yield running


@pytest.fixture
def light(server: Server) -> Light:
    caller = Light(server, "no key is needed")
    caller.alone_p99 = 30.0
    return caller


@pytest.mark.slow
def test_the_cases_of_access_hold_and_are_reported(tmp_path: Path) -> None:
    output, table = tmp_path / "attack.json", tmp_path / "attacks.md"
    arguments = ["--only", "access", "--output", str(output), "--table", str(table)]
    program = ForkedProgram(module_program("tests.attack"), ["attack", *arguments], environment())
    said, errors = program.communicate(timeout=240)
    assert program.wait() == 0, said + errors
    assert "3 of 3 cases hold" in said
    told = json.loads(output.read_text())["outcomes"]
    assert [each["statuses"].split(" x ")[0] for each in told] == ["401", "401", "403"]
    assert table.read_text().count("| holds |") == 3


def test_a_wrong_status_a_late_answer_and_a_forbidden_text_are_seen(
    server: Server, light: Light
) -> None:
    def reason(statuses: set[int], most_seconds: float = 30.0, forbidden: bytes = b"") -> str:
        case = Case("", "", lambda: _LIVE, frozenset(statuses), most_seconds, forbidden)
        return attack(server, case, light, callers=1).reason

    assert reason({200}) == ""
    assert reason({422}) == "answers [200], not [422]"
    assert reason({200}, most_seconds=0.0) == "takes longer than 0 s"
    assert reason({200}, forbidden=b"HTTP/1.1 200") == "an answer has b'HTTP/1.1 200'"


def test_a_light_caller_that_waits_and_memory_that_grows_are_seen(
    server: Server, light: Light, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("", "", lambda: _LIVE, frozenset({200}))
    light.alone_p99 = 0.0
    monkeypatch.setattr(measuring, "_MOST_MEGABYTES", -1.0)
    assert attack(server, case, light, 1).reason == "takes more than -1 MB; the light caller waits"


def test_a_page_shows_another_version_beside_each_case(tmp_path: Path) -> None:
    held = Outcome("JSON", "a | b", "422", 0.5, 3.0, 0.1)
    broken = Outcome("JSON", "a | b", "200", 9.0, 3.0, None, "answers [200], not [422]")
    Report("0.2 s", [broken]).write(tmp_path / "before.json")
    before = Report.read(tmp_path / "before.json")
    lines = page(Report("0.1 s", [held, Outcome("JSON", "new", "", 0.0, 0.0, None)]), before)
    assert r"| JSON | a \| b | 422 | 0.50 | 3 | 0.10 | holds | 200 | 9.00 |  | answers" in lines
    assert "| JSON | new |  | 0.00 | 0 |  | holds |  |  |  |  |" in lines
