"""Gauges that are read at each scrape."""

from tests.support.pictures import request_of
from tests.support.running_app import Held, RunningApp

DEPTH = 'legrad_queue_depth{model="tiny-tiny"}'
COST = 'legrad_queue_cost{model="tiny-tiny"}'


def test_the_queue_of_a_model_is_that_of_the_moment(tiny_model: str) -> None:
    with RunningApp(tiny_model) as running, Held(running) as held:
        assert (running.metric(DEPTH), running.metric(COST)) == (0, 0)
        computing = running.explain_in_background()
        assert held.entered.wait(60)
        waiting = running.explain_in_background(request_of(prompts=["a dog"]))
        running.wait_for_queue(1)
        assert running.metric(DEPTH) == 1
        assert running.metric(COST) == running.model.batcher.queue_cost > 0
        held.release()
        assert computing.result(60).status_code == waiting.result(60).status_code == 200
        assert (running.metric(DEPTH), running.metric(COST)) == (0, 0)


def test_a_model_that_is_not_loaded_has_an_empty_queue(tiny_model: str) -> None:
    with RunningApp(tiny_model, load_models="on-demand") as running:
        assert (running.metric(DEPTH), running.metric(COST)) == (0, 0)
