"""Traces of a real server, as a collector receives them."""

import re
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support import faulty_server
from tests.support.forked_program import ForkedProgram
from tests.support.pictures import base64_of, data_url, encoded, picture, request_of, unseen
from tests.support.running_server import Server, environment
from tests.support.trace_collector import TraceCollector, attributes, in_trace

pytestmark = pytest.mark.slow

_TRACE = ""
_PARENT = "00f067aa0ba902b7"
PAGE = "https://app.example.org"
BEGUN = 'legrad_queue_wait_seconds_count{model="tiny-tiny"}'
DEPTH = 'legrad_queue_depth{model="tiny-tiny"}'


@pytest.fixture(autouse=True)
def _traces_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each run of a test traces that the collector has not seen."""
    monkeypatch.setitem(globals(), "_TRACE", f"{secrets.token_hex(14)}{{:04x}}")


@pytest.fixture(scope="module")
def collector() -> Iterator[TraceCollector]:
    with TraceCollector() as started:
        yield started


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that lets the worker go on that a request holds."""
    return tmp_path_factory.mktemp("traced") / "released"


@pytest.fixture(scope="module")
def traced(tiny_model: str, collector: TraceCollector, released: Path) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        server = Server(
            f"{tiny_model},RN50/openai",
            program=faulty_server.program(released),
            max_batch_images=2,
            cors_origins=PAGE,
        )
    with server:
        server.wait_for_health()
        yield server


def traceparent(number: int, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{_TRACE.format(number)}-{_PARENT}-{flags}"}


def trace_of(response: httpx.Response) -> str:
    found = re.fullmatch(
        r"00-([0-9a-f]{32})-[0-9a-f]{16}-0[0-3]", response.headers["traceresponse"]
    )
    assert found is not None
    return found[1]


def is_server(span: Span) -> bool:
    return span.kind == Span.SPAN_KIND_SERVER


def test_a_request_is_a_tree_of_its_stages(traced: Server, collector: TraceCollector) -> None:
    images = [data_url(encoded(unseen())) for _ in range(2)]
    response = traced.explain(request_of(image=None, images=images))
    assert response.status_code == 200
    spans = collector.request_spans(trace_of(response))
    (root,) = [span for span in spans if is_server(span)]
    assert root.name == "POST /explain"
    assert not root.parent_span_id
    assert root.span_id.hex() == response.headers["traceresponse"].split("-")[2]
    assert attributes(root.attributes) == {
        "http.request.method": "POST",
        "http.route": "/explain",
        "http.response.status_code": 200,
        "url.scheme": "http",
    }
    assert root.status.code == Status.STATUS_CODE_UNSET
    stages = [span for span in spans if span is not root]
    assert Counter(span.name for span in stages) == dict.fromkeys(
        ("decode", "queue", "compute", "render"), 2
    )
    for span in stages:
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano
    timings = response.json()["timings"]
    for stage in ("decode", "queue", "compute", "render"):
        longest = max(
            span.end_time_unix_nano - span.start_time_unix_nano
            for span in stages
            if span.name == stage
        )
        assert longest / 1e9 == pytest.approx(timings[stage], abs=1e-6)
    assert collector.resources[0]["service.name"] == "legrad-service"
    assert collector.resources[0]["deployment.environment"] == "test"


def test_a_batch_is_linked_to_the_requests_that_it_computed(
    traced: Server, collector: TraceCollector, released: Path
) -> None:
    released.unlink(missing_ok=True)
    bodies = [request_of(image=data_url(encoded(unseen()))) for _ in range(2)]
    with ThreadPoolExecutor(3) as callers:
        before = traced.metric(BEGUN)
        holding = request_of(prompts=[faulty_server.HANG_FOR_A_WHILE])
        held = callers.submit(traced.explain, holding)
        try:
            traced.poll_metric(BEGUN, before + 1)
            answers = [callers.submit(traced.explain, body) for body in bodies]
            traced.poll_metric(DEPTH, 2)
        finally:
            released.touch()
        assert held.result().status_code == 200
        responses = [answer.result() for answer in answers]
    assert [response.json()["images"][0]["batch_size"] for response in responses] == [2, 2]
    requests = {
        (bytes.fromhex(trace_of(each)), bytes.fromhex(each.headers["traceresponse"].split("-")[2]))
        for each in responses
    }

    def links(span: Span) -> set[tuple[bytes, bytes]]:
        return {(link.trace_id, link.span_id) for link in span.links}

    spans = collector.wait_for(lambda spans: any(links(span) == requests for span in spans))
    (batch,) = [span for span in spans if links(span) == requests]
    assert batch.name == "batch"
    assert not batch.parent_span_id
    assert batch.trace_id not in {trace for trace, _ in requests}
    assert attributes(batch.attributes) == {"legrad.model": "tiny-tiny", "legrad.batch.size": 2}
    stages = {
        span.name
        for span in spans
        if span.trace_id == batch.trace_id and span.parent_span_id == batch.span_id
    }
    assert stages == {"text", "forward", "backward"}


def test_the_callers_trace_is_continued(traced: Server, collector: TraceCollector) -> None:
    response = traced.explain(request_of(), **traceparent(1))
    assert trace_of(response) == _TRACE.format(1)
    spans = collector.request_spans(_TRACE.format(1))
    (root,) = [span for span in spans if is_server(span)]
    assert root.parent_span_id.hex() == _PARENT
    assert len(spans) > 1
    line = traced.wait_for_log(
        lambda entry: entry.get("request_id") == response.headers["x-request-id"]
    )
    assert line["trace_id"] == _TRACE.format(1)


@pytest.mark.parametrize(
    "hostile",
    [
        {"baggage": "zebra9021" + "\t" * 8000 + "b"},
        {"baggage": "zebra9021," * 30_000},
        {"tracestate": "zebra9021"},
        {"tracestate": "zebra9021=" + "a" * 200 + "=b"},
        {"tracestate": "zebra9021" + "\t" * 8000 + "b"},
        {"tracestate": ",".join(f"a{number}=zebra9021" for number in range(40))},
    ],
)
def test_headers_that_are_not_valid_lose_no_trace_and_are_not_quoted(
    traced: Server, hostile: dict[str, str]
) -> None:
    response = traced.explain(request_of(), **traceparent(30), **hostile)
    assert trace_of(response) == _TRACE.format(30)
    request_id = response.headers["x-request-id"]
    traced.wait_for_log(lambda entry: entry.get("request_id") == request_id)
    assert "zebra9021" not in str(traced.log)


def test_a_long_traceparent_begins_a_new_trace(traced: Server) -> None:
    padded = traceparent(31)["traceparent"].replace("00-", "01-", 1) + "-" + "a" * 8000
    assert trace_of(traced.explain(request_of(), traceparent=padded)) != _TRACE.format(31)


def test_the_callers_tracestate_is_exported(traced: Server, collector: TraceCollector) -> None:
    traced.explain(request_of(), **traceparent(32), tracestate="vendor=zebra")
    spans = collector.request_spans(_TRACE.format(32))
    (root,) = [span for span in spans if is_server(span)]
    assert root.trace_state == "vendor=zebra"


def test_a_caller_that_does_not_sample_is_not_traced(
    traced: Server, collector: TraceCollector
) -> None:
    seen = data_url(encoded(picture(seed=21)))
    unsampled = traced.explain(request_of(image=seen), **traceparent(2, "00"))
    assert unsampled.status_code == 200
    assert unsampled.headers["traceresponse"].endswith("-00")
    assert trace_of(unsampled) == _TRACE.format(2)
    before = len(collector.bodies)
    sampled = traced.explain(request_of(image=seen), **traceparent(3))
    collector.request_spans(_TRACE.format(3))
    spans = collector.wait_for(
        lambda spans: any(
            link.trace_id.hex() == _TRACE.format(3) for span in spans for link in span.links
        )
    )
    assert sampled.status_code == 200
    assert len(collector.bodies) > before
    assert not [span for span in spans if in_trace(span, _TRACE.format(2))]
    linked = {link.trace_id.hex() for span in spans for link in span.links}
    assert _TRACE.format(2) not in linked
    # Every recorded batch links to its requests.
    assert all(span.links for span in spans if span.name == "batch")


def test_errors_are_named_but_not_quoted(traced: Server, collector: TraceCollector) -> None:
    secret = "zebra5671"
    image = encoded(picture(seed=5671))
    traced.explain(request_of(prompts=[secret], image=data_url(image)), **traceparent(4))
    bad = traced.explain(request_of(prompts=[secret * 300]), **traceparent(5))
    # A model that cannot be explained.
    failed = traced.explain(request_of(prompts=[secret], model="rn50-openai"), **traceparent(6))
    lost = traced.client.get(f"/{secret}?key={secret}", headers=traceparent(7))
    strange = traced.client.request("PROPFIND", "/models", headers=traceparent(8))
    asks_before = traceparent(9) | {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    preflight = traced.client.options("/explain", headers=asks_before)
    answers = (bad, failed, lost, strange, preflight)
    assert [each.status_code for each in answers] == [422, 503, 404, 405, 200]
    roots = {}
    for number in (4, 5, 6, 7, 8, 9):
        spans = collector.request_spans(_TRACE.format(number))
        (roots[number],) = [span for span in spans if is_server(span)]
    found = {
        number: (
            span.name,
            attributes(span.attributes)["http.response.status_code"],
            attributes(span.attributes).get("error.type"),
            span.status.code == Status.STATUS_CODE_ERROR,
        )
        for number, span in roots.items()
    }
    assert found == {
        4: ("POST /explain", 200, None, False),
        5: ("POST /explain", 422, "limit-exceeded", False),
        6: ("POST /explain", 503, "not-ready", True),
        7: ("GET", 404, "not-found", False),
        8: ("HTTP", 405, "method-not-allowed", False),
        9: ("OPTIONS", 200, None, False),
    }
    sent = b"".join(collector.bodies)
    assert secret.encode() not in sent.lower()
    assert base64_of(image)[40:80].encode() not in sent


@pytest.mark.parametrize("listening", [False, True], ids=["closed", "silent"])
def test_a_dead_collector_hurts_neither_requests_nor_the_end(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch, listening: bool
) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        if listening:
            # The collector accepts connections and never answers.
            dead.listen(64)
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{dead.getsockname()[1]}"
        )
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with Server(tiny_model) as server:
            server.wait_for_health()
            for number in range(20):
                response = server.explain(request_of(prompts=[f"thing {number}"]))
                assert response.status_code == 200
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            # By default, the exporter would retry for half a minute.
            assert time.monotonic() - began < 20
            # Messages of the exporter have the log's format.
            assert all("event" in entry for entry in server.log)


def run_python(program: str, **variables: str) -> tuple[str, str]:
    """Run a program in a process with these variables; return its output and its errors."""
    run = partial(exec, program, {"__name__": "__main__"})
    return ForkedProgram(run, ["program.py"], environment() | variables).communicate(timeout=240)


# FastAPI itself imports OpenTelemetry's API; this test is about the rest.
_LOADED = (
    "[name for name in sys.modules"
    " if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["nothing", "disabled", "no exporter"],
)
def test_without_configuration_nothing_is_imported(variables: dict[str, str]) -> None:
    program = f"import sys; from service.app import create_app; create_app(); print({_LOADED})"
    output, errors = run_python(program, **variables)
    assert output.strip() == "[]", errors


def test_without_the_packages_the_server_says_so_and_serves() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from service.app import create_app\n"
        "from service.http.application import application_of\n"
        "print(type(application_of(create_app()).tracing).__name__)"
    )
    output, errors = run_python(program, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert "legrad-service[telemetry]" in output, errors
    assert output.strip().endswith("SilentTracing")
