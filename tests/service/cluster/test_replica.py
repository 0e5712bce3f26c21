"""The service under a real Ray Serve, with the shipped configuration: one cluster for all tests."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.support.answers import check_against_contract
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.raw_requests import posted
from tests.support.ray_serve import RayCluster
from tests.support.running_balancer import Load
from tests.support.running_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

IN_PROGRESS = "legrad_requests_in_progress"
LEFT = 'legrad_rejected_total{reason="client-left"}'
# For callers, whose requests a slow machine computes in minutes.
PATIENCE_SECONDS = 600.0
SETTINGS: dict[str, Any] = {
    "dtype": "float32",
    "compute_threads": 1,
    "max_queue_cost": 100_000,
    "max_batch_cost": 10_000,
    # Otherwise a slow machine refuses work that it would finish late.
    "request_timeout_seconds": 1000,
}


def work(seed: int, size: int) -> dict[str, Any]:
    """A request that is computed anew each time; its time depends on the size."""
    return request_of(
        image=data_url(encoded(picture(40, 40, seed))),
        options={"size": size, "cache": False},
        output={"overlay": False},
    )


def targets_of(answer: httpx.Response) -> list[Any]:
    """The heatmaps, regions and scores of each image, as they are encoded in the answer."""
    assert answer.status_code == 200, answer.text
    return [image["targets"] for image in answer.json()["images"]]


@pytest.fixture(scope="module")
def cluster(tiny_model: str) -> Iterator[RayCluster]:
    with RayCluster() as started:
        assert started.deploy(1, models=tiny_model, **SETTINGS)["status"] == "RUNNING"
        yield started


def test_a_replica_gets_requests_only_once_it_is_ready(cluster: RayCluster) -> None:
    # Nothing waits here: Ray has said that the application runs.
    assert cluster.client.get("/health/ready").json()["status"] == "ready"


@pytest.mark.parametrize("output", [{"heatmap": "npy"}, {"heatmap": "png", "overlay": True}])
def test_maps_are_those_of_legrad_serve_bit_for_bit(
    cluster: RayCluster, tiny_model: str, output: dict[str, Any]
) -> None:
    body = request_of(prompts=["a cat", "a dog"], output=output)
    with Server(tiny_model, **SETTINGS) as server:
        server.wait_for_health()
        plain = targets_of(server.explain(body))
    assert len(plain[0]) == 2
    assert targets_of(cluster.client.post("/explain", json=body)) == plain


def test_sixteen_clients_fill_the_batches_of_one_replica(cluster: RayCluster) -> None:
    def figures() -> tuple[float, float]:
        device = 'legrad_batch_size_{}{{device="cpu",model="tiny-tiny"}}'
        return cluster.metric(device.format("sum")), cluster.metric(device.format("count"))

    bodies = [work(seed, 640) for seed in range(16)]
    with Load(cluster.url, bodies, callers=16, patience=PATIENCE_SECONDS) as load:
        # The first ones arrive one by one.
        load.wait_for_answers(16)
        images, batches = figures()
        load.wait_for_answers(48)
        more_images, more_batches = figures()
    assert set(load.outcomes) == {"200"}
    assert more_batches > batches
    assert (more_images - images) / (more_batches - batches) >= 4


def test_a_leaving_client_is_counted_and_gives_back_its_place(cluster: RayCluster) -> None:
    before = cluster.metric(LEFT)
    request = posted(work(1, 1024), **{"X-Request-Disconnect-Disabled": "?1"})
    callers = [socket.create_connection(("127.0.0.1", cluster.port)) for _ in range(8)]
    for caller in callers:
        caller.sendall(request)
    cluster.eventually(lambda: cluster.metric(IN_PROGRESS) > 4)
    for caller in callers:
        caller.close()
    cluster.wait_for_metric(IN_PROGRESS, 0)
    assert cluster.metric(LEFT) - before > 4


@pytest.mark.parametrize(
    ("sent", "kept"),
    [([], False), (["mine-1"], True), (["not an id"], False), (["one", "two"], False)],
)
@pytest.mark.parametrize("path", ["/health/live", "/nowhere"])
def test_an_answer_has_one_request_id(
    cluster: RayCluster, sent: list[str], kept: bool, path: str
) -> None:
    headers = [("X-Request-ID", each) for each in sent]
    answer = cluster.client.get(path, headers=headers)
    (found,) = answer.headers.get_list("x-request-id")
    assert (found in sent) is kept
    if answer.status_code == 404:
        assert answer.json()["request_id"] == found


def test_native_libraries_find_their_variables(cluster: RayCluster) -> None:
    (replica,) = cluster.replicas
    environment = replica.environ()
    assert environment["GOMP_SPINCOUNT"] == "8000"
    assert environment["MALLOC_ARENA_MAX"] == "4"


def test_a_killed_replica_is_a_typed_error_that_may_be_repeated(cluster: RayCluster) -> None:
    (replica,) = cluster.replicas
    pictures = replica.children(recursive=True)
    assert pictures
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_ask, cluster, work(2, 1024), {"X-Request-ID": "mine"})
        cluster.wait_for_metric(IN_PROGRESS, 1)
        replica.kill()
        lost = answer.result()
    problem = lost.json()
    check_against_contract(problem, "ProblemDetails")
    assert (lost.status_code, problem["error"]) == (502, "replica-lost")
    assert lost.headers["content-type"] == "application/problem+json"
    assert lost.headers["retry-after"] == "1"
    assert lost.headers.get_list("x-request-id") == [problem["request_id"]] == ["mine"]
    # It waits for the next replica in Ray's proxy.
    assert _ask(cluster, work(2, 64), {}).status_code == 200
    assert psutil.wait_procs(pictures, timeout=60)[1] == []


def test_a_redeployment_under_load_costs_nobody_an_answer(
    cluster: RayCluster, tiny_model: str
) -> None:
    before = [each for replica in cluster.replicas for each in _with_children(replica)]
    bodies = [work(seed, 128) for seed in range(8)]
    with Load(cluster.url, bodies, callers=8, patience=PATIENCE_SECONDS) as load:
        status = cluster.deploy(2, models=tiny_model, **SETTINGS, slow_request_seconds=20)
        assert status["status"] == "RUNNING"
        cluster.eventually(lambda: not any(each.is_running() for each in before))
        load.wait_for_answers(50)
    assert set(load.outcomes) == {"200"}, load.outcomes
    assert len(cluster.replicas) == 2


def test_a_killed_replica_of_two_costs_no_caller_that_asks_again_an_answer(
    cluster: RayCluster,
) -> None:
    killed = cluster.replicas[0]
    bodies = [work(seed, 256) for seed in range(8)]
    with Load(cluster.url, bodies, callers=8, retries=1, patience=PATIENCE_SECONDS) as load:
        killed.kill()
        load.wait_for_answers(50)
        cluster.eventually(lambda: killed not in cluster.replicas and len(cluster.replicas) == 2)
        load.wait_for_answers(50)
    assert set(load.outcomes) == {"200"}, load.outcomes


def test_a_setting_that_cannot_hold_is_named_and_the_running_replicas_stay(
    cluster: RayCluster, tiny_model: str
) -> None:
    refused = cluster.deploy(2, models=tiny_model, **SETTINGS, admin_port=9000)
    assert refused["status"] != "RUNNING"
    assert "InvalidOptionError" in refused["message"]
    assert "LEGRAD_ADMIN_PORT=9000" in refused["message"]
    assert cluster.client.get("/health/ready").status_code == 200


def _ask(cluster: RayCluster, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    return cluster.client.post("/explain", json=body, headers=headers)


def _with_children(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]
