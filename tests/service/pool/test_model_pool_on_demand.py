"""Models that are loaded by the first request for them."""

import socket

import pytest

from tests.support.api_keys import bearer
from tests.support.model_pools import (
    KEY,
    A,
    B,
    C,
    GatedLoads,
    ask,
    at_start,
    loads,
    on_demand,
    problem,
    states,
    threads,
    unload,
)
from tests.support.pictures import request_of
from tests.support.raw_requests import posted


def test_on_demand_no_model_is_loaded_before_the_first_request_for_it(models: list[str]) -> None:
    with on_demand(models) as running:
        assert set(states(running).values()) == {"unloaded"}
        assert running.client.get("/health/ready").status_code == 200
        assert problem(running.client.get(f"/models/{B}/ready")) == (503, "not-ready")
        assert ask(running, B).status_code == 200
        assert states(running) == {A: "unloaded", B: "ready", C: "unloaded"}
        assert running.client.get(f"/models/{B}/ready").json() == {"status": "ready"}
        assert running.client.head(f"/models/{B}/ready").status_code == 200
        assert ask(running).json()["model"] == A


def test_many_first_requests_cause_one_load(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_demand(models) as running, GatedLoads(monkeypatch) as gate:
        answers = [running.explain_in_background(request_of(model=B)) for _ in range(24)]
        running.eventually(lambda: running.metric("legrad_requests_in_progress") == 24)
        assert gate.entered.wait(60)
        assert states(running)[B] == "loading"
        gate.release()
        assert [answer.result(60).status_code for answer in answers] == [200] * 24
        assert (gate.count, loads(running, B)) == (1, 1)


def test_waiting_for_a_load_ends_at_the_request_s_own_deadline(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_demand(models) as running, GatedLoads(monkeypatch) as gate:
        patient = running.explain_in_background()
        late = ask(running, **{"X-Request-Timeout-Ms": "1000"})
        assert problem(late) == (503, "not-ready")
        assert int(late.headers["retry-after"]) >= 1
        # A loading model does not delay other requests.
        assert running.client.get("/health/ready").status_code == 200
        gate.release()
        assert patient.result(60).status_code == 200
        assert gate.count == 1


def test_a_client_that_leaves_does_not_stop_the_load(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_demand(models) as running, GatedLoads(monkeypatch) as gate:
        with socket.create_connection((running.host, running.port)) as leaving:
            leaving.sendall(posted(request_of(model=C), **bearer(KEY)))
            assert gate.entered.wait(60)
        running.eventually(
            lambda: running.metric('legrad_rejected_total{reason="client-left"}') == 1
        )
        gate.release()
        running.eventually(lambda: states(running)[C] == "ready")


def test_stopping_while_a_model_loads_answers_waiting_requests(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_demand(models) as running, GatedLoads(monkeypatch) as gate:
        waiting = running.explain_in_background()
        assert gate.entered.wait(60)
        running._server.should_exit = True
        gate.release()
        assert waiting.result(60).status_code in (200, 503)
    assert threads("batcher-pool") == threads("loader-") == 0


def test_stopping_waits_for_a_load_no_longer_than_for_work(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with GatedLoads(monkeypatch) as gate:
        with at_start(models[:1], wait=False, drain_timeout_seconds=0.1) as running:
            assert gate.entered.wait(60)
        assert running.state.pool.get(A).served is None
    # The model loaded in the end is released.
    running.eventually(lambda: not threads("loader-") + threads("batcher-pool"))


def test_on_demand_an_unloaded_model_is_loaded_by_the_next_request(models: list[str]) -> None:
    with on_demand(models) as running:
        assert ask(running).status_code == 200
        assert unload(running, A).json()["loads_on_request"] is True
        assert running.client.get("/health/ready").status_code == 200
        assert ask(running).status_code == 200
        assert loads(running, A) == 2
