"""Memory of the trace cache: its budget, evictions, and its release under pressure."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from legrad_engine.explainer import Explainer
from legrad_engine.trace import Trace
from tests.support.cached_questions import answer_to, body_of, image_url
from tests.support.pictures import data_url, request_of
from tests.support.running_app import RunningApp


def test_the_budget_is_kept_and_the_oldest_goes(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        answer_to(running, body_of(1))
        size = running.state.pool.traces.nbytes
    with RunningApp(tiny_model, trace_cache_bytes=int(2.5 * size)) as running:
        for seed in (1, 2, 1, 3):
            answer_to(running, body_of(seed))
        assert running.metric('legrad_cache_bytes{cache="traces"}') == 2 * size
        assert running.metric('legrad_cache_entries{cache="traces"}') == 2
        assert running.metric('legrad_cache_evictions_total{cache="traces"}') == 1
        assert answer_to(running, body_of(1))["cached"]
        assert not answer_to(running, body_of(2))["cached"]
    with RunningApp(tiny_model, trace_cache_bytes=size - 1) as running:
        for _ in range(2):
            assert not answer_to(running, body_of(1))["cached"]
        assert running.metric('legrad_cache_entries{cache="traces"}') == 0


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from tensors_in(each)


def test_a_kept_trace_holds_no_more_memory_than_is_counted(tiny_model: str) -> None:
    """A view would keep the memory of its whole batch alive."""
    with RunningApp(tiny_model) as running:
        body = {
            "images": [image_url(seed) for seed in range(8)],
            "prompts": ["a cat"],
            "output": {"overlay": False},
        }
        batches = {image["batch_size"] for image in running.explain(body).json()["images"]}
        assert max(batches) > 1
        traces = running.state.pool.traces
        held = [
            tensor.untyped_storage().nbytes()
            for entry in traces._entries.values()
            for tensor in tensors_in(entry)
        ]
        assert len(traces) == 8
        assert sum(held) == traces.nbytes == running.metric('legrad_cache_bytes{cache="traces"}')


def test_the_cache_gives_way_when_memory_is_short(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("no room at all")

    with RunningApp(tiny_model) as running:
        answer_to(running, body_of(1))
        assert running.metric('legrad_cache_entries{cache="traces"}') == 1
        with monkeypatch.context() as patch:
            patch.setattr(Explainer, "trace", full)
            assert running.explain(body_of(2)).status_code == 503
        assert running.metric('legrad_cache_entries{cache="traces"}') == 0
        assert not answer_to(running, body_of(1))["cached"]


def test_a_trace_that_cannot_be_kept_is_still_answered(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no room for a copy")

    with RunningApp(tiny_model) as running:
        answer_to(running, body_of(1))
        with monkeypatch.context() as patch:
            patch.setattr(Trace, "select", full)
            assert not answer_to(running, body_of(2))["cached"]
        assert running.metric('legrad_cache_entries{cache="traces"}') == 0


def test_nothing_but_the_cache_outlives_a_request(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running:
        pictures = running.state.explaining._preparation._pictures
        for seed in range(3):
            answer_to(running, request_of(image=image_url(seed)))
        running.explain(request_of(image=data_url(b"no picture")))
        running.eventually(lambda: not any(map(len, pictures._shared.values())))
