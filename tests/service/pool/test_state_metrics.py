"""Gauges that are read at each scrape."""

import os
import subprocess
import sys
from pathlib import Path

from service.pool.state_metrics import picture_process_bytes
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_app import Held, RunningApp

DEPTH = 'legrad_queue_depth{model="tiny-tiny"}'
COST = 'legrad_queue_cost{model="tiny-tiny"}'
PICTURES = "legrad_picture_process_bytes"


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


def test_the_memory_of_picture_processes_is_that_of_the_moment(tiny_model: str) -> None:
    side = 2048
    with RunningApp(tiny_model, picture_processes=1) as running, Held(running) as held:
        idle = running.metric(PICTURES)
        assert 0 < idle < running.metric("legrad_memory_limit_bytes")
        # Its process keeps the picture below the overlay until that is drawn.
        waiting = running.explain_in_background(
            request_of(
                image=data_url(encoded(picture(side, side))),
                output={"overlay": True, "max_side": side},
            )
        )
        assert held.entered.wait(60)
        assert running.metric(PICTURES) > idle + 3 * side**2
        held.release()
        assert waiting.result(60).status_code == 200


def test_what_picture_processes_share_with_their_launcher_counts_once(tiny_model: str) -> None:
    with RunningApp(tiny_model, picture_processes=3) as running:
        running.eventually(lambda: len(running.workers.pids) == 3)
        pids = running.workers.pids
        one, three = picture_process_bytes(pids[:1]), picture_process_bytes(pids)
        assert one <= three < 1.5 * one


def test_processes_that_have_ended_or_belong_to_others_count_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ended:
        # Its parent is this process, and no launcher.
        assert picture_process_bytes([ended.pid]) == 0
        ended.communicate(b"\n")
    assert not Path(f"/proc/{ended.pid}").exists()
    assert picture_process_bytes([ended.pid, os.getpid()]) == 0
