"""The real process: its start, its log, its contract and its exit status."""

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from service.cli import app
from tests.support.paths import CONTRACT
from tests.support.picture_sites import PictureSite, answer, sends
from tests.support.pictures import base64_of, bomb, data_url, encoded, picture, request_of
from tests.support.running_server import LEGRAD, Server, environment

pytestmark = pytest.mark.slow


def test_a_newcomer_gets_an_explanation(server: Server) -> None:
    answer = server.explain(request_of(prompts=["a cat", "a dog"]))
    assert answer.status_code == 200
    assert [target["prompt"] for target in answer.json()["images"][0]["targets"]] == [
        "a cat",
        "a dog",
    ]


def test_mixed_good_and_bad_requests_leave_the_server_well(server: Server) -> None:
    bodies: list[dict[str, Any]] = [
        request_of(image=data_url(bomb())),
        request_of(prompts=[""]),
        request_of(image="no base64!"),
        request_of(options={"size": 63}),
        request_of(model="nothing"),
        request_of(surprise=1),
        request_of(image=data_url(b"junk")),
    ]
    good = [request_of(prompts=[f"thing {number}"]) for number in range(len(bodies))]
    mixed = [body for pair in zip(bodies, good, strict=True) for body in pair] * 3
    with ThreadPoolExecutor(16) as callers:
        statuses = list(callers.map(lambda body: server.explain(body).status_code, mixed))
    assert statuses[1::2] == [200] * len(statuses[1::2])
    assert all(400 <= status < 500 for status in statuses[::2])
    assert server.wait_for_health().status_code == 200


def test_a_picture_is_fetched_where_the_settings_allow_it(server: Server, tiny_model: str) -> None:
    with PictureSite(sends(answer(encoded()))) as site:
        host = f"localhost:{site.port}"
        body = request_of(image={"url": f"http://{host}/picture"})
        refused = server.explain(body)
        assert (refused.status_code, refused.json()["error"]) == (403, "url-not-allowed")
        with Server(tiny_model, url_hosts=host, url_private_addresses="true") as allowed:
            allowed.wait_for_health()
            fetched, posted = allowed.explain(body), allowed.explain(request_of())
            assert fetched.json()["images"][0]["targets"] == posted.json()["images"][0]["targets"]
    assert len(site.heads) == 1


def test_hostile_connections_leave_the_server_well(server: Server) -> None:
    attacks = [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /explain HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /explain HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /explain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /models HTTP/1.1\r\nHost: a\r\nX-Request-ID: a\r\n evil: b\r\n\r\n",
    ]
    for attack in attacks:
        with socket.create_connection((server.host, server.port), timeout=30) as connection:
            connection.sendall(attack)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        assert b" 500 " not in answer
        assert b"\r\nevil:" not in answer
    assert server.explain(request_of()).status_code == 200


def test_logs_are_one_object_a_line_and_keep_secrets(server: Server) -> None:
    secret, image = "zebra5671", encoded(picture(seed=5671))
    ok = server.explain(
        request_of(prompts=[secret], image=data_url(image)), **{"X-Request-ID": "logged-1"}
    )
    assert ok.status_code == 200
    server.explain(request_of(prompts=[secret * 300]), **{"X-Request-ID": "logged-2"})
    server.explain(request_of(prompts=[secret, ""]), **{"X-Request-ID": "logged-3"})
    corrupt = b"II*\0" + b"\xff" * 60
    server.explain(request_of(image=data_url(corrupt)), **{"X-Request-ID": "logged-4"})
    server.wait_for_log(lambda entry: entry.get("request_id") == "logged-4")
    found = {entry["request_id"]: entry for entry in server.log if "request_id" in entry}
    assert found["logged-1"]["status"] == 200
    assert found["logged-1"]["route"] == "/explain"
    assert found["logged-1"]["model"] == "tiny-tiny"
    assert found["logged-2"]["problem"] == "limit-exceeded"
    assert found["logged-3"]["problem"] == "invalid-target"
    assert found["logged-4"]["problem"] == "image-decode-failed"
    assert secret not in "".join(server.log_lines)
    assert base64_of(image)[40:80] not in "".join(server.log_lines)
    assert secret not in server.client.get("/metrics").text


def test_a_model_that_cannot_be_loaded_is_reported_by_a_living_server(
    tiny_model: str, tmp_path: Path
) -> None:
    config = Path(tiny_model.partition("@")[0])
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"these are no weights")
    with Server(f"{config}@{broken}") as server:
        listed = server.poll(
            "/models", lambda response: response.json()["models"][0]["state"] == "failed"
        )
        (model,) = listed.json()["models"]
        assert "could not be loaded" in model["error"]
        assert str(tmp_path) not in listed.text
        ready = server.client.get("/health/ready")
        assert ready.status_code == 503
        assert "failed" in ready.json()["detail"]
        assert server.client.get("/health/live").status_code == 200
        refused = server.explain(request_of())
        assert (refused.status_code, refused.json()["error"]) == (503, "not-ready")
        assert server.alive


def test_a_model_that_no_settings_can_load_does_not_keep_the_others_from_serving(
    tiny_model: str,
) -> None:
    with Server(f"{tiny_model},RN50/openai,ViT-B-16@/nowhere/w.pt") as server:
        server.wait_for_health()
        assert server.explain(request_of()).status_code == 200
        states = {
            model["id"]: (model["state"], model["error"])
            for model in server.client.get("/models").json()["models"][1:]
        }
        assert [state for state, _ in states.values()] == ["failed", "failed"]
        assert "cannot be explained" in states["rn50-openai"][1]
        assert "no checkpoint" in states["vit-b-16-w"][1]
        assert "nowhere" not in states["vit-b-16-w"][1]
        refused = server.explain(request_of(model="rn50-openai"))
        assert (refused.status_code, refused.json()["error"]) == (503, "not-ready")


def test_the_published_contract_is_the_served_one() -> None:
    settings = {"LEGRAD_PORT": "7", "LEGRAD_MAX_IMAGES": "3"}
    printed = CliRunner().invoke(app, ["openapi"], env=settings)
    assert printed.stdout == CONTRACT.read_text()


def test_the_served_contract_is_complete(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    published = yaml.safe_load(CONTRACT.read_text())
    assert document["paths"] == json.loads(json.dumps(published["paths"]))
    assert {"/explain", "/models", "/models/{model_id}", "/health/live", "/health/ready"} <= set(
        document["paths"]
    )
    missing = [
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, described in schema.get("properties", {}).items()
        if not {"description", "$ref"} & set(described)
        or not {"example", "examples"} & set(described)
    ]
    assert missing == []
    assert all("description" in schema for schema in document["components"]["schemas"].values())


@pytest.mark.parametrize(
    ("setting", "value", "mention"),
    [("port", "70000", "LEGRAD_PORT")],
)
def test_bad_settings_end_the_process_with_a_clear_message(
    tiny_model: str, setting: str, value: str, mention: str
) -> None:
    done = subprocess.run(
        [str(LEGRAD), "serve"],
        env=environment(**{"models": tiny_model, setting: value}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert mention in done.stderr
    assert "Traceback" not in done.stderr
