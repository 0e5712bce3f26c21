"""Several small models on one server, with requests and checks of their state."""

import threading
from typing import Any, Self

import httpx
import pytest

from legrad_engine import Explainer
from legrad_engine.errors import ModelLoadError
from tests.support.pictures import request_of
from tests.support.running_app import RunningApp

KEY = "let me in"
# The ids of the models in `models`, which differ only in their names.
A, B, C = "pool-a-pool-a", "pool-b-pool-b", "pool-c-pool-c"
BROKEN = "pool-a-broken"


class GatedLoads:
    """Stands in for the loading of models: counts loads, holds them, and fails the first ones."""

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


def on_demand(models: list[str], **settings: Any) -> RunningApp:
    settings = {"load_models": "on-demand", "key": KEY, **settings}
    return RunningApp(",".join(models), **settings)


def at_start(models: list[str], **settings: Any) -> RunningApp:
    return RunningApp(",".join(models), **{"key": KEY, **settings})


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
