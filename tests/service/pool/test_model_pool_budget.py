"""Models that make room for each other under a memory budget."""

import socket
import threading
from pathlib import Path

import pytest

from legrad_engine.models import ModelReference
from legrad_engine.models.identity import Stamps, file_stamps
from legrad_engine.models.size import weights_bytes
from tests.support.api_keys import bearer
from tests.support.model_pools import (
    KEY,
    A,
    B,
    C,
    ask,
    at_start,
    bytes_loaded,
    evictions,
    load,
    loads,
    on_demand,
    problem,
    states,
    threads,
    unload,
)
from tests.support.pictures import request_of
from tests.support.raw_requests import posted
from tests.support.running_app import Held
from tests.support.tiny_model import TINY, save_model


def test_the_least_recently_used_model_makes_room(models: list[str], size: int) -> None:
    with on_demand(models, max_model_bytes=2 * size) as running:
        for model in (A, B, A):
            assert ask(running, model).status_code == 200
        assert ask(running, C).status_code == 200
        assert states(running) == {A: "ready", B: "unloaded", C: "ready"}
        assert bytes_loaded(running) == {A: size, B: 0, C: size}
        assert [evictions(running, model) for model in (A, B, C)] == [0, 1, 0]
        assert ask(running, B).status_code == 200
        assert states(running) == {A: "unloaded", B: "ready", C: "ready"}
        assert [evictions(running, model) for model in (A, B, C)] == [1, 1, 0]
        assert [loads(running, model) for model in (A, B, C)] == [1, 2, 1]
        assert threads("batcher-pool") == 2


def test_at_start_the_first_models_that_fit_are_loaded(models: list[str], size: int) -> None:
    with at_start(models, max_model_bytes=2 * size) as running:
        assert states(running) == {A: "ready", B: "ready", C: "unloaded"}
        assert sum(evictions(running, model) for model in (A, B, C)) == 0
        assert ask(running, B).status_code == ask(running, C).status_code == 200
        assert states(running) == {A: "unloaded", B: "ready", C: "ready"}
        assert running.client.get("/health/ready").status_code == 200
        assert ask(running).status_code == 200
        assert unload(running, B).json()["loads_on_request"] is False


def test_models_get_memory_at_start_in_their_order_however_long_measuring_takes(
    models: list[str], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stamps(reference: ModelReference) -> Stamps:
        if reference.id == B:
            threading.Event().wait(0.5)
        return file_stamps(reference)

    monkeypatch.setattr("service.pool.lifecycle.file_stamps", stamps)
    with at_start(models, max_model_bytes=2 * size) as running:
        assert states(running) == {A: "ready", B: "ready", C: "unloaded"}


def test_a_model_with_work_in_flight_is_never_evicted(models: list[str], size: int) -> None:
    with on_demand(models, max_model_bytes=2 * size) as running:
        assert ask(running, A).status_code == ask(running, B).status_code == 200
        with Held(running, A) as first, Held(running, B) as second:
            busy = [running.explain_in_background(request_of(model=model)) for model in (A, B)]
            assert first.entered.wait(60)
            assert second.entered.wait(60)
            refused = ask(running, C)
            assert problem(refused) == (503, "no-room")
            assert int(refused.headers["retry-after"]) >= 1
            assert problem(load(running, C)) == (503, "no-room")
            assert states(running) == {A: "ready", B: "ready", C: "unloaded"}
            assert loads(running, C, "refused") == 2
            second.release()
            assert busy[1].result(60).status_code == 200
            assert ask(running, C).status_code == 200
            assert states(running) == {A: "ready", B: "unloaded", C: "ready"}
            first.release()
            assert busy[0].result(60).status_code == 200


def test_a_load_waits_until_the_memory_is_really_free(models: list[str], size: int) -> None:
    with on_demand(models, max_model_bytes=size) as running:
        assert ask(running, A).status_code == 200
        with Held(running, A) as held:
            with socket.create_connection((running.host, running.port)) as leaving:
                leaving.sendall(posted(request_of(model=A), **bearer(KEY)))
                assert held.entered.wait(60)
            running.eventually(lambda: running.client.get(f"/models/{A}").json()["in_flight"] == 0)
            # The client has left, but the worker still computes.
            late = ask(running, B, **{"X-Request-Timeout-Ms": "2000"})
            assert problem(late) == (503, "not-ready")
            assert states(running) == {A: "unloading", B: "loading", C: "unloaded"}
            assert bytes_loaded(running) == {A: size, B: 0, C: 0}
            waiting = running.explain_in_background(request_of(model=B))
            held.release()
            assert waiting.result(60).status_code == 200
        assert states(running) == {A: "unloaded", B: "ready", C: "unloaded"}
        assert evictions(running, A) == 1


def test_a_model_larger_than_the_budget_is_refused_with_both_sizes(
    models: list[str], size: int, folder: Path
) -> None:
    budget = size + 1000
    with at_start([*models[:1], "starter"], max_model_bytes=budget) as running:
        assert states(running) == {A: "ready", "starter": "failed"}
        refused = ask(running, "starter")
        assert problem(refused) == (507, "model-too-large")
        assert f"{budget:,}" in refused.json()["detail"]
        assert "78,147,076" in refused.json()["detail"]
        assert problem(load(running, "starter")) == (507, "model-too-large")
        assert loads(running, "starter", "loaded") == 0
        assert ask(running).status_code == 200
        assert evictions(running, A) == 0


def test_a_model_that_was_replaced_by_a_smaller_one_is_measured_again(
    models: list[str], size: int, tmp_path: Path
) -> None:
    large = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "layers": 12}}
    reference = save_model(tmp_path, "grown", large)
    model = ModelReference.parse(reference).id
    with at_start([*models[:1], reference], max_model_bytes=size + 1000) as running:
        assert problem(load(running, model)) == (507, "model-too-large")
        save_model(tmp_path, "grown")
        assert load(running, model).status_code == 200
        assert bytes_loaded(running)[model] == size


def test_a_size_that_is_known_only_after_loading_counts_from_then_on(
    models: list[str], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.pool.lifecycle.weights_bytes", lambda *_: None)
    with on_demand(models, max_model_bytes=2 * size) as running:
        for model in (A, B, C):
            assert ask(running, model).status_code == 200
        running.eventually(lambda: bytes_loaded(running) == {A: 0, B: size, C: size})
    with on_demand(models, max_model_bytes=size - 1) as running:
        for _ in range(3):
            assert problem(ask(running, B)) == (507, "model-too-large")
        assert loads(running, B, "refused") == 1
        assert bytes_loaded(running)[B] == 0
        running.eventually(lambda: threads("batcher-pool") == 0)


def test_the_first_model_answers_while_the_next_one_is_measured_at_start(
    models: list[str], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = threading.Event()

    def measure(reference: ModelReference, dtype: str) -> int | None:
        assert reference.id == A or measured.wait(60)
        return weights_bytes(reference, dtype)

    monkeypatch.setattr("service.pool.lifecycle.weights_bytes", measure)
    with at_start(models[:2], wait=False, max_model_bytes=2 * size) as running:
        assert ask(running).status_code == 200
        assert states(running) == {A: "ready", B: "loading"}
        assert problem(running.client.get("/health/ready")) == (503, "not-ready")
        measured.set()
        running.eventually(lambda: running.client.get("/health/ready").status_code == 200)
        assert states(running) == {A: "ready", B: "ready"}
        assert loads(running, A) == 1
