"""Alerts on their way from Prometheus through a real Alertmanager to its receiver."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.alertmanager_server import ALERTMANAGER_FILE, Alertmanager, Receiver
from tests.support.dashboards import RULES
from tests.support.prometheus_server import Prometheus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture(scope="module")
def alertmanager(
    receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Alertmanager]:
    with Alertmanager(tmp_path_factory.mktemp("alertmanager"), receiver.url) as started:
        yield started


def test_its_own_tool_finds_the_configuration_right() -> None:
    done = subprocess.run(
        ["amtool", "check-config", ALERTMANAGER_FILE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_names_only_alerts_that_exist() -> None:
    alerts = {rule["alert"] for rule in RULES if "alert" in rule}
    text = ALERTMANAGER_FILE.read_text()
    named = {word for word in text.replace('"', " ").split() if word.startswith("Legrad")}
    assert named - {"Legrad.+"} <= alerts
    assert len(named) >= 3


def test_prometheus_hands_its_alerts_over(alertmanager: Alertmanager, tmp_path: Path) -> None:
    with Prometheus(tmp_path, [], alertmanagers=[alertmanager.address]) as prometheus:

        def known() -> list[str]:
            found = prometheus.client.get("/api/v1/alertmanagers").json()["data"]
            return [each["url"] for each in found["activeAlertmanagers"]]

        alertmanager.eventually(lambda: len(known()) == 1)
        assert known() == [f"http://{alertmanager.address}/api/v2/alerts"]


def test_a_replica_that_is_gone_is_told_once_and_nothing_else_is_told_of_it(
    alertmanager: Alertmanager, receiver: Receiver
) -> None:
    gone = {"alertname": "LegradDown", "instance": "a", "severity": "critical"}
    slow = {"alertname": "LegradSlow", "instance": "a", "severity": "warning"}
    elsewhere = {"alertname": "LegradSlow", "instance": "b", "severity": "warning"}
    # Not ours: somebody else's alert about the same instance.
    foreign = {"alertname": "NodeDown", "instance": "a", "severity": "critical"}
    alertmanager.send(gone, slow, elsewhere, foreign)

    def states() -> dict[tuple[str, str], str]:
        return {
            (each["labels"]["alertname"], each["labels"]["instance"]): each["status"]["state"]
            for each in alertmanager.alerts()
        }

    alertmanager.eventually(lambda: "unprocessed" not in states().values())
    assert states() == {
        ("LegradDown", "a"): "active",
        ("LegradSlow", "a"): "suppressed",
        ("LegradSlow", "b"): "active",
        ("NodeDown", "a"): "active",
    }

    def told() -> set[tuple[str, str]]:
        return {
            (each["labels"]["alertname"], each["labels"]["instance"])
            for message in receiver.messages
            for each in message["alerts"]
        }

    alertmanager.eventually(lambda: len(told()) == 3)
    assert told() == {("LegradDown", "a"), ("LegradSlow", "b"), ("NodeDown", "a")}
