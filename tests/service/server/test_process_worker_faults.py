"""A real process whose worker fails in every way: requests are answered and health is correct.

The end of the process is tested in test_shutdown.py.
"""

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.__main__ import main
from tests.support import faulty_server
from tests.support.hub_files import hub_server
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_server import LEGRAD, Server

pytestmark = pytest.mark.slow

MODEL = "tiny-tiny"
BATCHES = f'legrad_queue_wait_seconds_count{{model="{MODEL}"}}'
DEPTH = f'legrad_queue_depth{{model="{MODEL}"}}'
RESTARTS = f'legrad_worker_restarts_total{{device="cpu",model="{MODEL}"}}'
STALLS = f'legrad_worker_stalls_total{{device="cpu",model="{MODEL}"}}'
LOADED = f'legrad_model_loaded{{device="cpu",model="{MODEL}"}}'
STALL_SECONDS = 3
PATIENCE_SECONDS = 60


@pytest.fixture
def faulty(tiny_model: str, tmp_path: Path) -> Iterator[Server]:
    """A ready server with all faults available, a short stall timeout and no trace cache."""
    with Server(
        tiny_model,
        program=faulty_server.program(released(tmp_path)),
        stall_timeout_seconds=STALL_SECONDS,
        trace_cache_bytes=0,
    ) as server:
        server.wait_for_health()
        yield server


def released(folder: Path) -> Path:
    return folder / "released"


def asking(prompt: str, seed: int = 0) -> dict[str, Any]:
    return request_of(image=data_url(encoded(picture(seed=seed))), prompts=[prompt])


def told(response: httpx.Response) -> tuple[int, str | None]:
    return response.status_code, response.json().get("error")


def answers_of_one_batch(
    server: Server, folder: Path, prompts: Sequence[str]
) -> list[httpx.Response]:
    """Send one request per prompt while the worker is held, so that they form one batch."""
    with ThreadPoolExecutor(len(prompts) + 1) as callers:
        before = server.metric(BATCHES)
        holding = callers.submit(server.explain, asking(faulty_server.HANG_FOR_A_WHILE))
        server.poll_metric(BATCHES, before + 1)
        answers: list[Future[httpx.Response]] = [
            callers.submit(server.explain, asking(prompt, seed))
            for seed, prompt in enumerate(prompts)
        ]
        server.poll_metric(DEPTH, len(prompts))
        released(folder).touch()
        assert holding.result().status_code == 200
        return [answer.result() for answer in answers]


def holding_server(tiny_model: str, folder: Path) -> Server:
    """Start a server whose worker can be held while a batch gathers."""
    return Server(tiny_model, program=faulty_server.program(released(folder)), trace_cache_bytes=0)


def test_a_bug_in_a_batch_is_answered_and_leaves_the_worker_well(faulty: Server) -> None:
    assert told(faulty.explain(asking(faulty_server.RAISE))) == (500, "internal-error")
    assert faulty.client.get("/health/ready").status_code == 200
    assert faulty.explain(request_of()).status_code == 200
    assert faulty.metric(RESTARTS) == 0


def test_a_worker_that_dies_is_replaced(faulty: Server) -> None:
    assert told(faulty.explain(asking(faulty_server.DIE))) == (503, "worker-died")
    assert faulty.client.get("/health/live").status_code == 200
    faulty.wait_for_health()
    assert faulty.explain(request_of()).status_code == 200
    assert faulty.metric(RESTARTS) == 1


def test_a_worker_that_hangs_is_noticed_and_replaced(faulty: Server) -> None:
    with ThreadPoolExecutor(2) as callers:
        hanging = callers.submit(faulty.explain, asking(faulty_server.HANG))
        faulty.poll_metric(BATCHES, 1)
        queued = callers.submit(faulty.explain, request_of())
        assert told(hanging.result()) == (503, "worker-stalled")
        assert told(queued.result()) == (503, "worker-stalled")
    assert faulty.client.get("/health/live").status_code == 200
    faulty.wait_for_health()
    assert faulty.explain(request_of()).status_code == 200
    assert faulty.metric(STALLS) == faulty.metric(RESTARTS) == 1
    assert faulty.metric('legrad_rejected_total{reason="worker-stalled"}') == 2
    dropped = f'legrad_dropped_total{{model="{MODEL}",reason="worker_stalled"}}'
    assert faulty.metric(dropped) == 2
    faulty.wait_for_log(lambda entry: "is given up" in entry["event"])
    # The hanging thread is left behind; all accepted requests were answered.
    faulty.signal(signal.SIGTERM)
    assert faulty.wait() == 0


def test_a_call_that_comes_back_late_changes_nothing(faulty: Server, tmp_path: Path) -> None:
    late = faulty.explain(asking(faulty_server.HANG_FOR_A_WHILE))
    assert told(late) == (503, "worker-stalled")
    faulty.wait_for_health()
    released(tmp_path).touch()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any("has returned" in entry["event"] for entry in faulty.log):
        assert time.monotonic() < deadline
        assert faulty.explain(request_of()).status_code == 200
    assert faulty.metric(LOADED) == 1
    assert faulty.metric(RESTARTS) == 1
    misses = faulty.metric('legrad_cache_misses_total{cache="traces"}')
    assert misses == faulty.metric('legrad_requests_total{route="/explain",status="200"}')


def test_workers_that_hang_again_and_again_leave_the_server_alive_and_not_ready(
    faulty: Server,
) -> None:
    for _ in range(3):
        faulty.wait_for_health()
        assert told(faulty.explain(asking(faulty_server.HANG))) == (503, "worker-stalled")
    assert faulty.client.get("/health/ready").status_code == 503
    assert faulty.client.get("/health/live").status_code == 200
    assert faulty.client.get("/models").json()["models"][0]["state"] == "failed"
    refused = faulty.explain(request_of())
    assert told(refused) == (503, "not-ready")
    assert "restarted" in refused.json()["detail"]
    assert "retry-after" not in refused.headers
    assert faulty.metric(LOADED) == 0


def test_one_poisoned_item_in_a_batch_of_eight_fails_alone(tiny_model: str, tmp_path: Path) -> None:
    with holding_server(tiny_model, tmp_path) as server:
        server.wait_for_health()
        prompts = [f"thing {number}" for number in range(8)]
        prompts[5] = faulty_server.RAISE
        answers = answers_of_one_batch(server, tmp_path, prompts)
        assert [answer.status_code for answer in answers] == [200] * 5 + [500] + [200] * 2
        server.wait_for_log(lambda entry: entry["event"].startswith("A batch of 8 failed"))
        assert server.metric(RESTARTS) == 0


def test_a_batch_that_exhausts_the_memory_is_halved_until_it_fits(
    tiny_model: str, tmp_path: Path
) -> None:
    with holding_server(tiny_model, tmp_path) as server:
        server.wait_for_health()
        prompts = [faulty_server.FITS_ALONE] * 3 + [faulty_server.NEVER_FITS] + ["a cat"] * 4
        answers = answers_of_one_batch(server, tmp_path, prompts)
        assert [told(answer) for answer in answers] == (
            [(200, None)] * 3 + [(503, "out-of-memory")] + [(200, None)] * 4
        )
        # Whatever the order of arrival, items that fit are computed in parts, not one by one.
        sizes = [answer.json()["images"][0]["batch_size"] for answer in answers[4:]]
        assert max(sizes) > 1
        server.wait_for_log(lambda entry: entry["event"].startswith("A batch of 8 failed"))


Sample = tuple[int, tuple[int, str | None], int]


@contextmanager
def sampled(server: Server) -> Iterator[list[Sample]]:
    """Sample readiness, one explanation and readiness again, in a loop, while the context lasts.

    A sample is kept only if no worker was lost or replaced meanwhile.
    """
    samples: list[Sample] = []
    ended = threading.Event()

    def sample() -> None:
        def ready() -> int:
            return server.client.get("/health/ready").status_code

        def changes() -> float:
            return server.metric(RESTARTS) + sum(
                server.metric(f'legrad_dropped_total{{model="{MODEL}",reason="{reason}"}}')
                for reason in ("worker_died", "worker_stalled")
            )

        while not ended.is_set():
            before = changes()
            sample = (ready(), told(server.explain(request_of())), ready())
            if changes() == before:
                samples.append(sample)

    with ThreadPoolExecutor(1) as sampler:
        sampling = sampler.submit(sample)
        try:
            yield samples
        finally:
            ended.set()
        sampling.result()


def test_readiness_is_false_exactly_when_requests_would_fail(faulty: Server) -> None:
    faults = (
        faulty_server.RAISE,
        faulty_server.NEVER_FITS,
        faulty_server.DIE,
        faulty_server.HANG,
        faulty_server.DIE,
        faulty_server.HANG,
        faulty_server.HANG,
    )
    with sampled(faulty) as samples:

        def wait_for_samples(more: int) -> None:
            wanted = len(samples) + more
            faulty.poll("/health/live", lambda _: len(samples) >= wanted)

        for fault in faults:
            faulty.wait_for_health()
            wait_for_samples(1)
            assert faulty.explain(asking(fault)).status_code in (500, 503)
        faulty.wait_for_health(503)
        wait_for_samples(3)
    for before, (status, error), after in samples:
        if error in ("worker-died", "worker-stalled", "worker-unavailable"):
            continue  # accepted while ready, then failed by the fault that ended readiness
        if before == after:
            assert (status == 200) == (before == 200), (before, status, error, after)
    assert {(before, status) for before, (status, _), _ in samples} >= {(200, 200), (503, 503)}


def _main_with_a_full_disk() -> None:
    """Run ``legrad`` with a limit on the size of files, which acts like a full disk."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    main()


def _main_with_a_full_log() -> None:
    with Path("/dev/full").open("w") as full:
        os.dup2(full.fileno(), 2)
    main()


def test_a_full_disk_does_not_concern_uploads(tiny_model: str) -> None:
    with Server(tiny_model, program=_main_with_a_full_disk) as server:
        server.wait_for_health()
        large = encoded(picture(1500, 1500).effect_spread(40))
        assert len(large) > 3_000_000
        answer = server.client.post("/explain", files={"image": large}, data={"prompts": ["a cat"]})
        assert answer.status_code == 200, answer.text


def test_a_log_that_cannot_be_written_does_not_concern_requests(tiny_model: str) -> None:
    with Server(tiny_model, program=_main_with_a_full_log) as server:
        server.wait_for_health()
        assert server.explain(request_of()).status_code == 200
        assert server.explain(request_of(prompts=[""])).status_code == 422
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_download_into_a_full_cache_is_said_and_tried_again_and_others_serve(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _, checkpoint = tiny_model.partition("@")
    files = {
        "org/own/open_clip_config.json": json.dumps(
            {"model_cfg": json.loads(Path(config).read_text())}
        ).encode(),
        "org/own/open_clip_model.safetensors": Path(checkpoint).read_bytes(),
    }
    with hub_server(files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        # A process of its own: the variables of the hub are read when Python starts.
        program = ("sh", "-c", 'ulimit -S -f 128; exec "$@"', "sh", str(LEGRAD))
        with Server(f"{tiny_model},hf-hub:org/own", program=program) as server:
            server.wait_for_health()
            model = server.client.get("/models").json()["models"][1]
            assert model["state"] == "failed"
            assert "could not be loaded" in model["error"]
            refused = server.explain(request_of(model=model["id"]))
            assert told(refused) == (503, "not-ready")
            assert refused.headers["retry-after"]
            assert server.explain(request_of()).status_code == 200
            server.lift_file_limit()
            server.poll(f"/models/{model['id']}/ready", _is_ok)
            assert server.explain(request_of(model=model["id"])).status_code == 200


def _is_ok(response: httpx.Response) -> bool:
    return response.status_code == 200
