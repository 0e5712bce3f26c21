"""Pictures that take too much time or memory, or end their process: who pays, and what is said."""

import contextlib
import os
import signal
from typing import Any

import pytest
from PIL import Image

from service.pictures import processes
from service.pictures.messages import AnswerReader
from tests.support.answers import refused
from tests.support.picture_bombs import long_bmp
from tests.support.picture_workers import children
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_app import RunningApp


def test_a_picture_that_takes_too_long_is_named_and_others_are_answered(tiny_model: str) -> None:
    # Enough for the good pictures on a busy machine; the long one takes more than twice as much.
    with RunningApp(tiny_model, picture_timeout_seconds=3) as running:
        body = {"images": [data_url(encoded()), data_url(long_bmp(6300))], "prompts": ["a cat"]}
        refused(running.explain(body), 422, "picture-timeout", "images.1")
        # The work has ended with the answer, and so have the request's places.
        assert running.metric("legrad_requests_in_progress") == 0
        assert running.metric('legrad_picture_process_ends_total{reason="time"}') == 1
        assert running.metric('legrad_rejected_total{reason="picture-timeout"}') == 1
        assert running.explain(request_of(prompts=["a dog"])).status_code == 200
        assert running.client.get("/health/ready").status_code == 200


def test_a_picture_that_takes_too_much_memory_fails_alone(tiny_model: str) -> None:
    large = encoded(Image.new("RGBA", (2500, 2500)))
    with RunningApp(tiny_model, picture_max_bytes=40_000_000) as running:
        waiting = [running.explain_in_background() for _ in range(4)]
        refused(running.explain(request_of(image=data_url(large))), 422, "picture-memory", "image")
        assert [each.result(60).status_code for each in waiting] == [200] * 4
        assert running.metric('legrad_rejected_total{reason="picture-memory"}') == 1
        assert running.metric('legrad_picture_process_ends_total{reason="memory"}') >= 1


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(signal.SIGSEGV, 422, "picture-crash"), (signal.SIGKILL, 503, "picture-process-ended")],
)
def test_a_process_that_ends_while_it_decodes_is_said(
    number: int, status: int, code: str, tiny_model: str
) -> None:
    with RunningApp(tiny_model, picture_processes=1) as running:
        (pid,) = running.workers.pids
        os.kill(pid, signal.SIGSTOP)
        failing = running.explain_in_background()
        running.eventually(lambda: running.workers.busy == 1)
        os.kill(pid, number)
        # SIGKILL does not wait for it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        answer = failing.result(60)
        assert (answer.status_code, answer.json()["error"]) == (status, code)
        assert ("retry-after" in answer.headers) == (status == 503)
        running.eventually(lambda: running.client.get("/health/ready").status_code == 200)
        assert running.explain().status_code == 200


def test_overlays_are_drawn_when_the_process_with_their_canvas_has_ended(tiny_model: str) -> None:
    body = request_of(image=data_url(encoded(picture(seed=5))), output={"heatmap": "none"})
    with RunningApp(tiny_model, picture_processes=1) as running:
        before = running.explain(body)
        (pid,) = running.workers.pids
        os.kill(pid, signal.SIGKILL)
        running.eventually(lambda: running.workers.pids not in ([], [pid]))
        after = running.explain(body)
        assert after.json()["images"][0]["cached"]
        assert after.json()["images"][0]["targets"] == before.json()["images"][0]["targets"]


def test_a_server_without_memory_says_that_and_not_that_the_picture_is_damaged(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    with RunningApp(tiny_model) as running:
        for owner, place in ((AnswerReader, "feed"), (processes, "pack")):
            with monkeypatch.context() as patch:
                patch.setattr(owner, place, full)
                failed = running.explain(request_of(image=data_url(encoded(picture(seed=9)))))
            refused(failed, 503, "out-of-memory", None)
            assert int(failed.headers["retry-after"]) >= 1
            running.eventually(lambda: running.client.get("/health/ready").status_code == 200)
        with monkeypatch.context() as patch:
            patch.setattr("service.explaining.service.check_limits", full)
            refused(running.explain(), 503, "out-of-memory", None)
        assert running.explain().status_code == 200
        assert running.metric('legrad_rejected_total{reason="out-of-memory"}') == 3


def test_an_application_that_ends_leaves_no_process(tiny_model: str) -> None:
    with RunningApp(tiny_model, picture_processes=2) as running:
        running.eventually(lambda: len(running.workers.pids) == 2)
        pids = running.workers.pids
        assert set(pids) <= set(children(os.getpid()))
    assert not set(pids) & set(children(os.getpid()))
