"""The log of a real server: one line per request, and no secrets of callers."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.picture_sites import PictureSite, answer, sends
from tests.support.pictures import base64_of, data_url, encoded, picture, request_of
from tests.support.running_server import Server

pytestmark = pytest.mark.slow

_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_SPAN = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def talkative(tiny_model: str) -> Iterator[Server]:
    """A server at its most verbose level, which takes every request for a slow one."""
    with Server(tiny_model, log_level="debug", slow_request_seconds=1e-6) as server:
        server.wait_for_health()
        yield server


def line_of(server: Server, response: httpx.Response) -> dict[str, Any]:
    request_id = response.headers["x-request-id"]
    # The line is written after the last byte is sent.
    return server.wait_for_log(
        lambda entry: (
            entry.get("request_id") == request_id and entry["event"].startswith("answered")
        )
    )


def test_every_request_has_a_line_with_its_stages(server: Server) -> None:
    response = server.explain(request_of(image=data_url(encoded(picture(seed=41)))))
    line = line_of(server, response)
    assert line["event"] == "answered"
    assert line["level"] == "info"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/explain", 200)
    timings = response.json()["timings"]
    del timings["total"]
    assert line["timings"] == {stage: pytest.approx(timings[stage], abs=1e-6) for stage in timings}
    assert sum(line["timings"].values()) < line["seconds"]
    assert "trace_id" not in line
    assert line_of(server, server.client.get("/models"))["timings"] == {}


def test_a_request_that_comes_with_a_trace_is_found_by_it(server: Server) -> None:
    given = server.client.get("/models", headers={"traceparent": f"00-{_TRACE}-{_SPAN}-00"})
    assert line_of(server, given)["trace_id"] == _TRACE
    # Tracing is off, so that there is no trace to refer to.
    assert "traceresponse" not in given.headers
    later_version = {"traceparent": f"01-{_TRACE}-{_SPAN}-01-more"}
    assert line_of(server, server.client.get("/models", headers=later_version))["trace_id"] == (
        _TRACE
    )


@pytest.mark.parametrize(
    "header",
    [
        f"ff-{_TRACE}-{_SPAN}-01",
        f"00-{'0' * 32}-{_SPAN}-01",
        f"00-{_TRACE}-{'0' * 16}-01",
        f"00-{_TRACE.upper()}-{_SPAN}-01",
        f"00-{_TRACE[1:]}-{_SPAN}-01",
        '"; drop',
    ],
)
def test_an_invalid_trace_parent_is_not_logged(server: Server, header: str) -> None:
    response = server.client.get("/models", headers={"traceparent": header})
    assert response.status_code == 200
    assert "trace_id" not in line_of(server, response)


def test_slow_requests_are_warned_of_with_the_time_of_each_stage(talkative: Server) -> None:
    response = talkative.explain(request_of(image=data_url(encoded(picture(seed=42)))))
    line = line_of(talkative, response)
    assert (line["event"], line["level"]) == ("answered slowly", "warning")
    assert set(line["timings"]) == {"decode", "queue", "compute", "render"}


def test_even_at_its_most_talkative_the_log_keeps_what_callers_send(talkative: Server) -> None:
    secret = "zebra5671"
    image = encoded(picture(seed=5671))
    key = {"Authorization": f"Bearer {secret}"}
    with PictureSite(sends(answer(image))) as site:
        address = f"http://{secret}.example:{site.port}/{secret}?{secret}"
        requests = [
            request_of(prompts=[secret], image=data_url(image)),
            request_of(prompts=[secret * 300]),
            request_of(prompts=[secret, ""]),
            request_of(image=secret),
            request_of(image={"url": address}),
            request_of(model=secret),
            {secret: secret},
        ]
        for body in requests:
            talkative.explain(body, **key, Cookie=f"a={secret}")
    talkative.client.post(
        "/explain",
        files={"image": (f"{secret}.png", image, f"image/{secret}")},
        data={"prompts": [secret], secret: secret},
        headers=key,
    )
    talkative.client.post(f"/explain?key={secret}", content=secret.encode(), headers=key)
    talkative.client.get(f"/{secret}?key={secret}", headers=key)
    talkative.client.get(f"/models/{secret}", headers=key)
    talkative.client.delete(f"/models/{secret}", headers=key)
    talkative.client.get("/models", headers={"X-Request-ID": f"{secret} {secret}"})
    # Parsing fails here unless every line is JSON, those of libraries included.
    loggers = {entry["logger"] for entry in talkative.log}
    assert any(not name.startswith("legrad") for name in loggers), loggers
    written = "".join(talkative.log_lines)
    assert secret not in written
    assert base64_of(image)[40:80] not in written
    assert "http://" not in written
