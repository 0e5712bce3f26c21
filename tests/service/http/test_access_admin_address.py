"""Callers and operators have separate addresses."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.running_app import RunningApp

MODEL = "tiny-tiny"


@pytest.fixture(scope="module")
def parted(tiny_model: str) -> Iterator[tuple[RunningApp, httpx.Client]]:
    with RunningApp(tiny_model, key="key", admin_host="127.0.0.1", admin_port=0) as running:
        url = f"http://127.0.0.1:{running.admin_port}"
        with httpx.Client(base_url=url, headers=running.client.headers, timeout=60) as admin:
            yield running, admin


def test_each_address_answers_its_own_routes(parted: tuple[RunningApp, httpx.Client]) -> None:
    running, admin = parted
    for method, path in (
        ("GET", "/metrics"),
        ("POST", f"/models/{MODEL}/load"),
        ("DELETE", f"/models/{MODEL}?wait_seconds=30"),
        ("POST", f"/models/{MODEL}/load?wait_seconds=30"),
    ):
        elsewhere = running.client.request(method, path)
        assert (elsewhere.status_code, elsewhere.json()["error"]) == (404, "not-found")
        assert admin.request(method, path).status_code in (200, 202)
    elsewhere = admin.post("/explain", json={})
    assert (elsewhere.status_code, elsewhere.json()["error"]) == (404, "not-found")
    assert running.explain().status_code == 200
    for path in ("/health/live", "/health/ready", "/models", f"/models/{MODEL}"):
        assert running.client.get(path).status_code == admin.get(path).status_code == 200


def test_headers_do_not_move_a_request_to_the_other_address(
    parted: tuple[RunningApp, httpx.Client],
) -> None:
    running, admin = parted
    claims = {
        "Host": f"127.0.0.1:{running.admin_port}",
        "X-Forwarded-Host": f"127.0.0.1:{running.admin_port}",
        "X-Forwarded-Port": str(running.admin_port),
        "Forwarded": f'host="127.0.0.1:{running.admin_port}"',
    }
    assert running.client.get("/metrics", headers=claims).status_code == 404
    assert admin.get("/metrics", headers={"Host": f"a:{running.port}"}).status_code == 200


def test_the_admin_address_needs_keys_as_well(parted: tuple[RunningApp, httpx.Client]) -> None:
    _, admin = parted
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}):
        assert admin.get("/metrics", headers=headers).status_code == 401
        assert admin.delete(f"/models/{MODEL}", headers=headers).status_code == 401


def test_without_keys_metrics_are_open_there_and_only_there(tiny_model: str) -> None:
    with RunningApp(tiny_model, admin_port=0) as running:
        assert running.client.get("/metrics").status_code == 404
        url = f"http://127.0.0.1:{running.admin_port}"
        assert httpx.get(f"{url}/metrics", timeout=60).status_code == 200
        refused = httpx.delete(f"{url}/models/{MODEL}", timeout=60)
        assert (refused.status_code, refused.json()["error"]) == (403, "admin-disabled")
