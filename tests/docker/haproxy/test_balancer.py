"""Two replicas behind the balancer that is deployed: what callers see when one goes."""

import re
import signal
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from select import select
from typing import Any

import httpx
import pytest
import trustme
import yaml

from tests.support.answers import check_against_contract
from tests.support.paths import ROOT
from tests.support.picture_sites import PictureSite, answer, sends
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.raw_requests import HEAD, posted
from tests.support.running_balancer import Balancer, Load
from tests.support.running_server import Server

# Servers that start while others are kept busy take their time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


# No connection leaves from these, so that a replica finds its port free when it comes back.
REPLICA_HOSTS = ("127.0.0.2", "127.0.0.3")
# Privileged and unused: refuses connections.
NOWHERE = "127.0.0.4:9"


def work(side: int, seed: int) -> dict[str, Any]:
    """A request that is computed anew each time; the side decides over the size of its body."""
    return request_of(
        image=data_url(encoded(picture(side, side, seed))),
        prompts=[f"thing {number}" for number in range(8)],
        options={"size": 256, "cache": False},
        output={"overlay": False},
    )


# Some fit into the balancer's buffer, and some do not.
MIXED = [work(side, seed) for seed, side in enumerate((20, 20, 600) * 4)]


@pytest.fixture(scope="module")
def replicas(tiny_model: str) -> Iterator[tuple[Server, Server]]:
    with replica(tiny_model, 0) as first, replica(tiny_model, 1) as second:
        first.wait_for_health()
        second.wait_for_health()
        yield first, second


@pytest.fixture(scope="module")
def balancer(replicas: tuple[Server, Server]) -> Iterator[Balancer]:
    with Balancer(*(address(each) for each in replicas)) as started:
        started.wait_for_replicas("UP", "UP")
        yield started


def replica(model: str, number: int, **settings: object) -> Server:
    """A replica that takes all that these tests ask of it, unless settings say otherwise."""
    defaults: dict[str, Any] = {
        "host": REPLICA_HOSTS[number],
        "max_queue_cost": 10_000,
        "request_timeout_seconds": 120,
    }
    return Server(model, **{**defaults, **settings})


def deployed_settings() -> dict[str, str]:
    """The settings of a replica in the compose file, by the names of Settings."""
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    return {
        name.removeprefix("LEGRAD_").lower(): value
        for name, value in compose["services"]["replica-1"]["environment"].items()
    }


def address(server: Server) -> str:
    return f"{server.host}:{server.port}"


def problem(response: httpx.Response, status: int, error: str) -> dict[str, Any]:
    """The problem that an answer of the balancer's own is."""
    found: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    check_against_contract(found, "ProblemDetails")
    assert (response.status_code, found["status"], found["error"]) == (status, status, error)
    assert found["request_id"] == response.headers["x-request-id"]
    return found


def test_a_killed_replica_costs_no_caller_that_asks_twice_an_answer(
    replicas: tuple[Server, Server], tiny_model: str
) -> None:
    assert len(str(MIXED[0])) < 16_000 < len(str(MIXED[2]))
    with ExitStack() as stack:
        doomed = stack.enter_context(replica(tiny_model, 0))
        balancer = stack.enter_context(Balancer(address(doomed), address(replicas[1])))
        doomed.wait_for_health()
        balancer.wait_for_replicas("UP", "UP")
        with Load(balancer.url, MIXED, retries=1) as load:
            balancer.eventually(lambda: balancer.requests_now(1) > 1)
            doomed.signal(signal.SIGKILL)
            doomed.wait()
            load.wait_for_answers(20)
            balancer.wait_for_replicas("DOWN", "UP")
            load.wait_for_answers(20)
            sent_again = load.retried + balancer.retries(1)
            again = stack.enter_context(replica(tiny_model, 0, port=doomed.port))
            again.wait_for_health()
            balancer.wait_for_replicas("UP", "UP")
            balancer.eventually(lambda: balancer.requests_now(1) > 1)
        assert set(load.outcomes) == {"200"}, load.outcomes
        # Otherwise nothing was lost, and the test has proved nothing.
        assert sent_again


def test_a_rolling_restart_costs_nobody_an_answer(tiny_model: str) -> None:
    delay = deployed_settings()["shutdown_delay_seconds"]
    with ExitStack() as stack:
        running = [
            stack.enter_context(replica(tiny_model, number, shutdown_delay_seconds=delay))
            for number in range(2)
        ]
        balancer = stack.enter_context(Balancer(*(address(each) for each in running)))
        for each in running:
            each.wait_for_health()
        balancer.wait_for_replicas("UP", "UP")

        def gets_requests(replica: int) -> bool:
            return balancer.requests_now(replica) > 0

        with Load(balancer.url, MIXED, callers=4) as load:
            for number, old in enumerate(running):
                balancer.eventually(partial(gets_requests, number + 1))
                old.signal(signal.SIGTERM)
                assert old.wait() == 0
                new = replica(tiny_model, number, port=old.port, shutdown_delay_seconds=delay)
                stack.enter_context(new).wait_for_health()
                balancer.wait_for_replicas("UP", "UP")
            load.wait_for_answers(20)
        assert set(load.outcomes) == {"200"}, load.outcomes


def test_a_replica_that_is_not_ready_gets_no_traffic(
    replicas: tuple[Server, Server], tiny_model: str, tmp_path: Path
) -> None:
    config = Path(tiny_model.partition("@")[0])
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"these are no weights")
    with (
        replica(f"{config}@{broken}", 0) as unready,
        Balancer(address(unready), address(replicas[1])) as balancer,
    ):
        balancer.wait_for_replicas("DOWN", "UP")
        before = balancer.requests(1)
        with Load(balancer.url, MIXED) as load:
            load.wait_for_answers(20)
        assert set(load.outcomes) == {"200"}, load.outcomes
        assert balancer.requests(1) == before
        assert unready.alive


def test_a_balancer_with_no_replica_says_when_to_come_back() -> None:
    with Balancer(NOWHERE, NOWHERE) as balancer:
        balancer.wait_for_replicas("DOWN", "DOWN")
        refused = balancer.client.post("/explain", json=request_of())
        assert problem(refused, 503, "no-replica")["instance"] == "/explain"
        assert int(refused.headers["retry-after"]) > 0


def test_overload_reaches_the_caller_as_the_replica_said_it(tiny_model: str) -> None:
    with (
        replica(tiny_model, 0, max_requests_in_progress=1) as busy,
        Balancer(address(busy), NOWHERE) as balancer,
    ):
        busy.wait_for_health()
        balancer.wait_for_replicas("UP", "DOWN")
        with ThreadPoolExecutor(24) as callers:
            answers = list(
                callers.map(lambda body: balancer.client.post("/explain", json=body), MIXED * 4)
            )
        assert {each.status_code for each in answers} == {200, 429}
        for each in answers:
            if each.status_code == 429:
                assert int(each.headers["retry-after"]) > 0
                problem(each, 429, "too-many-requests")
        # It was not taken for broken, and nothing was asked of it twice.
        assert balancer.replica(1)["status"] == "UP"
        assert balancer.requests(1) == len(answers)
        assert balancer.retries(1) == 0


def test_a_reloaded_balancer_drops_nothing(balancer: Balancer) -> None:
    with Load(balancer.url, MIXED) as load:
        for _ in range(3):
            balancer.reload()
            load.wait_for_answers(10)
    assert set(load.outcomes) == {"200"}, load.outcomes


def test_a_connection_kept_over_a_reload_has_its_next_request_answered_and_is_told_to_end(
    balancer: Balancer,
) -> None:
    def told_to_end() -> bool:
        answered = client.get("/health/live")
        assert answered.status_code == 200
        return bool(answered.headers.get("connection") == "close")

    with httpx.Client(base_url=balancer.url, timeout=60) as client:
        assert not told_to_end()
        balancer.reload()
        # Closed while idle, it would be replaced by one that nobody tells to end.
        balancer.eventually(told_to_end)


def test_a_reloaded_balancer_ends_its_old_process_at_the_time_that_was_set(
    replicas: tuple[Server, Server],
) -> None:
    addresses = map(address, replicas)
    with ExitStack() as stack:
        balancer = stack.enter_context(Balancer(*addresses, variables={"BALANCER_HARD_STOP": "1s"}))
        balancer.wait_for_replicas("UP", "UP")
        held = stack.enter_context(
            socket.create_connection(("127.0.0.1", int(balancer.url.rpartition(":")[2])))
        )
        held.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        balancer.eventually(lambda: balancer.requests_now(1) + balancer.requests_now(2) == 1)
        balancer.reload()
        answered = b""
        with suppress(ConnectionResetError):
            answered = held.recv(1000)
    # A process that had gone on would have refused the slow body.
    assert answered == b""


def test_a_caller_that_leaves_is_seen_by_the_replica(
    balancer: Balancer, replicas: tuple[Server, Server]
) -> None:
    def left() -> int:
        return sum(entry.get("status") == 499 for replica in replicas for entry in replica.log)

    before = left()
    port = int(balancer.url.rpartition(":")[2])
    body = request_of(
        images=[data_url(encoded(picture(seed=seed))) for seed in range(8)],
        image=None,
        prompts=[f"thing {number}" for number in range(16)],
        options={"size": 384, "cache": False},
    )

    def one_has_left() -> bool:
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(posted(body))
            # Of one who leaves earlier, no replica would hear.
            balancer.eventually(
                lambda: (
                    any(each.metric("legrad_requests_in_progress") for each in replicas)
                    or bool(select([caller], [], [], 0)[0])
                )
            )
        return left() > before

    # One that was answered meanwhile did not leave.
    balancer.eventually(one_has_left)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("GET", "/%6detrics"),
        ("POST", "/models/tiny-tiny/load"),
        ("DELETE", "/models/tiny-tiny"),
    ],
)
def test_routes_of_a_single_replica_are_refused(balancer: Balancer, method: str, path: str) -> None:
    problem(balancer.client.request(method, path), 403, "replica-only")


def test_a_request_keeps_its_id_or_gets_one(
    balancer: Balancer, replicas: tuple[Server, Server]
) -> None:
    given = balancer.client.get("/health/live", headers={"X-Request-ID": "balanced-1"})
    assert given.headers["x-request-id"] == "balanced-1"
    bad = balancer.client.get("/health/live", headers={"X-Request-ID": 'a"b'})
    found = bad.headers["x-request-id"]
    assert found != 'a"b'
    balancer.eventually(
        lambda: any(entry.get("request_id") == found for each in replicas for entry in each.log)
    )


def test_a_second_id_cannot_break_the_balancer_s_answer_or_log(balancer: Balancer) -> None:
    ids = [("X-Request-ID", "balanced-1"), ("X-Request-ID", '","error":"x')]
    answered = problem(balancer.client.get("/metrics", headers=ids), 403, "replica-only")
    assert re.fullmatch("[0-9a-f-]{36}", answered["request_id"])


def test_a_body_of_the_largest_size_passes_and_a_larger_one_is_the_service_s_to_refuse(
    balancer: Balancer,
) -> None:
    noise = "A" * 31_000_000
    passed = balancer.client.post("/explain", json=request_of(image=noise))
    assert passed.status_code == 422
    for _ in range(10):
        refused = balancer.client.post("/explain", json=request_of(image=noise + "A" * 2_000_000))
        problem(refused, 413, "body-too-large")


def test_callers_cannot_claim_another_address() -> None:
    with PictureSite(sends(answer(b"", Server="secret/1.0"))) as site:
        with Balancer(f"127.0.0.1:{site.port}", NOWHERE) as balancer:
            answered = balancer.client.get(
                "/echo",
                headers={
                    "X-Forwarded-For": "10.1.2.3",
                    "Forwarded": "for=10.1.2.3",
                    "X-Forwarded-Proto": "https",
                },
            )
        (head,) = [each for each in site.heads if each.startswith("GET /echo")]
        assert "10.1.2.3" not in head
        lines = head.lower().splitlines()
        assert "x-forwarded-for: 127.0.0.1" in lines
        assert "x-forwarded-proto: http" in lines
        # No connection is kept that the replica might be about to close.
        assert "connection: close" in lines
        assert "server" not in answered.headers


def test_slow_bodies_of_one_address_leave_places_for_others(
    replicas: tuple[Server, Server],
) -> None:
    with ExitStack() as stack:
        balancer = stack.enter_context(
            Balancer(*(address(each) for each in replicas), requests_of_an_address=2)
        )
        balancer.wait_for_replicas("UP", "UP")
        port = int(balancer.url.rpartition(":")[2])
        for _ in range(2):
            held = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            held.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        balancer.eventually(lambda: balancer.requests_now(1) + balancer.requests_now(2) == 2)
        refused = balancer.client.post("/explain", json=work(20, 0))
        check_against_contract(refused.json(), "ProblemDetails")
        assert (refused.status_code, refused.json()["error"]) == (429, "too-many-requests")
        assert refused.headers["retry-after"] == "1"
        elsewhere = httpx.HTTPTransport(local_address="127.0.0.5")
        other = stack.enter_context(httpx.Client(transport=elsewhere, timeout=60))
        answered = other.post(f"http://127.0.0.1:{port}/explain", json=work(20, 0))
        assert answered.status_code == 200, answered.text


def test_tls_ends_at_the_balancer(replicas: tuple[Server, Server], tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "tls.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with (
        Balancer(*(address(each) for each in replicas), tls_certificate=certificate) as balancer,
        httpx.Client(base_url=balancer.tls_url, verify=context, timeout=60) as client,
    ):
        answered = client.post("/explain", json=request_of())
        assert answered.status_code == 200
        assert "max-age" in answered.headers["strict-transport-security"]
        problem(client.get("/metrics"), 403, "replica-only")


def test_a_renewed_certificate_is_served_after_a_reload(tmp_path: Path) -> None:
    certificate = tmp_path / "tls.pem"

    def issued() -> bytes:
        issue = trustme.CA().issue_cert("localhost")
        issue.private_key_and_cert_chain_pem.write_to_path(certificate)
        return ssl.PEM_cert_to_DER_cert(issue.cert_chain_pems[0].bytes().decode())

    def served(by: Balancer) -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        port = int(by.tls_url.rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port)) as connection,
            context.wrap_socket(connection) as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""

    first = issued()
    with Balancer(NOWHERE, NOWHERE, tls_certificate=certificate) as balancer:
        assert served(balancer) == first
        renewed = issued()
        assert served(balancer) == first
        balancer.reload()
        balancer.eventually(lambda: served(balancer) == renewed)
