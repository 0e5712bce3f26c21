"""Pages of other origins, in a browser that enforces CORS."""

import http.server
from contextlib import AbstractContextManager
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.support.api_keys import bearer
from tests.support.http_servers import http_server
from tests.support.pictures import request_of
from tests.support.running_app import RunningApp

pytestmark = pytest.mark.slow

KEY = "key"
ASK = """async ([url, headers, body]) => {
    const send = { method: "POST", headers, body: JSON.stringify(body) };
    try {
        const answer = await fetch(`${url}/explain`, send);
        return {
            status: answer.status,
            id: answer.headers.get("X-Request-ID"),
            retry: answer.headers.get("Retry-After"),
            body: await answer.json(),
        };
    } catch (error) {
        return { refused: String(error) };
    }
}"""


class _Blank(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Another application</title>")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def site() -> AbstractContextManager[str]:
    """Serve a blank page at an origin of its own; the context has the origin."""
    return http_server(_Blank)


def asked_from(
    browser: Browser, origin: str, running: RunningApp, body: dict[str, Any]
) -> dict[str, Any]:
    """Return what a script of a page gets from the server."""
    headers = {"Content-Type": "application/json", "X-Request-ID": "page-1", **bearer(KEY)}
    page = browser.new_page()
    try:
        page.goto(origin)
        url = f"http://{running.host}:{running.port}"
        found: dict[str, Any] = page.evaluate(ASK, [url, headers, body])
        return found
    finally:
        page.close()


def test_a_page_of_a_named_origin_reads_answers_and_problems(
    browser: Browser, tiny_model: str
) -> None:
    with site() as origin, RunningApp(tiny_model, key=KEY, cors_origins=origin) as running:
        found = asked_from(browser, origin, running, request_of())
        assert (found["status"], found["id"]) == (200, "page-1")
        assert found["body"]["images"][0]["targets"]
        assert asked_from(browser, origin, running, {})["body"]["status"] == 422
        with running.full():
            refused = asked_from(browser, origin, running, request_of())
        assert refused["status"] == 429
        assert int(refused["retry"]) >= 1


def test_a_page_of_another_origin_reads_nothing(browser: Browser, tiny_model: str) -> None:
    with (
        site() as named,
        site() as other,
        RunningApp(tiny_model, key=KEY, cors_origins=named) as running,
    ):
        assert "Failed to fetch" in asked_from(browser, other, running, request_of())["refused"]
