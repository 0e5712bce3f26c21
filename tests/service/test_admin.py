"""Who may load and unload models."""

from collections.abc import Iterator

import pytest
from running_app import RunningApp

KEY = "clé with spaces"
MODEL = "tiny-tiny"
ROUTES = [("POST", f"/models/{MODEL}/load"), ("DELETE", f"/models/{MODEL}")]


@pytest.fixture(scope="module")
def guarded(tiny_model: str) -> Iterator[RunningApp]:
    with RunningApp(tiny_model, admin_key=KEY) as started:
        yield started


def bearer(key: str) -> dict[str, bytes]:
    return {"Authorization": f"Bearer {key}".encode()}


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_in_the_settings_the_routes_are_off(
    tiny_model: str, key: str | None, method: str, path: str
) -> None:
    with RunningApp(tiny_model, admin_key=key) as running:
        for headers in ({}, {"Authorization": b"Bearer"}, bearer("None"), bearer(KEY)):
            refused = running.client.request(method, path, headers=headers)
            assert (refused.status_code, refused.json()["error"]) == (403, "admin-disabled")
            assert "LEGRAD_ADMIN_KEY" in refused.json()["detail"]
        assert running.explain().status_code == 200


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("DELETE", "/models/nothing")])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": b"Bearer"},
        bearer("wrong"),
        bearer(KEY[:-1]),
        bearer(KEY + "x"),
        bearer("ÿ"),
        {"Authorization": f"Basic {KEY}".encode()},
        {"Authorization": KEY.encode()},
        {"Authorization": b"Bearer \xff\xfe"},
        {"X-Admin-Key": KEY.encode()},
    ],
    ids=repr,
)
def test_a_missing_or_wrong_key_is_unauthorized(
    guarded: RunningApp, method: str, path: str, headers: dict[str, bytes]
) -> None:
    refused = guarded.client.request(method, path, headers=headers)
    assert (refused.status_code, refused.json()["error"]) == (401, "unauthorized")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert refused.headers["content-type"] == "application/problem+json"
    assert KEY not in refused.text
    assert guarded.client.get(f"/models/{MODEL}/ready").status_code == 200


def test_with_the_key_models_of_the_settings_can_be_changed_and_no_others(
    guarded: RunningApp,
) -> None:
    def call(method: str, path: str) -> tuple[int, str]:
        response = guarded.client.request(method, path, headers=bearer(KEY))
        body = response.json()
        return response.status_code, body.get("error") or body["state"]

    assert call("POST", f"/models/{MODEL}/load") == (200, "ready")
    assert call("DELETE", f"/models/{MODEL}?wait_seconds=30") == (200, "unloaded")
    assert call("POST", f"/models/{MODEL}/load?wait_seconds=30") == (200, "ready")
    assert call("POST", "/models/starter/load") == (404, "unknown-model")
    assert call("DELETE", "/models/nothing") == (404, "unknown-model")
    for wait in ("-1", "61", "nan", "inf", "soon"):
        assert call("DELETE", f"/models/{MODEL}?wait_seconds={wait}") == (422, "invalid-request")
    assert guarded.explain().status_code == 200


def test_the_key_is_shown_nowhere(guarded: RunningApp) -> None:
    assert KEY not in repr(guarded.app.state.settings)
    assert KEY not in guarded.client.get("/metrics").text
    assert KEY not in guarded.client.get("/models").text
