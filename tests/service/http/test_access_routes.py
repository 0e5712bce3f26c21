"""Query parameters that would be ignored are refused, and HEAD is answered wherever GET is."""

import urllib.parse

import pytest
from starlette.routing import Route

from service.http import access_routes
from tests.support.answers import refused
from tests.support.pictures import encoded
from tests.support.running_app import RunningApp


def paths(running: RunningApp, method: str) -> list[str]:
    """Return the paths of the contract that have a method, with the name of the model."""
    document = running.client.get("/openapi.json").json()
    names = {"{model_id}": running.model.id, "{version}": "1", "{request_id}": "abc"}
    found = [path for path, operations in document["paths"].items() if method in operations]
    for template, name in names.items():
        found = [path.replace(template, name) for path in found]
    return [path.replace("/1", "/1.0") if "explanations" in path else path for path in found]


@pytest.mark.parametrize("method", ["get", "post", "put", "delete"])
def test_an_unknown_query_parameter_is_refused_on_every_path(tiny_model: str, method: str) -> None:
    with RunningApp(tiny_model, key="key") as running:
        found = paths(running, method)
        assert found
        for path in found:
            content = encoded() if "explanations" in path else None
            answer = running.client.request(method, path, params={"wibble": "x"}, content=content)
            assert answer.status_code == 422, (path, answer.text)
            assert "wibble" in answer.text, path
            assert running.client.get("/models").json()["models"][0]["state"] == "ready"


def test_a_query_parameter_of_the_body_is_led_there(running: RunningApp) -> None:
    answer = running.client.post("/explain?model=nope", files={"image": encoded()})
    detail = refused(answer, 422, "invalid-request", "query.model")
    assert "reads its fields from the body" in detail


@pytest.mark.parametrize(
    ("query", "mention"),
    [
        ("wait_second=1", "is it 'wait_seconds'?"),
        ("wibble", "there is wait_seconds."),
        ("wait_seconds=1&wait_seconds=2", "more than once"),
        ("x" * 5000, "there is wait_seconds."),
    ],
)
def test_a_misspelt_or_repeated_query_parameter_is_named(
    tiny_model: str, query: str, mention: str
) -> None:
    with RunningApp(tiny_model, key="key") as running:
        answer = running.client.post(f"/models/{running.model.id}/load?{query}")
        assert answer.status_code == 422
        assert mention in answer.json()["detail"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/models", "/models/a/classes", "/explain", "/explanations/a"])
def test_more_parameters_than_any_path_has_are_refused_unparsed(
    running: RunningApp, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[object] = []
    monkeypatch.setattr(access_routes, "QueryParams", parsed.append)
    answer = running.client.request(method, f"{path}?{'a&' * 30_000}")
    if answer.status_code != 405:
        assert answer.status_code == 422
        assert "more than 1000 parameters" in answer.text
    assert not parsed


def test_a_path_is_decoded_once_however_many_routes_it_is_compared_with(
    running: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def unquote(segment: str) -> str:
        decoded.append(segment)
        return urllib.parse.unquote(segment)

    monkeypatch.setattr(access_routes, "unquote", unquote)
    for method in ("GET", "POST"):
        assert running.client.request(method, "/nothing/of%2fthis").status_code == 404
    assert decoded == ["", "nothing", "of%2fthis"]


def test_a_wrong_method_is_answered_as_such_whatever_its_query(running: RunningApp) -> None:
    assert running.client.patch("/models?wibble=1").status_code == 405


def test_pages_accept_the_parameters_that_links_carry(running: RunningApp) -> None:
    for path in ("/?utm_source=mail", "/docs?x=1", "/web/main.js?v=2"):
        assert running.client.get(path).status_code == 200


def test_a_body_that_an_operation_would_ignore_is_refused(tiny_model: str) -> None:
    with RunningApp(tiny_model, key="key") as running:
        path = f"/models/{running.model.id}"
        for method, address in (("POST", f"{path}/load"), ("DELETE", path)):
            answer = running.client.request(method, address, json={"wait_seconds": 5})
            assert answer.status_code == 400
            assert "into the query" in answer.json()["detail"]
        assert running.client.post(f"{path}/load", json={}).status_code == 200


def test_head_is_answered_wherever_get_is(running: RunningApp) -> None:
    for path in [*paths(running, "get"), "/", "/web/main.js", "/docs", "/openapi.json"]:
        got, head = running.client.get(path), running.client.head(path)
        assert head.status_code == got.status_code, path
        assert head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]
    assert all(
        "HEAD" in {method for other in same(running, route) for method in other.methods or ()}
        for route in running.state.routes
        if "GET" in (route.methods or ())
    )


def test_head_is_not_part_of_the_contract(running: RunningApp) -> None:
    assert paths(running, "head") == []


def same(running: RunningApp, route: Route) -> list[Route]:
    return [other for other in running.state.routes if other.path == route.path]


@pytest.mark.parametrize("name", ["X-Request-Timeout-Ms", "Content-Type"])
def test_a_repeated_header_is_refused(running: RunningApp, name: str) -> None:
    given = [("X-Request-Timeout-Ms", "60000"), ("Content-Type", "application/json")]
    headers = [*given, *((header, value) for header, value in given if header == name)]
    answer = running.client.post("/explain", content=b"{}", headers=headers)
    assert "more than once" in refused(answer, 422, "invalid-request", name)
