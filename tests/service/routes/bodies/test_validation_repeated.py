"""A member that is there twice is refused in every body: a parser would keep one, silently."""

import json

import httpx
import pytest

from tests.support.answers import refused
from tests.support.pictures import encoded, request_of
from tests.support.protocols import refused_as_kserve_does
from tests.support.running_app import RunningApp

BODY = json.dumps(request_of())


def post(running: RunningApp, path: str, content: str) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return running.client.post(path, content=content.encode(), headers=headers)


def changed(member: str) -> str:
    """Return a good body with one more member at its end."""
    return f"{BODY[:-1]}, {member}}}"


@pytest.mark.parametrize(
    ("member", "field"),
    [
        ('"prompts": ["a dog"]', "prompts"),
        ('"\\u0070rompts": ["a cat"]', "prompts"),
        ('"options": {"layers": 1, "size": 64, "layers": 1}', "options.layers"),
        (
            '"targets": [{"type": "class", "index": 1}, {"type": "text", "text": "", "text": ""}]',
            "targets.1.text",
        ),
        ('"options": {"negatives": {"prompts": ["a"], "prompts": ["b"]}}',
         "options.negatives.prompts"),
    ],
)  # fmt: skip
def test_a_repeated_member_is_named_at_any_depth(
    running: RunningApp, member: str, field: str
) -> None:
    detail = refused(post(running, "/explain", changed(member)), 400, "malformed-body", field)
    assert "more than once" in detail


def test_a_repeated_member_is_named_in_kserve_s_bodies(running: RunningApp) -> None:
    path = f"/v1/models/{running.model.id}:explain"
    answer = post(running, path, f'{{"instances": [], "instances": [{BODY}]}}')
    refused_as_kserve_does(answer, 400, "malformed-body", "instances")
    answer = post(running, path, f'{{"instances": [{changed(BODY[1:-1])}]}}')
    refused_as_kserve_does(answer, 400, "malformed-body", "instances.0.image")


def test_a_repeated_member_is_named_in_tensors(running: RunningApp) -> None:
    text = '{"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": ["a"], "data": ["b"]}'
    answer = post(running, f"/v2/models/{running.model.id}/infer", f'{{"inputs": [{text}]}}')
    refused_as_kserve_does(answer, 400, "malformed-body", "inputs.0.data")
    answer = post(
        running,
        f"/v2/models/{running.model.id}/infer",
        '{"parameters": {"layers": 1, "layers": 2}, "inputs": []}',
    )
    refused_as_kserve_does(answer, 400, "malformed-body", "parameters.layers")


def test_a_repeated_member_is_named_in_a_query(running: RunningApp) -> None:
    answer = running.client.post(
        f"/explanations/{running.model.id}",
        params={"prompts": "a cat", "output": '{"alpha": 1, "alpha": 0}'},
        content=encoded(),
    )
    assert answer.status_code == 400
    assert "'alpha' appears more than once" in answer.json()["message"]


@pytest.mark.parametrize("path", ["/explain", "/v1/models/{}:explain"])
def test_a_byte_order_mark_before_json_is_skipped(running: RunningApp, path: str) -> None:
    body = BODY if path == "/explain" else f'{{"instances": [{BODY}]}}'
    assert post(running, path.format(running.model.id), f"\ufeff{body}").status_code == 200


@pytest.mark.parametrize("charset", ["utf-8", '"UTF-8"', "us-ascii"])
def test_json_may_name_its_charset(running: RunningApp, charset: str) -> None:
    headers = {"Content-Type": f"application/json; charset={charset}"}
    assert running.client.post("/explain", content=BODY, headers=headers).status_code == 200


def test_json_in_another_charset_is_refused(running: RunningApp) -> None:
    headers = {"Content-Type": "application/json; charset=iso-8859-1"}
    answer = running.client.post("/explain", content=BODY, headers=headers)
    assert "UTF-8" in refused(answer, 415, "unsupported-media-type", "Content-Type")
