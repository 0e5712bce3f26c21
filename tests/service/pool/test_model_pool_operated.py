"""Models that an operator loads and unloads by request."""

import weakref
from pathlib import Path

import pytest
import timm
import torch

from tests.support.model_pools import (
    A,
    B,
    C,
    GatedLoads,
    ask,
    at_start,
    bytes_loaded,
    load,
    loads,
    on_demand,
    problem,
    states,
    threads,
    unload,
)
from tests.support.pictures import request_of
from tests.support.running_app import Held


def test_a_model_is_unloaded_and_loaded_again(models: list[str]) -> None:
    with at_start(models) as running:
        assert set(states(running).values()) == {"ready"}
        workers = threads("batcher-pool")
        first = ask(running, B).json()
        explainer = weakref.ref(running.served(B).explainer)
        weights = weakref.ref(explainer().model)  # type: ignore[union-attr]
        gone = unload(running, B)
        assert (gone.status_code, gone.json()["state"]) == (200, "unloaded")
        assert (gone.json()["bytes"], gone.json()["loads_on_request"]) == (None, False)
        running.eventually(lambda: explainer() is None and weights() is None)
        assert threads("batcher-pool") == workers - 1
        assert bytes_loaded(running)[B] == 0
        assert running.metric(f'legrad_model_loaded{{device="cpu",model="{B}"}}') == 0

        refused = ask(running, B)
        assert problem(refused) == (503, "not-ready")
        assert "unloaded" in refused.json()["detail"]
        assert "retry-after" not in refused.headers
        assert ask(running, A).status_code == ask(running, C).status_code == 200
        assert states(running)[B] == "unloaded"
        assert unload(running, B).status_code == 200

        loaded = load(running, B)
        assert (loaded.status_code, loaded.json()["state"]) == (200, "ready")
        assert load(running, B, wait=0).status_code == 200
        assert loads(running, B) == 2
        assert bytes_loaded(running)[B] == loaded.json()["bytes"] > 0
        assert running.metric(f'legrad_model_loaded{{device="cpu",model="{B}"}}') == 1
        assert ask(running, B).json()["images"] == first["images"]


def test_unloading_a_model_clears_its_cached_traces(models: list[str]) -> None:
    def cached(model: str) -> bool:
        found: bool = ask(running, model).json()["images"][0]["cached"]
        return found

    with at_start(models) as running:
        assert [cached(B), cached(B), cached(A)] == [False, True, False]
        unload(running, B)
        load(running, B)
        assert [cached(B), cached(A)] == [False, True]


def test_loading_is_answered_at_once_and_can_be_followed(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_demand(models) as running, GatedLoads(monkeypatch) as gate:
        for _ in range(3):
            accepted = load(running, B, wait=0)
            assert (accepted.status_code, accepted.json()["state"]) == (202, "loading")
        gate.release()
        running.eventually(lambda: running.client.get(f"/models/{B}/ready").status_code == 200)
        assert gate.count == 1


def test_a_model_finishes_its_work_before_it_is_unloaded(models: list[str]) -> None:
    with at_start(models) as running, Held(running, B) as held:
        accepted = [running.explain_in_background(request_of(model=B))]
        assert held.entered.wait(60)
        accepted += [running.explain_in_background(request_of(model=B)) for _ in range(3)]
        batcher = running.served(B).batcher
        running.eventually(lambda: batcher.queue_depth == 3)
        leaving = unload(running, B, wait=0)
        assert (leaving.status_code, leaving.json()["state"]) == (202, "unloading")
        assert leaving.json()["in_flight"] == 4
        assert problem(ask(running, B)) == (503, "not-ready")
        assert ask(running, A).status_code == 200
        held.release()
        assert [answer.result(60).status_code for answer in accepted] == [200] * 4
        running.eventually(lambda: states(running)[B] == "unloaded")
        assert bytes_loaded(running)[B] == 0


def test_a_model_that_is_leaving_can_be_called_back(models: list[str]) -> None:
    with at_start(models[:1]) as running:
        with Held(running) as held:
            accepted = running.explain_in_background()
            assert held.entered.wait(60)
            assert unload(running, A, wait=0).status_code == 202
            assert problem(running.client.get("/health/ready")) == (503, "not-ready")
            assert load(running, A, wait=0).status_code == 202
            waiting = running.explain_in_background()
            running.eventually(lambda: running.metric("legrad_requests_in_progress") == 2)
            held.release()
            assert accepted.result(60).status_code == 200
            assert waiting.result(60).status_code == 200
        assert loads(running, A) == 2


def test_unloading_a_model_that_loads_takes_effect(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        GatedLoads(monkeypatch) as gate,
        at_start(models[:1], wait=False) as running,
    ):
        assert gate.entered.wait(60)
        waiting = running.explain_in_background()
        running.eventually(lambda: running.metric("legrad_requests_in_progress") == 1)
        assert unload(running, A, wait=0).status_code == 202
        assert problem(waiting.result(60)) == (503, "not-ready")
        gate.release()
        running.eventually(lambda: states(running)[A] == "unloaded")
        assert bytes_loaded(running)[A] == 0
        assert problem(ask(running)) == (503, "not-ready")
        assert load(running, A).status_code == ask(running).status_code == 200


def test_models_tell_when_they_were_used(models: list[str]) -> None:
    with at_start(models) as running, Held(running) as held:
        assert running.client.get(f"/models/{A}").json()["last_used"] is None
        answer = running.explain_in_background()
        assert held.entered.wait(60)
        assert running.client.get(f"/models/{A}").json()["in_flight"] == 1
        held.release()
        assert answer.result(60).status_code == 200
        told = running.client.get(f"/models/{A}").json()
        assert told["in_flight"] == 0
        assert told["last_used"].endswith("Z")
        assert told["templates"] == ["simple", "openai"]


def test_a_model_of_images_alone_is_warmed_up_without_text(folder: Path) -> None:
    name, path = "vit_tiny_patch16_224", folder / "images.pt"
    torch.save(timm.create_model(name).state_dict(), path)
    with at_start([f"timm:{name}@{path}"], max_model_bytes=10**8) as running:
        (model,) = running.client.get("/models").json()["models"]
        assert (model["state"], model["templates"]) == ("ready", [])
        assert running.state.pool.get(None).measured == model["bytes"]
