"""Several devices, each with its own copy of the model, behind one queue."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from legrad_engine import Explainer
from legrad_engine.errors import ModelLoadError
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolution import TextCount
from legrad_engine.targets.text import TextEncoder
from tests.support.answers import check_against_contract
from tests.support.cached_questions import answer_to, assert_same, body_of
from tests.support.model_pools import at_start, load, unload
from tests.support.running_app import RunningApp

WORKERS = ("cpu#0", "cpu#1")


@pytest.fixture
def pair(tiny_model: str) -> Iterator[RunningApp]:
    with RunningApp(tiny_model, device="cpu,cpu", max_batch_images=1) as running:
        yield running


def processors(running: RunningApp) -> dict[str, Any]:
    return running.served()._processors


def lose(running: RunningApp, worker: str) -> None:
    """Make one device fail from now on, in its batches and in its start."""
    processor = processors(running)[worker]

    def failing(*_: object) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    processor.launch = processor.start = failing


def states(running: RunningApp) -> dict[str, str]:
    (model,) = running.client.get("/models").json()["models"]
    return {worker["device"]: worker["state"] for worker in model["workers"]}


def degraded(running: RunningApp) -> list[dict[str, str]]:
    """The devices that the readiness names, although it is true."""
    answer = running.client.get("/health/ready")
    assert answer.status_code == 200
    check_against_contract(answer.json(), "ServerHealth")
    named: list[dict[str, str]] = answer.json()["degraded"]
    return named


def loaded(running: RunningApp, worker: str) -> float:
    return running.metric(f'legrad_model_loaded{{device="{worker}",model="tiny-tiny"}}')


def test_each_device_has_its_own_copy(pair: RunningApp) -> None:
    copies = pair.served().copies
    assert tuple(copies) == WORKERS
    first, second = (copy.explainer for copy in copies.values())
    assert first.model is not second.model
    (model,) = pair.client.get("/models").json()["models"]
    assert (model["device"], model["dtype"], model["max_batch_images"]) == (
        "cpu#0,cpu#1",
        "float32",
        1,
    )
    assert states(pair) == dict.fromkeys(WORKERS, "ready")
    assert model["bytes"] == 2 * first.nbytes
    assert pair.metric('legrad_model_bytes{model="tiny-tiny"}') == 2 * first.nbytes


def test_both_devices_answer_alike_and_share_the_traces(pair: RunningApp, tiny_model: str) -> None:
    with RunningApp(tiny_model) as alone:
        expected = [answer_to(alone, body_of(seed)) for seed in range(8)]
    used = dict.fromkeys(WORKERS, 0)
    for worker, processor in processors(pair).items():
        launch = processor.launch

        def counted(items: Sequence[Any], worker: str = worker, launch: Any = launch) -> Any:
            used[worker] += len(items)
            return launch(items)

        processor.launch = counted
    for _ in range(2):
        answers = [pair.explain_in_background(body_of(seed)) for seed in range(8)]
        found = [answer.result(60).json()["images"][0] for answer in answers]
        for image, right in zip(found, expected, strict=True):
            assert_same(image, right)
    assert [image["cached"] for image in found] == [True] * 8
    assert sum(used.values()) == 16
    batches = [
        pair.metric(f'legrad_batch_size_count{{device="{worker}",model="tiny-tiny"}}')
        for worker in WORKERS
    ]
    assert batches == list(used.values())


def test_a_prompt_that_any_device_has_embedded_is_counted_and_priced_as_cached(
    pair: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (copy.explainer for copy in pair.served().copies.values())
    second.text.encode(["a cat"])
    question = Question.of(["a cat"])
    assert first.resolver.count_texts(question) == TextCount(known=1, missing=0, strings=0)
    embedded = []
    monkeypatch.setattr(TextEncoder, "_encode_all", lambda _, prompts, __: embedded.append(prompts))
    answers = [pair.explain_in_background(body_of(seed)) for seed in range(8)]
    assert [each.result(60).json()["cached_prompts"] for each in answers] == [1] * 8
    assert embedded == []
    assert pair.metric('legrad_cache_hits_total{cache="prompts"}') == 8


def test_a_device_that_fails_leaves_the_other_serving(pair: RunningApp) -> None:
    lost, kept = WORKERS
    lose(pair, lost)
    statuses: set[int] = set()

    def has_failed() -> bool:
        statuses.add(pair.explain(body_of(1)).status_code)
        return states(pair)[lost] == "restarting"

    pair.eventually(has_failed)
    # The failing device costs the requests of its batch, and nothing after them.
    assert statuses <= {200, 503}
    assert degraded(pair) == [{"model": "tiny-tiny", "device": lost, "state": "restarting"}]
    assert [pair.explain(body_of(seed)).status_code for seed in range(4)] == [200] * 4
    assert (loaded(pair, lost), loaded(pair, kept)) == (0, 1)
    stalls = f'legrad_worker_restarts_total{{device="{lost}",model="tiny-tiny"}}'
    pair.eventually(lambda: pair.metric(stalls) >= 1)


def test_readiness_names_the_devices_once_all_have_failed(pair: RunningApp) -> None:
    for worker in WORKERS:
        lose(pair, worker)
    pair.eventually(
        lambda: (
            pair.explain(body_of(1)).status_code == 503
            and set(states(pair).values()) == {"restarting"}
        )
    )
    not_ready = pair.client.get("/health/ready")
    assert not_ready.status_code == 503
    for worker in WORKERS:
        assert f"{worker} is restarting" in not_ready.json()["detail"]


def test_a_device_without_a_copy_is_named_until_the_model_is_loaded_again(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_copy, calls = Explainer.load, itertools.count()

    def damaged_at_second(*arguments: Any, **options: Any) -> Explainer:
        if next(calls) == 1:
            raise ModelLoadError(f"{tiny_model.partition('@')[2]} was not read to its end.")
        return load_copy(*arguments, **options)

    monkeypatch.setattr(Explainer, "load", damaged_at_second)
    present, absent = WORKERS
    with at_start([tiny_model], device="cpu,cpu") as running:
        (model,) = running.client.get("/models").json()["models"]
        assert (model["state"], model["device"]) == ("ready", present)
        kept, left_out = model["workers"]
        assert kept == {"device": present, "state": "ready", "error": None}
        assert (left_out["device"], left_out["state"]) == (absent, "failed")
        # Without the folder of the checkpoint, which is internal.
        assert left_out["error"].endswith("was not read to its end.")
        assert "/" not in left_out["error"]
        assert degraded(running) == [{"model": "tiny-tiny", "device": absent, "state": "failed"}]
        assert f"{absent} is failed" in running.state.pool.get(None).standing
        assert (loaded(running, present), loaded(running, absent)) == (1, 0)
        assert running.explain(body_of(1)).status_code == 200
        assert unload(running, "tiny-tiny").json()["workers"] is None
        assert load(running, "tiny-tiny").json()["state"] == "ready"
        assert states(running) == dict.fromkeys(WORKERS, "ready")
        assert degraded(running) == []


def test_a_budget_counts_every_copy(tiny_model: str) -> None:
    size = Explainer.load(*tiny_model.split("@")).nbytes
    with RunningApp(tiny_model, device="cpu,cpu", max_model_bytes=2 * size) as fits:
        assert fits.explain().status_code == 200
    with RunningApp(
        tiny_model, wait=False, device="cpu,cpu", max_model_bytes=2 * size - 1
    ) as too_large:
        assert too_large.explain().json()["error"] == "model-too-large"
