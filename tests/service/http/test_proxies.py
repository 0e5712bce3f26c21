"""Behind a path prefix: a real nginx, real requests and a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect
from structlog.testing import capture_logs

from legrad_engine.errors import InvalidOptionError
from service.app import create_app
from service.settings import Settings
from tests.support.browser import Visitor, chromium
from tests.support.pictures import request_of
from tests.support.running_app import RunningApp
from tests.support.running_nginx import Location, Nginx

# The prefix of each location, with the prefix that the server knows.
KNOWN = {"/bare": None, "/told": "/told", "/kept": "/kept", "/nested/told": "/nested/told",
         "/unix": "/unix"}  # fmt: skip


@pytest.fixture(scope="module")
def proxy(
    running: RunningApp, tiny_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("nginx")
    uds = folder / "legrad.sock"
    told = ("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "203.0.113.9")
    with (
        RunningApp(tiny_model, trusted_proxies="127.0.0.1") as trusting,
        RunningApp(tiny_model, root_path="/kept/") as rooted,
        RunningApp(tiny_model, uds=uds, trusted_proxies="unix"),
        Nginx(
            folder,
            [
                Location("/bare", f"127.0.0.1:{running.port}"),
                Location(
                    "/told", f"127.0.0.1:{trusting.port}",
                    headers=[*told, ("X-Forwarded-Prefix", "/told")],
                ),
                Location(
                    "/nested/told", f"127.0.0.1:{trusting.port}",
                    headers=[*told, ("X-Forwarded-Prefix", '"/nested, /told"')],
                ),
                Location("/kept", f"127.0.0.1:{rooted.port}", removed=False),
                Location("/removed/kept", f"127.0.0.1:{rooted.port}"),
                Location(
                    "/unix", f"unix:{uds}", headers=[*told, ("X-Forwarded-Prefix", "/unix")]
                ),
            ],
        ) as nginx,
    ):  # fmt: skip
        yield nginx


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("prefix", KNOWN)
def test_the_documentation_and_the_page_work_in_a_browser(
    proxy: Nginx, browser: Browser, prefix: str
) -> None:
    visitor = Visitor(browser, f"{proxy.url}{prefix}/")
    page = visitor.arrive()
    assert page.locator("#model option").count() == 1
    page.goto(f"{proxy.url}{prefix}/docs")
    operation = page.locator(".opblock", has=page.get_by_text("/models", exact=True)).first
    operation.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    status = operation.locator(".live-responses-table td.response-col_status").last
    expect(status).to_have_text("200")
    expect(operation.locator(".request-url")).to_contain_text(f"{proxy.url}{prefix}/models")
    assert visitor.complaints == visitor.strangers == []
    visitor.leave()


@pytest.mark.parametrize(("prefix", "known"), KNOWN.items())
def test_the_contract_names_the_server(proxy: Nginx, prefix: str, known: str | None) -> None:
    document = httpx.get(f"{proxy.url}{prefix}/openapi.json").json()
    assert document["servers"] == [{"url": known or "."}]
    base = httpx.URL(f"{proxy.url}{prefix}/openapi.json").join(document["servers"][0]["url"])
    assert str(base).rstrip("/") == f"{proxy.url}{prefix}"


@pytest.mark.parametrize("prefix", [*KNOWN, "/removed/kept"])
def test_every_route_is_below_the_prefix(proxy: Nginx, prefix: str) -> None:
    with httpx.Client(base_url=f"{proxy.url}{prefix}") as client:
        assert client.post("/explain", json=request_of()).status_code == 200
        missing = client.get("/nothing")
        assert missing.status_code == 404
        instance = {"/bare": "", "/removed/kept": "/kept"}.get(prefix, prefix)
        assert missing.json()["instance"] == f"{instance}/nothing"


@pytest.mark.parametrize("prefix", [*KNOWN, "/removed/kept"])
def test_a_path_with_a_last_slash_is_named_without_it_below_the_prefix(
    proxy: Nginx, prefix: str
) -> None:
    answer = httpx.get(f"{proxy.url}{prefix}/models/?a=b")
    assert answer.status_code == 404
    below = "/kept/models" if prefix == "/bare/kept" else "/models"
    assert f"but at {below}: leave out the slash" in answer.json()["detail"]


def test_the_prefix_alone_leads_to_the_page(tiny_model: str) -> None:
    with RunningApp(tiny_model, root_path="/legrad") as running:
        answer = running.client.get("/legrad")
        assert answer.next_request is not None
        assert answer.next_request.url.path == "/legrad/"
        assert running.client.get("/legrad/").text == running.client.get("/").text


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
def test_no_route_redirects_to_its_path_without_a_last_slash(
    running: RunningApp, method: str
) -> None:
    for route in running.state.routes:
        path = route.path.replace("{", "").replace("}", "").rstrip("/")
        answer = running.client.request(method, f"{path}/")
        assert not answer.is_redirect, route.path


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/metrics/", "/metrics"),
        ("/explain/", "/explain"),
        ("/docs//", "/docs"),
        ("/models/x%3Fy%23z/", "/models/x%3Fy%23z"),
        ("/models/a%2Fb/", "/models/a%2Fb"),
    ],
)
def test_a_path_with_a_last_slash_is_told_the_path_without_it(
    running: RunningApp, path: str, named: str
) -> None:
    answer = running.client.post(path, json=request_of())
    assert (answer.status_code, answer.json()["error"]) == (404, "not-found")
    assert answer.json()["detail"] == (
        f"There is nothing at this path, but at {named}: leave out the slash at the end."
    )


@pytest.mark.parametrize(
    "claim", ["//evil.example", "evil", "/a//b", "/../x", "/a?b", "https://evil.example/x", "/" * 9]
)
def test_a_header_that_is_no_path_is_no_prefix(tiny_model: str, claim: str) -> None:
    with RunningApp(tiny_model, trusted_proxies="127.0.0.1") as trusting:
        document = trusting.client.get("/openapi.json", headers={"X-Forwarded-Prefix": claim})
    assert document.json()["servers"] == [{"url": "."}]


def test_a_prefix_from_an_untrusted_client_is_ignored(running: RunningApp) -> None:
    claim = {"X-Forwarded-Prefix": "/evil"}
    assert running.client.get("/openapi.json", headers=claim).json()["servers"] == [{"url": "."}]
    assert running.client.get("/nothing", headers=claim).json()["instance"] == "/nothing"


def test_a_client_of_a_unix_socket_is_trusted_only_if_the_settings_say_so(
    tiny_model: str, tmp_path: Path
) -> None:
    claim = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Prefix": "/told"}
    found: dict[str, Any] = {}
    for proxies in ("", "unix"):
        with (
            RunningApp(tiny_model, uds=tmp_path / "a.sock", trusted_proxies=proxies) as local,
            capture_logs() as logs,
        ):
            answer = local.client.get("/openapi.json", headers=claim)
            client = local.line_of(answer, logs)["client"]
            found[proxies] = (client, answer.json()["servers"][0]["url"])
    assert found == {"": ("unix", "."), "unix": ("203.0.113.9", "/told")}


def test_a_prefix_that_is_a_path_of_the_server_is_refused() -> None:
    for prefix in ("/models", "/v1/models", "/v2"):
        with pytest.raises(InvalidOptionError, match="LEGRAD_ROOT_PATH"):
            create_app(Settings(root_path=prefix))


def test_an_overloaded_server_refuses_below_its_prefix(tiny_model: str) -> None:
    with RunningApp(tiny_model, root_path="/legrad") as running, running.full():
        assert running.client.post("/legrad/explain", json=request_of()).status_code == 429


@pytest.mark.parametrize("removed", [False, True])
def test_an_encoded_slash_in_a_name_stays_one_below_a_prefix(
    tiny_model: str, removed: bool
) -> None:
    with RunningApp(tiny_model, root_path="/kept") as rooted:
        answer = rooted.client.get(f"{'' if removed else '/kept'}/models/a%2Fb")
    assert (answer.status_code, answer.json()["error"]) == (404, "unknown-model")
    assert "a/b" in answer.json()["detail"]
