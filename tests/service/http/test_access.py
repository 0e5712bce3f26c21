"""API keys and scopes: which key opens which route, and how others are refused."""

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from service.http.access_routes import AccessRoute
from tests.support.answers import check_against_contract
from tests.support.api_keys import bearer, entry, listed
from tests.support.pictures import request_of
from tests.support.raw_requests import posted
from tests.support.running_app import Held, RunningApp

MODEL = "tiny-tiny"
# By name, which is the key at the same time.
KEYS = {
    "asker": ("explain",),
    "operator": ("admin",),
    "prometheus": ("metrics",),
    "everything": ("explain", "admin", "metrics"),
}
OPEN = {
    "/health/live", "/health/ready", "/docs", "/openapi.json", "/static-offline-docs", "/",
    "/v2/health/live", "/v2/health/ready", "/ping",
    "/explain/{request_id}/progress", "/web/{path:path}",
}  # fmt: skip


@pytest.fixture(scope="module")
def guarded(tiny_model: str) -> Iterator[RunningApp]:
    entries = [entry(name, name, *scopes) for name, scopes in KEYS.items()]
    odd = entry("odd", "clé with spaces", "explain")
    with RunningApp(tiny_model, api_keys=listed(*entries, odd)) as started:
        yield started


def routes_of(routes: Any, prefix: str = "") -> Iterator[tuple[Any, str]]:
    """Yield every route of an application, nested routers included."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route, prefix + route.path
        else:
            yield from routes_of(inner.routes, prefix + route.include_context.prefix)


def problem(response: httpx.Response) -> tuple[int, str]:
    check_against_contract(response.json(), "ProblemDetails")
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["error"]


def test_no_route_forgets_to_say_who_may_use_it(guarded: RunningApp) -> None:
    found = list(routes_of(guarded.app.routes))
    assert {"/explain", "/models", "/metrics", "/health/live"} <= {path for _, path in found}
    for route, path in found:
        open_to_all = not route.needs if isinstance(route, AccessRoute) else True
        assert open_to_all == (path in OPEN), path
        if path in OPEN:
            continue
        for method in route.methods:
            answer = guarded.client.request(method, path.replace("{model_id}", MODEL))
            assert answer.status_code == 401, f"{method} {path}"


def test_the_contract_says_who_may_use_it(guarded: RunningApp) -> None:
    document = guarded.client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            named = {
                scope
                for way in operation.get("security", [])
                for scope in way.get("ApiKey", [])
            }  # fmt: skip
            assert bool(named) == (path not in OPEN), path
            for name, scopes in KEYS.items():
                answer = guarded.client.request(
                    method, path.replace("{model_id}", "nothing"), headers=bearer(name)
                )
                passes = not named or bool(named & set(scopes))
                assert (answer.status_code == 403) != passes, f"{name} {method} {path}"


@pytest.mark.parametrize("path", sorted(OPEN - {"/", "/static-offline-docs", "/web/{path:path}"}))
def test_open_routes_need_no_key(guarded: RunningApp, path: str) -> None:
    assert guarded.client.get(path).status_code == 200
    assert guarded.client.get(path, headers=bearer("wrong")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": b"Bearer"},
        bearer("wrong"),
        bearer("aske"),
        bearer("askerx"),
        {"Authorization": b"Bearer \xff\xfe"},
        {"Authorization": b"Basic asker"},
        {"Authorization": b"asker"},
        {"X-API-Key": b"asker"},
        {"Cookie": b"key=asker"},
    ],
    ids=repr,
)
def test_a_missing_or_wrong_key_is_unauthorized(
    guarded: RunningApp, headers: dict[str, Any]
) -> None:
    for method, path in (("POST", "/explain"), ("DELETE", f"/models/{MODEL}"), ("GET", "/metrics")):
        refused = guarded.client.request(method, path, headers=headers)
        assert problem(refused) == (401, "unauthorized")
        assert refused.headers["www-authenticate"].startswith("Bearer")
    assert guarded.client.get("/health/ready").status_code == 200


def test_of_two_keys_none_counts(guarded: RunningApp) -> None:
    valid, wrong = ("Authorization", "Bearer asker"), ("Authorization", "Bearer wrong")
    assert guarded.client.get("/models", headers=[valid]).status_code == 200
    for headers in ([valid, wrong], [wrong, valid], [valid, valid]):
        assert problem(guarded.client.get("/models", headers=headers)) == (401, "unauthorized")


def test_the_key_may_be_any_text_and_the_scheme_in_any_case(guarded: RunningApp) -> None:
    for header in ("Bearer clé with spaces", "bearer   clé with spaces"):
        sent: dict[str, Any] = {"Authorization": header.encode()}
        assert guarded.client.get("/models", headers=sent).status_code == 200


def test_the_hash_of_nothing_opens_nothing(tiny_model: str) -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \r\n\r\n"
    with (
        RunningApp(tiny_model, api_keys=listed(entry("unset", "", "metrics"))) as running,
        socket.create_connection((running.host, running.port), timeout=60) as caller,
    ):
        caller.sendall(request)
        assert caller.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_a_key_without_the_scope_is_forbidden_and_told_which(guarded: RunningApp) -> None:
    for name, method, path, missing in (
        ("prometheus", "POST", "/explain", "explain"),
        ("asker", "GET", "/metrics", "metrics"),
        ("asker", "DELETE", f"/models/{MODEL}", "admin"),
        ("prometheus", "GET", "/models", "admin or explain"),
    ):
        refused = guarded.client.request(method, path, headers=bearer(name))
        assert problem(refused) == (403, "forbidden")
        assert f"scope {missing}" in refused.json()["detail"]
        assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
    assert guarded.explain(None, **bearer("asker")).status_code == 200
    assert guarded.client.get("/metrics", headers=bearer("prometheus")).status_code == 200


def test_a_request_is_refused_before_its_body_is_sent(guarded: RunningApp) -> None:
    with socket.create_connection((guarded.host, guarded.port), timeout=60) as caller:
        caller.sendall(b"POST /explain HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        assert caller.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_the_log_names_the_key_and_nothing_shows_it(tiny_model: str) -> None:
    secret = entry("asker", "a long secret", "explain", "metrics")
    with RunningApp(tiny_model, api_keys=listed(secret)) as running, capture_logs() as logs:
        answers = [
            running.explain(None, **bearer("a long secret")),
            running.explain(None, **bearer("another secret")),
            running.client.get("/metrics", headers=bearer("a long secret")),
            running.client.get("/health/live"),
        ]
        assert [answer.status_code for answer in answers] == [200, 401, 200, 200]
        lines = [running.line_of(answer, logs) for answer in answers]
        assert [line["key"] for line in lines] == ["asker", None, "asker", None]
        assert {line["client"] for line in lines} == {"127.0.0.1"}
        for shown in (repr(logs), answers[2].text, repr(running.settings)):
            assert "secret" not in shown
            assert secret["sha256"] not in shown


@pytest.mark.parametrize(
    ("address", "key", "owner"),
    [
        ("10.0.0.1", None, "address 10.0.0.1"),
        ("10.0.0.1", "a wrong key", "address 10.0.0.1"),
        ("10.0.0.1", "prometheus", "key prometheus"),
        ("2001:db8:1:2:3:4:5:6", None, "address 2001:db8:1:2::"),
        ("2001:db8:1:2::7", None, "address 2001:db8:1:2::"),
        ("unix", None, "address unix"),
    ],
)
def test_a_request_shares_the_server_in_the_name_of_its_key_or_else_its_address(
    guarded: RunningApp, address: str, key: str | None, owner: str
) -> None:
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    scope = {"type": "http", "headers": headers, "client": (address, 1)}
    assert guarded.state.access.owner(scope) == owner


def limited(model: str, **limits: Any) -> RunningApp:
    """An application with one limited key and one for the test itself."""
    own = entry("test", "test", "explain", "metrics")
    running = RunningApp(model, api_keys=listed(entry("asker", "asker", "explain", **limits), own))
    running.client.headers.update(bearer("test"))
    return running


def test_a_key_has_no_more_requests_at_once_than_it_may(tiny_model: str) -> None:
    with limited(tiny_model, max_concurrent=2) as running:
        with Held(running) as held:
            asked = [running.explain_in_background(None, **bearer("asker")) for _ in range(2)]
            running.eventually(lambda: running.metric("legrad_requests_in_progress") == 2)
            refused = running.explain(None, **bearer("asker"))
            assert problem(refused) == (429, "key-concurrency")
            assert int(refused.headers["retry-after"]) >= 1
            assert running.metric('legrad_rejected_total{reason="key-concurrency"}') == 1
            # Other keys are not affected.
            other = running.explain_in_background()
            held.release()
            assert [each.result(60).status_code for each in (*asked, other)] == [200] * 3
        # Failed requests release their permit as well.
        for _ in range(3):
            assert running.explain({"prompts": 1}, **bearer("asker")).status_code == 422
        assert running.explain(None, **bearer("asker")).status_code == 200


def test_a_client_that_leaves_gives_its_place_back(tiny_model: str) -> None:
    with limited(tiny_model, max_concurrent=1) as running, Held(running) as held:
        with socket.create_connection((running.host, running.port)) as leaving:
            leaving.sendall(posted(request_of(), **bearer("asker")))
            assert held.entered.wait(60)
            refused = running.client.get("/models", headers=bearer("asker"))
            assert problem(refused) == (429, "key-concurrency")
        running.eventually(
            lambda: running.client.get("/models", headers=bearer("asker")).status_code == 200
        )
        held.release()


def test_a_key_sends_no_more_requests_in_a_time_than_it_may(tiny_model: str) -> None:
    with limited(tiny_model, rate="3/hour") as running:
        statuses = [
            running.client.get("/models", headers=bearer("asker")).status_code for _ in range(3)
        ]
        assert statuses == [200] * 3
        refused = running.explain(None, **bearer("asker"))
        assert problem(refused) == (429, "key-rate")
        # The rate allows one more every twenty minutes.
        assert refused.headers["retry-after"] == "1200"
        assert running.metric('legrad_rejected_total{reason="key-rate"}') == 1
        assert running.explain().status_code == 200


def test_a_key_may_send_again_after_the_time_it_was_told(tiny_model: str) -> None:
    with limited(tiny_model, rate="1/second") as running:

        def ask() -> httpx.Response:
            return running.client.get("/models", headers=bearer("asker"))

        assert ask().status_code == 200
        running.eventually(lambda: ask().status_code == 200)


def test_a_key_asks_for_no_more_work_in_a_minute_than_it_may(tiny_model: str) -> None:
    with limited(tiny_model, max_cost_per_minute=12) as running:
        one = request_of()
        several = {**one, "images": [one["image"]] * 4}
        del several["image"]
        # Four images with gradients of one prompt: a little more than four, cached or not.
        assert running.explain(several, **bearer("asker")).status_code == 200
        assert running.explain(several, **bearer("asker")).status_code == 200
        refused = running.explain(several, **bearer("asker"))
        assert problem(refused) == (429, "key-cost")
        assert 24 <= int(refused.headers["retry-after"]) < 45
        assert running.metric('legrad_rejected_total{reason="key-cost"}') == 1
        # Requests that explain nothing cost nothing, and other keys have their own work.
        assert running.client.get("/models", headers=bearer("asker")).status_code == 200
        assert running.explain(several).status_code == 200


def test_every_instance_of_another_protocol_counts_as_work(tiny_model: str) -> None:
    with limited(tiny_model, max_cost_per_minute=13.5) as running:
        assert [ask_four(running).status_code for _ in range(3)] == [200, 200, 429]
        # Nothing of a refused request stays charged.
        for _ in range(2):
            assert running.explain(None, **bearer("asker")).status_code == 200


def ask_four(running: RunningApp) -> httpx.Response:
    """Send four instances with questions of their own, each a command."""
    instances = [request_of(prompts=[f"prompt {number}"]) for number in range(4)]
    path = f"/v1/models/{running.model.id}:explain"
    return running.client.post(path, json={"instances": instances}, headers=bearer("asker"))


def test_a_request_above_a_whole_minute_of_work_is_told_so(tiny_model: str) -> None:
    with limited(tiny_model, max_cost_per_minute=0.5) as running:
        refused = running.explain(None, **bearer("asker"))
        assert problem(refused) == (422, "limit-exceeded")
        assert "may ask for 0.5 in a minute" in refused.json()["detail"]


def test_instances_that_together_are_above_a_whole_minute_of_work_are_told_so(
    tiny_model: str,
) -> None:
    with limited(tiny_model, max_cost_per_minute=4) as running:
        refused = ask_four(running)
        assert (refused.status_code, refused.json()["code"]) == (422, "limit-exceeded")
        for _ in range(2):
            assert running.explain(None, **bearer("asker")).status_code == 200
