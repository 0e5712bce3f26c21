"""Refusals of a full server: which requests, in which form, and before which work."""

import httpx
import pytest

from tests.support.api_keys import bearer, entry, listed
from tests.support.running_app import RunningApp, samples

PAGE = "https://app.example.org"


@pytest.mark.parametrize(
    ("method", "path", "route", "found_in"),
    [
        ("POST", "/explain", "/explain", "detail"),
        ("POST", "/v1/models/{}:explain", "/v1/models/{model_id}:explain", "error"),
        ("POST", "/v2/models/{}/infer", "/v2/models/{model_id}/infer", "error"),
        ("POST", "/explanations/{}", "/explanations/{model_id}", "message"),
        ("PUT", "/explanations/{}", "/explanations/{model_id}", "message"),
    ],
)
def test_every_protocol_is_refused_in_its_own_form(
    tiny_model: str, method: str, path: str, route: str, found_in: str
) -> None:
    with RunningApp(tiny_model) as running, running.full():
        answer = running.client.request(
            method,
            path.format(running.model.id),
            content=b"never read",
            headers={"X-Request-ID": "mine"},
        )
        counted = f'legrad_requests_total{{route="{route}",status="429"}}'
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["X-Request-ID"] == "mine"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        # The text says the same wait as the header.
        told = f"queue is full; retry in {answer.headers['Retry-After']} s."
        assert told in answer.json()[found_in]
        assert running.metric(counted) == 1
        assert running.metric('legrad_rejected_total{reason="queue-full"}') == 1


def test_other_routes_are_answered_while_the_queue_is_full(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running, running.full():
        for path in ("/health/live", "/health/ready", "/models", "/metrics", "/v2/health/ready"):
            assert running.client.get(path).status_code == 200
        assert running.client.get("/explain").status_code == 405
        assert running.client.put("/explain").status_code == 405
        assert running.client.post("/nowhere").status_code == 404


def test_operators_have_an_address_that_explains_nothing_full_or_not(tiny_model: str) -> None:
    with RunningApp(tiny_model, admin_port=0) as running, running.full():
        admin = f"http://{running.host}:{running.admin_port}"
        assert httpx.post(f"{admin}/explain", timeout=60).status_code == 404
        metrics = samples(httpx.get(f"{admin}/metrics", timeout=60).text)
        assert metrics['legrad_rejected_total{reason="queue-full"}'] == 0


def test_an_invalid_deadline_is_refused_as_invalid(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running, running.full():
        assert running.explain(**{"X-Request-Timeout-Ms": "soon"}).status_code == 422


def test_pages_of_other_origins_can_read_it(tiny_model: str) -> None:
    with RunningApp(tiny_model, cors_origins=PAGE) as running, running.full():
        answer = running.explain(Origin=PAGE)
        assert answer.status_code == 429
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]


def test_a_key_is_asked_for_only_where_there_is_room(tiny_model: str) -> None:
    keys = listed(entry("asker", "asker", "explain", rate="1/hour"))
    with RunningApp(tiny_model, api_keys=keys) as running:
        with running.full():
            assert running.explain(**bearer("nobody")).status_code == 429
            # The refusal does not count towards the rate of a known key.
            assert running.explain(**bearer("asker")).json()["error"] == "queue-full"
        assert running.explain(**bearer("nobody")).status_code == 401
        assert running.explain(**bearer("asker")).status_code == 200


def test_a_stopping_server_closes_the_connections_of_refused_requests(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running, running.full():
        assert "Connection" not in running.explain().headers
        running.state.drain.announce()
        refused = running.explain()
        assert (refused.status_code, refused.headers["Connection"]) == (429, "close")


def test_a_bug_in_the_early_check_for_room_does_not_fail_requests(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    with RunningApp(tiny_model) as running:
        monkeypatch.setattr(running.state.explaining.admission, "check", broken)
        assert running.explain().status_code == 200
