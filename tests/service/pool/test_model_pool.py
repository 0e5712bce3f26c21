"""Models come and go while requests are answered: on demand, under a budget, beside broken ones."""

import random
import socket
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from legrad_engine import Explainer
from legrad_engine.errors import ModelLoadError
from legrad_engine.models import ModelReference
from legrad_engine.models.size import weights_bytes
from tests.support.api_keys import bearer
from tests.support.pictures import request_of
from tests.support.raw_requests import posted
from tests.support.running_app import Held, RunningApp
from tests.support.tiny_model import save_model

KEY = "let me in"
# The ids of the models in `models`, and the size of each: they differ in nothing but their name.
A, B, C = "pool-a-pool-a", "pool-b-pool-b", "pool-c-pool-c"
BROKEN = "pool-a-broken"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def models(folder: Path) -> list[str]:
    return [save_model(folder, f"pool-{letter}") for letter in "abc"]


@pytest.fixture(scope="module")
def size(models: list[str]) -> int:
    return Explainer.load(*models[0].split("@")).nbytes


@pytest.fixture(scope="module")
def broken(models: list[str], folder: Path) -> str:
    path = folder / "broken.safetensors"
    path.write_bytes(b"these are no weights")
    return f"{models[0].partition('@')[0]}@{path}"


class GatedLoads:
    """Counts loads, holds each until it may go on, and lets them fail first if asked to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, failures: int = 0) -> None:
        load = Explainer.load
        self.count = 0
        self.entered = threading.Event()
        self._released = threading.Event()

        def gated(*arguments: Any, **options: Any) -> Explainer:
            self.count += 1
            self.entered.set()
            assert self._released.wait(60)
            if self.count <= failures:
                raise ModelLoadError("could not be loaded") from ConnectionError("no route")
            return load(*arguments, **options)

        monkeypatch.setattr(Explainer, "load", gated)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        self._released.set()


def states(running: RunningApp) -> dict[str, str]:
    listed = running.client.get("/models").json()["models"]
    return {model["id"]: model["state"] for model in listed}


def bytes_loaded(running: RunningApp) -> dict[str, float]:
    return {
        model: running.metric(f'legrad_model_bytes{{model="{model}"}}') for model in states(running)
    }


def loads(running: RunningApp, model: str, outcome: str = "loaded") -> float:
    return running.metric(f'legrad_model_loads_total{{model="{model}",outcome="{outcome}"}}')


def evictions(running: RunningApp, model: str) -> float:
    return running.metric(f'legrad_model_evictions_total{{model="{model}"}}')


def ask(running: RunningApp, model: str | None = None, **headers: str) -> httpx.Response:
    return running.explain(request_of(model=model), **headers)


def load(running: RunningApp, model: str, wait: float = 60) -> httpx.Response:
    address = f"/models/{model}/load?wait_seconds={wait}"
    return running.client.post(address)


def unload(running: RunningApp, model: str, wait: float = 60) -> httpx.Response:
    return running.client.delete(f"/models/{model}?wait_seconds={wait}")


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


def threads(prefix: str) -> int:
    return sum(thread.name.startswith(prefix) for thread in threading.enumerate())


def on_demand(models: list[str], **settings: Any) -> RunningApp:
    settings = {"load_models": "on-demand", "key": KEY, **settings}
    return RunningApp(",".join(models), **settings)


def at_start(models: list[str], **settings: Any) -> RunningApp:
    return RunningApp(",".join(models), **{"key": KEY, **settings})


# On demand.


def test_on_demand_nothing_is_loaded_before_it_is_asked_for(models: list[str]) -> None:
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
        # A model that loads holds up nobody else.
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


def test_stopping_while_a_model_loads_answers_those_who_wait(
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
        assert running.app.state.pool.get(A).served is None
    # What it loaded in the end is let go.
    running.eventually(lambda: not threads("loader-") + threads("batcher-pool"))


# Loading and unloading by request.


def test_a_model_is_unloaded_and_loaded_again(models: list[str]) -> None:
    with at_start(models) as running:
        assert set(states(running).values()) == {"ready"}
        workers = threads("batcher-pool")
        first = ask(running, B).json()
        explainer = weakref.ref(running.app.state.pool.get(B).served.explainer)
        weights = weakref.ref(explainer().model)  # type: ignore[union-attr]
        gone = unload(running, B)
        assert (gone.status_code, gone.json()["state"]) == (200, "unloaded")
        assert (gone.json()["bytes"], gone.json()["loads_on_request"]) == (None, False)
        running.eventually(lambda: explainer() is None and weights() is None)
        assert threads("batcher-pool") == workers - 1
        assert bytes_loaded(running)[B] == 0
        assert running.metric(f'legrad_model_loaded{{model="{B}"}}') == 0

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
        assert running.metric(f'legrad_model_loaded{{model="{B}"}}') == 1
        assert ask(running, B).json()["images"] == first["images"]


def test_what_is_kept_of_pictures_goes_with_the_model(models: list[str]) -> None:
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
        batcher = running.app.state.pool.get(B).served.batcher
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


def test_on_demand_an_unloaded_model_is_loaded_by_the_next_request(models: list[str]) -> None:
    with on_demand(models) as running:
        assert ask(running).status_code == 200
        assert unload(running, A).json()["loads_on_request"] is True
        assert running.client.get("/health/ready").status_code == 200
        assert ask(running).status_code == 200
        assert loads(running, A) == 2


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
        assert running.app.state.pool.get(None).measured == model["bytes"]


# Under a budget.


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
            # Nobody waits for the answer any more, but the worker still makes it.
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
        assert "78,205,444" in refused.json()["detail"]
        assert problem(load(running, "starter")) == (507, "model-too-large")
        assert loads(running, "starter", "loaded") == 0
        assert ask(running).status_code == 200
        assert evictions(running, A) == 0


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


def test_a_request_may_come_before_the_loads_at_start_have_begun(
    models: list[str], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = threading.Event()

    def measure(reference: ModelReference, dtype: str) -> int | None:
        assert reference.id == A or measured.wait(60)
        return weights_bytes(reference, dtype)

    monkeypatch.setattr("service.pool.lifecycle.weights_bytes", measure)
    with at_start(models[:2], wait=False, max_model_bytes=2 * size) as running:
        assert ask(running).status_code == 200
        assert states(running) == {A: "ready", B: "unloaded"}
        assert problem(running.client.get("/health/ready")) == (503, "not-ready")
        measured.set()
        running.eventually(lambda: running.client.get("/health/ready").status_code == 200)
        assert states(running) == {A: "ready", B: "ready"}
        assert loads(running, A) == 1


# Beside broken ones.


def test_a_broken_model_leaves_the_others_serving(models: list[str], broken: str) -> None:
    with at_start([models[1], broken, models[2]]) as running:
        running.eventually(lambda: states(running)[BROKEN] == "failed")
        assert states(running) == {B: "ready", BROKEN: "failed", C: "ready"}
        told = running.client.get(f"/models/{BROKEN}").json()
        assert "could not be loaded" in told["error"]
        assert told["loads_on_request"] is False
        for _ in range(3):
            refused = ask(running, BROKEN)
            assert problem(refused) == (503, "not-ready")
            assert refused.json()["detail"] == told["error"]
            # It will not mend by itself, so nobody is told to come back.
            assert "retry-after" not in refused.headers
            assert ask(running).status_code == ask(running, C).status_code == 200
        assert loads(running, BROKEN, "failed") == 1
        assert running.client.get("/health/ready").status_code == 200
        assert running.client.get(f"/models/{BROKEN}/ready").status_code == 503
        assert problem(load(running, BROKEN)) == (503, "not-ready")
        assert loads(running, BROKEN, "failed") == 2


def test_a_server_whose_default_model_is_broken_is_not_ready(
    models: list[str], broken: str
) -> None:
    with on_demand([broken, models[1]]) as running:
        # It may well load: nobody has tried.
        assert running.client.get("/health/ready").status_code == 200
        assert problem(ask(running)) == (503, "not-ready")
        assert problem(running.client.get("/health/ready")) == (503, "not-ready")
        assert ask(running, B).status_code == 200


def test_a_checkpoint_that_was_mended_is_loaded_by_request(models: list[str], folder: Path) -> None:
    config, _, weights = models[0].partition("@")
    mended = folder / "mended.safetensors"
    mended.write_bytes(b"not yet")
    with at_start([models[1], f"{config}@{mended}"]) as running:
        running.eventually(lambda: states(running)["pool-a-mended"] == "failed")
        mended.write_bytes(Path(weights).read_bytes())
        assert load(running, "pool-a-mended").json()["error"] is None
        assert ask(running, "pool-a-mended").status_code == 200


def test_what_may_heal_is_tried_again_without_being_asked(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        GatedLoads(monkeypatch, failures=1) as gate,
        at_start(models[:1], wait=False) as running,
    ):
        gate.release()
        running.eventually(lambda: states(running)[A] == "failed")
        refused = ask(running)
        assert problem(refused) == (503, "not-ready")
        assert int(refused.headers["retry-after"]) >= 1
        assert problem(running.client.get("/health/ready")) == (503, "not-ready")
        running.eventually(lambda: states(running)[A] == "ready")
        assert running.client.get(f"/models/{A}").json()["error"] is None
        assert ask(running).status_code == 200
        assert running.client.get("/health/ready").status_code == 200
        assert (loads(running, A, "failed"), loads(running, A)) == (1, 1)


def test_readiness_waits_for_all_loads_at_start(
    models: list[str], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        GatedLoads(monkeypatch) as gate,
        at_start([*models, broken], wait=False) as running,
    ):
        running.eventually(lambda: gate.count == 4)
        assert problem(running.client.get("/health/ready")) == (503, "not-ready")
        assert set(states(running).values()) == {"loading"}
        gate.release()
        running.eventually(lambda: running.client.get("/health/ready").status_code == 200)
        assert states(running) == {A: "ready", B: "ready", C: "ready", BROKEN: "failed"}


# All at once.


@pytest.mark.parametrize("mode", ["at-start", "on-demand"])
def test_nothing_is_lost_when_models_come_and_go_under_load(
    models: list[str], size: int, mode: str
) -> None:
    ids = (A, B, C)
    seen: Counter[tuple[str, int, str | None]] = Counter()

    def record(kind: str, response: httpx.Response) -> None:
        assert response.status_code < 500 or response.status_code == 503, response.text
        error = None if response.status_code < 400 else response.json()["error"]
        seen[kind, response.status_code, error] += 1

    def caller(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(25):
            record("explain", ask(running, choose.choice(ids)))

    def operator(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(15):
            act: Callable[..., httpx.Response] = choose.choice([load, unload])
            wait = choose.choice([0, 0.05, 5])
            record(act.__name__, act(running, choose.choice(ids), wait))

    def watcher() -> None:
        while not finished.is_set():
            assert sum(bytes_loaded_together(running).values()) <= 2 * size
            finished.wait(0.01)

    finished = threading.Event()
    with on_demand(models, load_models=mode, max_model_bytes=2 * size) as running:
        with ThreadPoolExecutor(16) as pool:
            watching = pool.submit(watcher)
            work = [pool.submit(caller, seed) for seed in range(8)]
            work += [pool.submit(operator, 100 + seed) for seed in range(3)]
            for each in work:
                each.result(240)
            finished.set()
            watching.result(60)
        assert sum(seen.values()) == 8 * 25 + 3 * 15
        assert seen["explain", 200, None] > 0
        assert {error for _, status, error in seen if status == 503} <= {"not-ready", "no-room"}
        for model in ids:
            assert load(running, model).status_code == 200
            assert ask(running, model).status_code == 200
        running.eventually(lambda: list(states(running).values()).count("ready") == 2)
        running.eventually(lambda: threads("batcher-pool") == 2)
        running.eventually(lambda: not threads("loader-") + threads("unloader-"))
        assert all(not model.waiting and not model.in_flight for model in running.app.state.pool)
    assert threads("batcher-pool") == 0


def bytes_loaded_together(running: RunningApp) -> dict[str, float]:
    """Of all models at one instant."""
    lines = running.client.get("/metrics").text.splitlines()
    found = [line.rsplit(" ", 1) for line in lines if line.startswith("legrad_model_bytes{")]
    return {name: float(value) for name, value in found}


@pytest.mark.parametrize(
    ("part", "said"),
    [("visual.proj", "image embeddings are not finite"), ("text_projection", "text embeddings")],
)
def test_a_model_that_computes_no_finite_numbers_does_not_become_ready(
    models: list[str], tmp_path: Path, part: str, said: str
) -> None:
    config, weights = models[0].split("@")
    damaged = load_file(weights)
    damaged[part] = torch.full_like(damaged[part], torch.nan)
    save_file(damaged, tmp_path / "damaged.safetensors")
    name = f"{config}@{tmp_path / 'damaged.safetensors'}"
    with at_start([models[1], name]) as running:
        running.eventually(lambda: "failed" in states(running).values())
        (told,) = [
            each["error"]
            for each in running.client.get("/models").json()["models"]
            if each["state"] == "failed"
        ]
        assert said in told
        assert ask(running).status_code == 200
