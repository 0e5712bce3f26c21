"""The queries that KEDA asks, and the balancer's alerts, with real replicas behind Prometheus."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.charts import VALUE_SETS, only, rendered
from tests.support.dashboards import RULES
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.prometheus_server import Prometheus
from tests.support.raw_requests import HEAD
from tests.support.running_balancer import Balancer
from tests.support.running_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_PATIENCE_SECONDS = 180.0
_HEAVY: dict[str, Any] = request_of(
    images=[data_url(encoded(picture(64, 64, seed))) for seed in range(8)],
    image=None,
    prompts=[f"thing {number}" for number in range(16)],
    options={"size": 512, "cache": False},
    output={"overlay": False},
)


def query_of(values: dict[str, Any]) -> str:
    """The query that KEDA sends, of a rendered chart."""
    scaled = only(rendered(values, name="legrad", namespace="shop"), "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    return str(trigger["metadata"]["query"])


@dataclass
class Scraped:
    """Two replicas and the Prometheus that scrapes them with the labels of a cluster."""

    replicas: list[Server]
    prometheus: Prometheus


def eventually(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "It never came about."
        pause.wait(0.2)


# Of each test: it stops the replicas, and a second attempt needs others.
@pytest.fixture
def scraped(tiny_model: str, tmp_path: Path) -> Iterator[Scraped]:
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(Server(tiny_model, max_batch_images=1, max_queue_cost=10_000))
            for _ in range(2)
        ]
        for each in replicas:
            each.wait_for_health()
        prometheus = Prometheus(
            tmp_path,
            [f"{each.host}:{each.port}" for each in replicas],
            relabelings=[
                {"target_label": "namespace", "replacement": "shop"},
                {"target_label": "service", "replacement": "legrad"},
            ],
        )
        yield Scraped(replicas, stack.enter_context(prometheus))


def test_the_query_is_the_queue_of_both_replicas_and_nothing_without_them(
    scraped: Scraped,
) -> None:
    whole = query_of(VALUE_SETS["keda"])
    monitored = {"monitoring": {"serviceMonitor": {"enabled": True}}}
    own = query_of(VALUE_SETS["keda"] | monitored)
    ask = scraped.prometheus.query

    def value(query: str) -> float | None:
        found = ask(query)
        assert len(found) <= 1
        return float(found[0]["value"][1]) if found else None

    def both_have_a_queue() -> bool:
        # One query reads all at once: a scrape that began before may end between two of them.
        questions = " or ".join(
            f'label_replace({query}, "asked", "{name}", "", "")'
            for name, query in (("whole", whole), ("own", own))
        )
        answers, parts = {}, []
        for each in ask(f"{questions} or legrad_queue_cost"):
            number = float(each["value"][1])
            if "asked" in each["metric"]:
                answers[each["metric"]["asked"]] = number
            else:
                parts.append(number)
        if len(parts) < 2:
            return False
        assert answers == {"whole": sum(parts), "own": sum(parts)}
        return min(parts) > 0

    # Idle replicas have a queue of 0, which is not the same as none.
    eventually(lambda: len(ask("legrad_queue_cost")) == 2)
    eventually(lambda: (value(whole), value(own)) == (0, 0))
    stop = threading.Event()

    def call(replica: Server) -> None:
        while not stop.is_set():
            assert replica.explain(_HEAVY).status_code in (200, 429, 504)

    with ThreadPoolExecutor(8) as callers:
        try:
            asked = [callers.submit(call, scraped.replicas[number % 2]) for number in range(8)]
            eventually(both_have_a_queue)
        finally:
            stop.set()
        for call_ended in asked:
            call_ended.result()
    # Another release's queue is not this one's.
    other = own.replace('namespace="shop"', 'namespace="elsewhere"')
    assert other != own
    assert value(other) is None
    # Nobody to scrape: no value, which KEDA must not take for an empty queue.
    for each in scraped.replicas:
        each.__exit__()
    eventually(lambda: value(whole) is None and value(own) is None)


def test_an_address_that_has_reached_its_limit_shows_in_the_alert(
    tiny_model: str, tmp_path: Path
) -> None:
    (rule,) = [each for each in RULES if each.get("alert") == "LegradAddressLimit"]
    # In place of a share over five minutes, one over some scrapes; above 0 in place of 5 %.
    expression = rule["expr"].replace("[5m]", "[10s]").replace("> 0.05", "> 0")
    with ExitStack() as stack:
        server = stack.enter_context(Server(tiny_model))
        server.wait_for_health()
        address = f"{server.host}:{server.port}"
        balancer = stack.enter_context(Balancer(address, "127.0.0.4:9", requests_of_an_address=1))
        balancer.wait_for_replicas("UP", "DOWN")
        prometheus = stack.enter_context(
            Prometheus(tmp_path, [address], balancers=[balancer.statistics_address])
        )
        port = int(balancer.url.rpartition(":")[2])

        def shows(wanted: str, *, refused_by_replica: bool) -> bool:
            body = request_of(image=data_url(b"junk")) if refused_by_replica else request_of()
            answer = balancer.client.post("/explain", json=body)
            assert answer.status_code == (422 if refused_by_replica else 429)
            return bool(prometheus.query(wanted))

        # The replica's own refusals are none of the balancer's. A scrape in the middle of one may
        # show it on one side only, so a window without such a scrape is waited for.
        refusals = 'rate(haproxy_server_http_responses_total{code="4xx"}[10s]) > 0'
        unseen = f"({refusals}) unless on (instance) ({expression})"
        eventually(lambda: shows(unseen, refused_by_replica=True))
        held = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        held.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        balancer.eventually(lambda: balancer.requests_now(1) == 1)
        eventually(lambda: shows(expression, refused_by_replica=False))
        (down,) = prometheus.query('haproxy_server_status{proxy="replicas", state="DOWN"} == 1')
        assert down["metric"]["server"] == "replica-2"
