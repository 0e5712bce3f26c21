"""Batches of a worker: traces whose device has failed, and maps that measurements need early."""

from typing import Any

import pytest
import torch

from legrad_engine.attribution import PendingExplanations
from legrad_engine.trace import Trace
from tests.support.cached_questions import answer_to, assert_same, body_of
from tests.support.running_app import Held, RunningApp

# Stands in for another accelerator: it has shapes and no values.
FAILED = torch.device("meta")


@pytest.fixture(autouse=True)
def failed_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every copy from the failed device raise the error of CUDA."""
    copy = torch.Tensor.to

    def to(tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if tensor.device == FAILED:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return copy(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)


def move_traces(running: RunningApp) -> None:
    """Keep all cached traces on the failed device, as if it had computed them."""
    traces = running.state.pool.traces
    for key, entry in list(traces._entries.items()):
        if isinstance(entry, Trace):
            traces.put(key, entry.to(FAILED))  # type: ignore[arg-type]


def restarts(running: RunningApp) -> float:
    return running.metric('legrad_worker_restarts_total{device="cpu",model="tiny-tiny"}')


def test_a_trace_on_a_failed_device_costs_its_own_request_alone(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        expected = answer_to(running, body_of(1))
        move_traces(running)
        with Held(running) as held:
            first = running.explain_in_background(body_of(9))
            assert held.entered.wait(60)
            lost = running.explain_in_background(body_of(1))
            other = running.explain_in_background(body_of(2))
            running.wait_for_queue(2)
            held.release()
            assert first.result(60).status_code == 200
            problem = lost.result(60)
            assert (problem.status_code, problem.json()["error"]) == (503, "worker-died")
            beside = other.result(60)
        assert beside.status_code == 200
        assert beside.json()["images"][0]["batch_size"] == 2
        assert restarts(running) == 0
        again = answer_to(running, body_of(1))
        assert not again["cached"]
        assert_same(again, expected)


def test_a_trace_on_a_failed_device_is_computed_again_from_its_picture(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        expected = answer_to(running, body_of(1, cache=False))
        with Held(running) as held:
            answer = running.explain_in_background(body_of(1))
            assert held.entered.wait(60)
            (item,) = held.seen
            item.picture.trace = running.model.explainer.trace(
                [item.picture.prepared], method=item.method, layers=item.layers, score=item.score
            ).to(FAILED)
            held.release()
            image = answer.result(60).json()["images"][0]
        assert not image["cached"]
        assert_same(image, expected)
        assert restarts(running) == 0


def test_maps_that_measurements_need_are_fetched_once(
    running: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, calls = PendingExplanations.finish, []

    def counted(self: PendingExplanations) -> Any:
        calls.append(self)
        return finish(self)

    monkeypatch.setattr(PendingExplanations, "finish", counted)
    body = body_of(1)
    body["output"] |= {"layers_report": True}
    image = answer_to(running, body)
    assert image["targets"][0]["layers_report"] is not None
    assert len(calls) == 1
