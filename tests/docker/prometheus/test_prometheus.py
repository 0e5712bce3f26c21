"""Dashboards and alerts against a real Prometheus that scrapes a real server and balancer."""

import math
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.dashboards import RULES, grouping_labels, panel_queries, selectors
from tests.support.picture_sites import PictureSite, answer, sends
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.prometheus_server import PROMETHEUS_FILES, Prometheus
from tests.support.running_balancer import Balancer
from tests.support.running_server import Server

pytestmark = pytest.mark.slow

_PATIENCE_SECONDS = 180.0
# What this test does not bring about: images given up, and models unloaded to make room.
_MAY_BE_EMPTY = ("legrad_dropped_total", "legrad_model_evictions_total")
# What it brings about, which fires once it has lasted for minutes: one replica, and refusals.
_MAY_FIRE = {"LegradReplicaOut", "LegradTooManyRequests"}


class Watched:
    """A server under some traffic of every kind, and the Prometheus that scrapes it."""

    def __init__(self, server: Server, prometheus: Prometheus, picture_host: str) -> None:
        self.server = server
        self.prometheus = prometheus
        self._picture_host = picture_host
        self._seed = 0

    def traffic(self) -> None:
        """Good requests, repeated ones, bad ones, and more at once than the server takes."""
        self._seed += 1
        new = data_url(encoded(picture(seed=self._seed)))
        bodies: list[dict[str, Any]] = [
            request_of(image=new, prompts=["a cat", "a dog"]),
            request_of(image=new, prompts=["a cat"]),
            request_of(image=data_url(b"junk")),
            request_of(image={"url": f"http://{self._picture_host}/"}),
            request_of(image={"url": "http://missing.invalid/"}),
        ]
        for body in bodies:
            self.server.explain(body)
        with ThreadPoolExecutor(8) as callers:
            list(callers.map(self.server.explain, [request_of(options={"cache": False})] * 8))
        self.server.client.get("/nowhere")

    def eventually(self, missing: Any) -> None:
        """Sends traffic until nothing is missing any more."""
        pause = threading.Event()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while left := missing():
            assert time.monotonic() < deadline, left
            self.traffic()
            pause.wait(0.5)


@pytest.fixture(scope="module")
def watched(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    with PictureSite(sends(answer(encoded()))) as site:
        host = f"localhost:{site.port}"
        with (
            Server(
                tiny_model,
                max_requests_in_progress=2,
                url_hosts=f"{host},missing.invalid",
                url_private_addresses="true",
            ) as server,
            # Privileged and unused: no second replica.
            Balancer(f"{server.host}:{server.port}", "127.0.0.4:9") as balancer,
            Prometheus(
                folder,
                [f"{server.host}:{server.port}"],
                balancers=[balancer.statistics_address],
            ) as prometheus,
        ):
            server.wait_for_health()
            yield Watched(server, prometheus, host)


def test_every_panel_shows_something(watched: Watched) -> None:
    expected = [
        query for query in panel_queries() if not any(name in query for name in _MAY_BE_EMPTY)
    ]
    watched.eventually(
        lambda: [query for query in expected if not _has_data(watched.prometheus.query(query))]
    )


def test_every_metric_and_label_of_panels_and_alerts_is_scraped(watched: Watched) -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    expressions = [*panel_queries(), *(rule["expr"] for rule in RULES)]
    wanted = {each for expression in expressions for each in selectors(expression)} - recorded
    assert len(wanted) > 40
    watched.eventually(lambda: [each for each in wanted if not watched.prometheus.query(each)])
    for expression in expressions:
        named = selectors(expression)
        labels: set[str] = set()
        for each in named:
            for series in watched.prometheus.query(each):
                labels |= set(series["metric"])
        assert named <= recorded or grouping_labels(expression) <= labels, expression


def test_every_rule_is_evaluated_without_error(watched: Watched) -> None:
    watched.eventually(
        lambda: [rule for rule in watched.prometheus.rules() if rule["health"] == "unknown"]
    )
    rules = watched.prometheus.rules()
    assert len(rules) == len(RULES)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    for rule in RULES:
        watched.prometheus.query(rule["expr"])


def test_the_server_is_seen_as_it_is(watched: Watched) -> None:
    watched.eventually(lambda: not watched.prometheus.query('up{job="legrad"} == 1'))
    watched.eventually(lambda: not watched.prometheus.query("legrad_ready == 1"))
    watched.eventually(lambda: not watched.prometheus.query('up{job="legrad-balancer"} == 1'))
    (state,) = watched.prometheus.query("legrad_model_state == 1")
    assert state["metric"]["state"] == "ready"
    firing = {rule["name"] for rule in watched.prometheus.rules() if rule.get("state") == "firing"}
    assert firing <= _MAY_FIRE


def test_alerts_fire_when_they_should_and_only_then() -> None:
    for command in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ):
        done = subprocess.run(
            ["promtool", *command],
            cwd=PROMETHEUS_FILES,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _has_data(result: list[dict[str, Any]]) -> bool:
    return any(not math.isnan(float(series["value"][1])) for series in result)
