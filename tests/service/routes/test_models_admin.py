"""Loading and unloading models by request."""

from typing import Any

import pytest

from tests.support.api_keys import bearer
from tests.support.running_app import RunningApp

KEY = "of an operator"
MODEL = "tiny-tiny"
ROUTES = [("POST", f"/models/{MODEL}/load"), ("DELETE", f"/models/{MODEL}")]


@pytest.mark.parametrize("unset", [{}, {"api_keys": "", "api_keys_file": ""}], ids=repr)
def test_without_keys_the_routes_are_off(tiny_model: str, unset: dict[str, Any]) -> None:
    with RunningApp(tiny_model, **unset) as running:
        for method, path in ROUTES:
            for headers in ({}, {"Authorization": "Bearer"}, bearer("None"), bearer(KEY)):
                refused = running.client.request(method, path, headers=headers)
                assert (refused.status_code, refused.json()["error"]) == (403, "admin-disabled")
                assert "LEGRAD_API_KEYS" in refused.json()["detail"]
        assert running.explain().status_code == 200


def test_with_a_key_models_of_the_settings_can_be_changed_and_no_others(tiny_model: str) -> None:
    with RunningApp(tiny_model, key=KEY) as guarded:

        def call(method: str, path: str) -> tuple[int, str]:
            response = guarded.client.request(method, path)
            body = response.json()
            return response.status_code, body.get("error") or body["state"]

        assert call("POST", f"/models/{MODEL}/load") == (200, "ready")
        assert call("DELETE", f"/models/{MODEL}?wait_seconds=30") == (200, "unloaded")
        assert call("POST", f"/models/{MODEL}/load?wait_seconds=30") == (200, "ready")
        assert call("POST", "/models/starter/load") == (404, "unknown-model")
        assert call("DELETE", "/models/nothing") == (404, "unknown-model")
        for wait in ("-1", "61", "nan", "inf", "soon"):
            path = f"/models/{MODEL}?wait_seconds={wait}"
            assert call("DELETE", path) == (422, "invalid-request")
        assert guarded.explain().status_code == 200
