"""A model that cannot be loaded leaves the others serving."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.batching import RestartBackoff
from service.pool import lifecycle
from tests.support.model_pools import (
    BROKEN,
    A,
    B,
    C,
    GatedLoads,
    ask,
    at_start,
    load,
    loads,
    on_demand,
    problem,
    states,
)


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
            # A retry cannot help, so there is no `Retry-After`.
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
        # No load was tried yet.
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


def test_requests_are_told_when_a_load_with_a_temporary_error_is_retried(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_RELOAD_BACKOFF", RestartBackoff(3600.0, 3600.0))
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
        assert gate.count == 1


def test_a_load_with_a_temporary_error_is_retried_without_a_request(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        GatedLoads(monkeypatch, failures=1) as gate,
        at_start(models[:1], wait=False) as running,
    ):
        gate.release()
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
