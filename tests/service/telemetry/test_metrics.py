"""Metrics for dashboards: their names, their label sets from the start, and their values."""

import re
import secrets
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.pictures import data_url, encoded, request_of, unseen
from tests.support.running_app import RunningApp, samples

BY_MODEL = [
    "legrad_queue_wait_seconds_count",
    "legrad_queue_depth",
    "legrad_model_bytes",
    "legrad_model_evictions_total",
    "legrad_similarity_count",
    "legrad_heatmap_entropy_count",
    "legrad_heatmap_border_mass_count",
]
BY_DEVICE = [
    "legrad_batch_size_count",
    "legrad_model_loaded",
    "legrad_worker_restarts_total",
    "legrad_worker_stalls_total",
]
FROM_THE_START = [
    'legrad_requests_total{route="/explain",status="200"}',
    'legrad_requests_total{route="/explain",status="429"}',
    'legrad_requests_total{route="unmatched",status="404"}',
    'legrad_request_duration_seconds_count{route="/explain"}',
    "legrad_requests_in_progress",
    "legrad_ready",
    "legrad_request_timeout_seconds",
    "legrad_queue_cost_limit",
    "legrad_memory_limit_bytes",
    *(
        f'legrad_model_state{{model="tiny-tiny",state="{state}"}}'
        for state in ("unloaded", "loading", "ready", "unloading", "failed")
    ),
    *(f'{name}{{model="tiny-tiny"}}' for name in BY_MODEL),
    *(f'{name}{{device="cpu",model="tiny-tiny"}}' for name in BY_DEVICE),
    *(
        f'legrad_compute_seconds_count{{model="tiny-tiny",stage="{stage}"}}'
        for stage in ("decode", "text", "forward", "backward", "render")
    ),
    *(
        f'legrad_model_loads_total{{model="tiny-tiny",outcome="{outcome}"}}'
        for outcome in ("loaded", "failed", "refused")
    ),
    *(
        f'legrad_rejected_total{{reason="{reason}"}}'
        for reason in (
            "queue-full",
            "deadline-exceeded",
            "body-too-large",
            "client-left",
            "key-rate",
            "key-cost",
        )
    ),
    *(
        f'legrad_dropped_total{{model="tiny-tiny",reason="{reason}"}}'
        for reason in ("cancelled", "closed", "deadline", "worker_died")
    ),
    "legrad_key_file_broken",
    "legrad_url_fetch_seconds_count",
    *(
        f'legrad_url_fetches_total{{outcome="{outcome}"}}'
        for outcome in ("fetched", "cancelled", "url-not-allowed", "url-timeout")
    ),
    'legrad_cache_hits_total{cache="prompts"}',
    'legrad_cache_misses_total{cache="prompts"}',
    'legrad_cache_hits_total{cache="traces"}',
    'legrad_cache_misses_total{cache="traces"}',
    'legrad_cache_bytes{cache="traces"}',
    'legrad_cache_entries{cache="traces"}',
    'legrad_cache_evictions_total{cache="traces"}',
]


@pytest.fixture(scope="module")
def fresh(tiny_model: str) -> Iterator[RunningApp]:
    with RunningApp(tiny_model) as started:
        yield started


def test_every_label_set_exists_before_the_first_request(fresh: RunningApp) -> None:
    response = fresh.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = samples(response.text)
    assert [name for name in FROM_THE_START if name not in found] == []
    assert found['legrad_requests_total{route="/explain",status="200"}'] == 0
    assert found['legrad_model_loaded{device="cpu",model="tiny-tiny"}'] == 1
    assert found['legrad_model_bytes{model="tiny-tiny"}'] > 1_000_000


def test_every_metric_of_the_design_is_there_with_its_labels(fresh: RunningApp) -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(fresh.client.get("/metrics").text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    design = {
        "legrad_requests_total": {"route", "status"},
        "legrad_request_duration_seconds_bucket": {"route", "le"},
        "legrad_queue_wait_seconds_bucket": {"model", "le"},
        "legrad_queue_depth": {"model"},
        "legrad_batch_size_bucket": {"model", "device", "le"},
        "legrad_compute_seconds_bucket": {"model", "stage", "le"},
        "legrad_rejected_total": {"reason"},
        "legrad_cache_hits_total": {"cache"},
        "legrad_cache_misses_total": {"cache"},
        "legrad_model_loaded": {"model", "device"},
        "legrad_model_bytes": {"model"},
        "legrad_worker_restarts_total": {"model", "device"},
        "legrad_similarity_bucket": {"model", "le"},
        "legrad_heatmap_entropy_bucket": {"model", "le"},
        "legrad_heatmap_border_mass_bucket": {"model", "le"},
    }
    assert {name: labels.get(name) for name in design} == design


def test_the_state_and_the_limits_are_the_servers_own(tiny_model: str) -> None:
    with RunningApp(
        tiny_model, load_models="on-demand", request_timeout_seconds=7, max_queue_cost=9
    ) as running:
        found = samples(running.client.get("/metrics").text)
        assert found["legrad_request_timeout_seconds"] == 7
        assert found["legrad_queue_cost_limit"] == 9
        memory = found["legrad_memory_limit_bytes"]
        assert found["process_resident_memory_bytes"] < memory < 2**60
        # A request would load the model, so that the server counts as ready.
        assert found["legrad_ready"] == 1
        assert found['legrad_model_state{model="tiny-tiny",state="unloaded"}'] == 1
        assert running.explain().status_code == 200
        found = samples(running.client.get("/metrics").text)
        assert found['legrad_model_state{model="tiny-tiny",state="unloaded"}'] == 0
        assert found['legrad_model_state{model="tiny-tiny",state="ready"}'] == 1


def test_a_request_moves_the_numbers(fresh: RunningApp) -> None:
    before = samples(fresh.client.get("/metrics").text)
    images = [data_url(encoded(unseen())) for _ in range(2)]
    body = {"images": images, "prompts": [secrets.token_hex(4) for _ in range(3)]}
    assert fresh.explain(body).status_code == 200
    # A batch is counted after its results are handed out.
    computed = 'legrad_batch_size_sum{device="cpu",model="tiny-tiny"}'
    fresh.eventually(lambda: fresh.metric(computed) > before[computed] + 1)
    after = samples(fresh.client.get("/metrics").text)
    moved = {
        'legrad_requests_total{route="/explain",status="200"}': 1,
        'legrad_request_duration_seconds_count{route="/explain"}': 1,
        'legrad_queue_wait_seconds_count{model="tiny-tiny"}': 2,
        computed: 2,
        'legrad_compute_seconds_count{model="tiny-tiny",stage="decode"}': 2,
        'legrad_compute_seconds_count{model="tiny-tiny",stage="render"}': 2,
        'legrad_cache_misses_total{cache="prompts"}': 3,
        'legrad_cache_misses_total{cache="traces"}': 2,
        # A trace and a canvas of each.
        'legrad_cache_entries{cache="traces"}': 4,
        'legrad_similarity_count{model="tiny-tiny"}': 6,
        'legrad_heatmap_entropy_count{model="tiny-tiny"}': 6,
        'legrad_heatmap_border_mass_count{model="tiny-tiny"}': 6,
    }
    assert {name: after[name] - before[name] for name in moved} == moved
    assert (
        after["legrad_requests_in_progress"] == after['legrad_queue_depth{model="tiny-tiny"}'] == 0
    )


def test_values_of_callers_never_become_labels(fresh: RunningApp) -> None:
    secret = "zebra5671"
    fresh.explain(request_of(prompts=[secret], model=None), **{"X-Request-ID": secret})
    fresh.explain(request_of(model=secret))
    fresh.client.get(f"/{secret}")
    fresh.client.get(f"/models/{secret}")
    fresh.client.request("BREW", "/models")
    text = fresh.client.get("/metrics").text
    assert secret not in text
    assert "BREW" not in text
    routes = set(re.findall(r'route="([^"]*)"', text))
    assert routes == {
        "/", "/web/{path:path}", "/explain", "/explain/{request_id}/progress", "/models",
        "/models/{model_id}", "/models/{model_id}/ready", "/models/{model_id}/load",
        "/models/{model_id}/classes",
        "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json", "unmatched",
        "/v1/models", "/v1/models/{model_id}", "/v1/models/{model_id}:explain",
        "/v2", "/v2/", "/v2/health/live", "/v2/health/ready",
        *(
            f"/v2/models/{{model_id}}{version}{what}"
            for version in ("", "/versions/{version}")
            for what in ("", "/ready", "/infer")
        ),
        "/explanations/{model_id}", "/explanations/{model_id}/{version}", "/ping",
    }  # fmt: skip
