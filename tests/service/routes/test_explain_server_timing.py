"""The `Server-Timing` header holds the time of each stage."""

from typing import Any

import httpx
import pytest
import structlog

from tests.support.pictures import base64_of, data_url, encoded, picture, request_of
from tests.support.running_app import Held, RunningApp


def server_timing(response: httpx.Response) -> dict[str, float]:
    entries = [entry.split(";dur=") for entry in response.headers["server-timing"].split(", ")]
    return {name: float(milliseconds) for name, milliseconds in entries}


def test_the_header_says_what_the_answer_says(running: RunningApp) -> None:
    response = running.explain(request_of(image=data_url(encoded(picture(seed=31)))))
    timings = response.json()["timings"]
    found = server_timing(response)
    assert list(found) == ["decode", "queue", "compute", "render", "total"]
    assert found == {
        stage: pytest.approx(1000 * seconds, abs=0.051) for stage, seconds in timings.items()
    }
    assert found["decode"] > 0
    assert found["render"] > 0
    assert max(found.values()) == found["total"]


def test_an_answer_without_a_body_of_numbers_has_the_header_too(running: RunningApp) -> None:
    response = running.explain(request_of(), Accept="image/png")
    assert response.headers["content-type"] == "image/png"
    assert server_timing(response)["total"] > 0


def test_answers_without_an_explanation_have_no_timing_header(running: RunningApp) -> None:
    for response in (
        running.explain(request_of(prompts=[""])),
        running.client.get("/models"),
        running.client.get("/nowhere"),
    ):
        assert "server-timing" not in response.headers


def test_the_log_of_a_request_that_runs_out_of_time_tells_how_far_it_came(tiny_model: str) -> None:
    image = data_url(encoded(picture(seed=32)))
    # One of its own: a shared one may have learned that drawing takes long, and refuse at once.
    with (
        RunningApp(tiny_model) as running,
        structlog.testing.capture_logs() as log,
        Held(running) as held,
    ):
        waiting = running.explain_in_background()
        assert held.entered.wait(60)
        late = running.explain(request_of(image=image), **{"X-Request-Timeout-Ms": "2000"})
        assert late.status_code == 504
        held.release()
        assert waiting.result(60).status_code == 200
        line = running.line_of(late, log)
    assert set(line["timings"]) == {"decode", "queue"}
    assert line["timings"]["queue"] > 0.1
    assert line["problem"] == "deadline-exceeded"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/tiny-tiny:explain", {"json": {"instances": [request_of()]}}),
        (
            "/v2/models/tiny-tiny/infer",
            {
                "json": {
                    "inputs": [
                        {
                            "name": name,
                            "datatype": "BYTES",
                            "shape": [1],
                            "data": [data],
                        }
                        for name, data in (("IMAGE", base64_of(encoded())), ("TEXT", "a cat"))
                    ]
                }
            },
        ),
        ("/explanations/tiny-tiny?prompts=a%20cat", {"content": encoded()}),
    ],
    ids=["KServe V1", "Open Inference V2", "TorchServe"],
)
def test_every_protocol_has_the_header(
    running: RunningApp, path: str, body: dict[str, Any]
) -> None:
    response = running.client.post(path, **body)
    assert response.status_code == 200, response.text
    assert list(server_timing(response))[-1] == "total"
