"""Headers for browsers: security policies and cross-origin requests."""

from collections.abc import Iterator

import httpx
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from service.settings import Settings
from tests.support.running_app import RunningApp

PAGE = "https://app.example.org"
ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
STRICT = "default-src 'none'; frame-ancestors 'none'"


@pytest.fixture(scope="module")
def friendly(tiny_model: str) -> Iterator[RunningApp]:
    with RunningApp(tiny_model, key="key", cors_origins=f"{PAGE}, http://localhost:3000") as app:
        yield app


def preflight(running: RunningApp, origin: str, method: str = "POST") -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization, content-type, traceparent, tracestate",
    }
    del running.client.headers["Authorization"]
    try:
        return running.client.options("/explain", headers=headers)
    finally:
        running.client.headers["Authorization"] = "Bearer key"


def test_every_answer_has_security_headers(running: RunningApp) -> None:
    answers = [
        running.explain(),
        running.explain({"prompts": 1}),
        running.client.get("/nowhere"),
        running.client.get("/explain"),
        running.client.get("/models"),
        running.client.get("/metrics"),
        running.client.get("/health/live"),
        running.client.get("/openapi.json"),
        running.client.delete("/models/tiny-tiny"),
        running.client.post("/explain", content=b"x" * 2_000_001),
    ]
    for answer in answers:
        assert ALWAYS.items() <= dict(answer.headers).items(), answer.url
        assert answer.headers["content-security-policy"] == STRICT
        assert answer.headers["cache-control"] == "no-store"


def test_pages_have_a_policy_of_their_own_and_their_files_can_be_kept(running: RunningApp) -> None:
    page = running.client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert ALWAYS.items() <= dict(page.headers).items()
    assert "script-src 'self' 'sha256-" in policy
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]
    assert "frame-ancestors 'none'" in policy
    script = running.client.get("/static-offline-docs/swagger-ui-bundle.js")
    assert script.headers["etag"]
    # Kept, but checked at each use: the server may have been updated.
    assert script.headers["cache-control"] == "no-cache"
    assert ALWAYS.items() <= dict(script.headers).items()


@pytest.mark.parametrize(
    ("method", "status"), [("GET", 200), ("POST", 200), ("PUT", 200), ("DELETE", 400)]
)
def test_a_page_may_use_the_methods_of_the_explaining_routes(
    friendly: RunningApp, method: str, status: int
) -> None:
    assert preflight(friendly, PAGE, method).status_code == status


def test_no_page_may_ask_by_default(running: RunningApp) -> None:
    answer = running.client.get("/models", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    options = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    assert running.client.options("/explain", headers=options).status_code == 405


def test_pages_of_the_settings_may_ask_and_read_errors_too(friendly: RunningApp) -> None:
    allowed = preflight(friendly, PAGE)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    listed = allowed.headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "traceparent", "tracestate", "content-encoding"} <= set(listed)
    assert ALWAYS.items() <= dict(allowed.headers).items()
    for answer in (
        friendly.explain(None, Origin=PAGE),
        friendly.explain({"prompts": 1}, Origin=PAGE),
        friendly.explain(None, Origin=PAGE, Authorization="Bearer wrong"),
    ):
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers


def test_preflight_requests_are_counted_and_logged(friendly: RunningApp) -> None:
    counted = 'legrad_requests_total{route="unmatched",status="200"}'
    before = friendly.metric(counted)
    with capture_logs() as entries:
        noted = friendly.line_of(preflight(friendly, PAGE), entries)
    assert friendly.metric(counted) == before + 1
    assert (noted["event"], noted["method"], noted["status"]) == ("answered", "OPTIONS", 200)


def test_other_origins_are_refused(friendly: RunningApp) -> None:
    for origin in (
        "https://evil.example.org",
        f"{PAGE}.evil.org",
        "http://app.example.org",
        "null",
    ):
        assert preflight(friendly, origin).status_code == 400
        answer = friendly.explain(None, Origin=origin)
        assert "access-control-allow-origin" not in answer.headers
    assert preflight(friendly, PAGE, "DELETE").status_code == 400


def test_all_pages_may_ask_without_credentials(tiny_model: str) -> None:
    with RunningApp(tiny_model, cors_origins="*") as running:
        answer = running.explain(None, Origin=PAGE, Cookie="a=b")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["example.org", "https://example.org/", "https://*.example.org", "null", "HTTPS://a"]
)
def test_an_invalid_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="not an origin"):
        Settings.model_validate({"cors_origins": origin})
