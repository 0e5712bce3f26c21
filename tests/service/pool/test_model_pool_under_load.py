"""Models come and go while many requests are answered."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.model_pools import (
    A,
    B,
    C,
    ask,
    load,
    on_demand,
    states,
    threads,
    unload,
)
from tests.support.running_app import RunningApp

# For one request, which waits for loads and unloads of others.
PATIENCE_SECONDS = 600.0


def bytes_loaded_together(running: RunningApp) -> dict[str, float]:
    """Return the bytes of all models at one instant."""
    lines = running.client.get("/metrics").text.splitlines()
    found = [line.rsplit(" ", 1) for line in lines if line.startswith("legrad_model_bytes{")]
    return {name: float(value) for name, value in found}


@pytest.mark.timeout(1500)
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
        for _ in range(15):
            record("explain", ask(running, choose.choice(ids)))

    def operator(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(10):
            act: Callable[..., httpx.Response] = choose.choice([load, unload])
            wait = choose.choice([0, 0.05, 5])
            record(act.__name__, act(running, choose.choice(ids), wait))

    def watcher() -> None:
        while not finished.is_set():
            assert sum(bytes_loaded_together(running).values()) <= 2 * size
            finished.wait(0.01)

    finished = threading.Event()
    with on_demand(
        models,
        load_models=mode,
        max_model_bytes=2 * size,
        # Otherwise a slow machine refuses work that it would finish late.
        request_timeout_seconds=PATIENCE_SECONDS,
    ) as running:
        running.client.timeout = httpx.Timeout(PATIENCE_SECONDS)
        with ThreadPoolExecutor(16) as pool:
            watching = pool.submit(watcher)
            work = [pool.submit(caller, seed) for seed in range(8)]
            work += [pool.submit(operator, 100 + seed) for seed in range(3)]
            for each in work:
                each.result(PATIENCE_SECONDS)
            finished.set()
            watching.result(PATIENCE_SECONDS)
        assert sum(seen.values()) == 8 * 15 + 3 * 10
        assert seen["explain", 200, None] > 0
        assert {error for _, status, error in seen if status == 503} <= {"not-ready", "no-room"}
        for model in ids:
            assert load(running, model).status_code == 200
            assert ask(running, model).status_code == 200
        running.eventually(lambda: list(states(running).values()).count("ready") == 2)
        running.eventually(lambda: threads("batcher-pool") == 2)
        running.eventually(lambda: not threads("loader-") + threads("unloader-"))
        assert all(not model.waiting and not model.in_flight for model in running.state.pool)
    assert threads("batcher-pool") == 0
