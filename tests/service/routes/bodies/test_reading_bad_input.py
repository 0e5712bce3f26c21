"""Bad input: the answer names the mistake, and the next good request works."""

import gzip
import io
import json
import socket
from typing import Any

import pytest
from PIL import Image

from service.routes.bodies import reading
from tests.support.answers import refused
from tests.support.pictures import base64_of, bomb, data_url, encoded, picture, request_of
from tests.support.raw_requests import posted_alone
from tests.support.running_app import RunningApp


@pytest.fixture(autouse=True)
def _still_works_afterwards(running: RunningApp) -> Any:
    yield
    assert running.explain().status_code == 200


def animation() -> bytes:
    buffer = io.BytesIO()
    first, second = picture(seed=1), picture(seed=2)
    first.save(buffer, "GIF", save_all=True, append_images=[second], duration=50)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        encoded()[:-100],
        encoded(kind="JPEG")[:300],
        encoded(kind="WEBP")[:60],
        b"\x89PNG\r\n\x1a\n",
        b"II*\0" + b"\xff" * 60,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        "no picture at all".encode("utf-16"),
    ],
    ids=["png-cut", "jpeg-cut", "webp-cut", "png-head", "tiff-noise", "svg", "pdf", "text"],
)
def test_a_broken_or_foreign_file_is_refused(running: RunningApp, data: bytes) -> None:
    assert refused(
        running.explain(request_of(image=data_url(data))), 422, "image-decode-failed", "image"
    )


def test_an_empty_picture_is_refused(running: RunningApp) -> None:
    for image in ("data:image/png;base64,", {"b64": ""}):
        response = running.explain(request_of(image=image))
        assert "empty" in refused(response, 422, "image-decode-failed", "image")


def test_a_mislabelled_picture_is_read_by_its_content(running: RunningApp) -> None:
    jpeg_called_png = "data:image/png;base64," + base64_of(encoded(kind="JPEG"))
    assert running.explain(request_of(image=jpeg_called_png)).status_code == 200


def test_a_picture_of_one_pixel_is_explained(running: RunningApp) -> None:
    answer = running.explain(request_of(image=data_url(encoded(Image.new("RGB", (1, 1)))))).json()
    assert answer["images"][0]["size"] == {"width": 1, "height": 1}


def test_a_decompression_bomb_is_refused_by_its_header(running: RunningApp) -> None:
    response = running.explain(request_of(image=data_url(bomb())))
    detail = refused(response, 413, "image-too-large", "image")
    assert "50000" in detail
    assert "4000000" in detail


def test_of_an_animation_the_first_frame_is_explained(running: RunningApp) -> None:
    with Image.open(io.BytesIO(animation())) as image:
        still = encoded(image.convert("RGB"))
    moving = running.explain(request_of(image=data_url(animation()))).json()
    alone = running.explain(request_of(image=data_url(still))).json()
    assert moving["images"][0]["targets"] == alone["images"][0]["targets"]


def test_one_bad_picture_among_several_is_named(running: RunningApp) -> None:
    body = request_of(images=[data_url(encoded()), data_url(b"nonsense")])
    del body["image"]
    refused(running.explain(body), 422, "image-decode-failed", "images.1")


def test_a_single_picture_in_a_list_is_named_as_sent(running: RunningApp) -> None:
    body = {"images": [data_url(b"nonsense")], "prompts": ["a cat"]}
    refused(running.explain(body), 422, "image-decode-failed", "images.0")


@pytest.mark.parametrize("image", ["https://example.com/cat.png", "http://127.0.0.1/metrics"])
def test_addresses_are_not_fetched(running: RunningApp, image: str) -> None:
    response = running.explain(request_of(image=image))
    assert '{"url"' in refused(response, 422, "image-decode-failed", "image")
    response = running.explain(request_of(image={"url": image}))
    detail = refused(response, 403, "url-not-allowed", "image.url")
    assert "LEGRAD_URL_HOSTS" in detail
    assert "base64" in detail


@pytest.mark.parametrize("image", ["not base64!", "data:image/png,abc", "data:", "é", "AAA"])
def test_wrong_base64_is_refused(running: RunningApp, image: str) -> None:
    refused(running.explain(request_of(image=image)), 422, "image-decode-failed", "image")


@pytest.mark.parametrize("prompt", ["", "   ", "\u3000\n"])
def test_a_blank_prompt_is_refused(running: RunningApp, prompt: str) -> None:
    response = running.explain(request_of(prompts=["a cat", prompt]))
    assert "empty" in refused(response, 422, "invalid-target", "prompts")


def test_a_very_long_prompt_is_refused(running: RunningApp) -> None:
    response = running.explain(request_of(prompts=["a" * 10_000]))
    detail = refused(response, 422, "limit-exceeded", "prompts")
    assert "10000" in detail
    assert "1000." in detail


def test_a_prompt_of_more_tokens_than_the_model_reads_is_refused(running: RunningApp) -> None:
    response = running.explain(request_of(prompts=["cat " * 40]))
    assert "40 tokens" in refused(response, 422, "invalid-target", "prompts")


@pytest.mark.parametrize("prompt", ["кошка", "猫", "قطة", "🐈", "a\0cat", "e\u0301", "\u202eתח"])
def test_any_script_is_a_prompt(running: RunningApp, prompt: str) -> None:
    answer = running.explain(request_of(prompts=[prompt]))
    assert answer.status_code == 200
    assert answer.json()["images"][0]["targets"][0]["prompt"] == prompt


@pytest.mark.parametrize(
    ("changes", "field", "limit"),
    [
        ({"image": None, "images": [data_url(encoded())] * 5}, "images", "4"),
        ({"prompts": ["a cat"] * 9}, "prompts", "8"),
        ({"options": {"size": 272}}, "options.size", "256"),
        ({"output": {"max_side": 4096}}, "output.max_side", "2048"),
        ({"options": {"templates": ["a {}"] * 101}}, "options.templates", "100"),
        ({"options": {"templates": ["a" * 2000 + "{}"]}}, "options.templates", "1000"),
    ],
)
def test_limits_are_named(
    running: RunningApp, changes: dict[str, Any], field: str, limit: str
) -> None:
    response = running.explain(request_of(**changes))
    assert limit in refused(response, 422, "limit-exceeded", field)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"options": {"layers": 4}}, "options.layers"),
        ({"options": {"layers": [3]}}, "options.layers"),
        ({"options": {"layers": [-4]}}, "options.layers"),
        ({"options": {"size": 65}}, "options.size"),
        ({"options": {"templates": ["no place"]}}, "options.templates"),
    ],
)
def test_options_that_the_model_cannot_follow_are_named(
    running: RunningApp, changes: dict[str, Any], field: str
) -> None:
    refused(running.explain(request_of(**changes)), 422, "invalid-option", field)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image": None}, "image"),
        ({"images": [data_url(encoded())]}, "image"),
        ({"image": 3}, "image"),
        ({"image": ""}, "image"),
        ({"image": {}}, "image.b64"),
        ({"image": {"url": 5}}, "image.url"),
        ({"image": {"url": ""}}, "image.url"),
        ({"image": {"url": "https://example.com/" + "x" * 5000}}, "image.url"),
        ({"image": {"url": "https://example.com", "b64": ""}}, "image.b64"),
        ({"image": None, "images": [{"url": None}]}, "images.0.url"),
        ({"image": None, "images": []}, "images"),
        ({"image": None, "images": [None]}, "images.0"),
        ({"prompts": []}, "prompts"),
        ({"prompts": "a cat"}, "prompts"),
        ({"prompts": [1]}, "prompts.0"),
        ({"prompts": None}, "prompts"),
        ({"colour": "red"}, "colour"),
        ({"model": "x" * 300}, "model"),
        ({"options": {"layers": 0}}, "options.layers"),
        ({"options": {"layers": "2"}}, "options.layers"),
        ({"options": {"layers": True}}, "options.layers"),
        ({"options": {"layers": 1.5}}, "options.layers"),
        ({"options": {"layers": []}}, "options.layers"),
        ({"options": {"layers": 10**400}}, "options.layers"),
        ({"options": {"layers": [10**400]}}, "options.layers"),
        ({"options": {"score": "max"}}, "options.score"),
        ({"options": {"size": 10**300}}, "options.size"),
        ({"options": {"size": -16}}, "options.size"),
        ({"options": {"fit": "crop"}}, "options.fit"),
        ({"options": {"templates": []}}, "options.templates"),
        ({"options": {"unknown": 1}}, "options.unknown"),
        ({"options": []}, "options"),
        ({"output": {"heatmap": "jpg"}}, "output.heatmap"),
        ({"output": {"overlay": "yes"}}, "output.overlay"),
        ({"output": {"colormap": "jet"}}, "output.colormap"),
        ({"output": {"alpha": float("nan")}}, "output.alpha"),
        ({"output": {"alpha": float("inf")}}, "output.alpha"),
        ({"output": {"alpha": 1.5}}, "output.alpha"),
        ({"output": {"normalize": 1}}, "output.normalize"),
        ({"output": {"regions_threshold": float("-inf")}}, "output.regions_threshold"),
        ({"output": {"regions_threshold": 1}}, "output.regions_threshold"),
        ({"output": {"max_side": 15}}, "output.max_side"),
        ({"output": {"max_side": 10**300}}, "output.max_side"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named_as_the_caller_wrote_it(
    running: RunningApp, changes: dict[str, Any], field: str
) -> None:
    body = json.dumps(request_of(**changes))
    response = running.client.post(
        "/explain", content=body, headers={"content-type": "application/json"}
    )
    refused(response, 422, "invalid-request", field)
    assert response.json()["errors"][0]["field"] == field


def test_a_layer_index_that_does_not_exist_is_named(running: RunningApp) -> None:
    response = running.explain(request_of(options={"layers": list(range(1000))}))
    refused(response, 422, "invalid-option", "options.layers")


def test_an_unknown_model_is_named_together_with_the_known_ones(running: RunningApp) -> None:
    detail = refused(running.explain(request_of(model="resnet")), 404, "unknown-model", "model")
    assert running.model.id in detail


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null x",
        b'{"image": }',
        b"\xff\xfe",
        "{}".encode("utf-16"),
        b"[" * 50_000,
        b'{"a":' * 50_000,
        b'{"image": "\\ud800", "prompts": ["a"]}',
    ],
    ids=["empty", "open", "tail", "gap", "bytes", "utf-16", "arrays", "objects", "surrogate"],
)
def test_a_body_that_is_not_json_is_refused(running: RunningApp, body: bytes) -> None:
    response = running.client.post(
        "/explain", content=body, headers={"content-type": "application/json"}
    )
    refused(response, 400, "malformed-body", "body")


@pytest.mark.parametrize("body", ["[]", "null", "3", '"text"', "NaN"])
def test_json_that_is_no_object_is_refused(running: RunningApp, body: str) -> None:
    response = running.client.post(
        "/explain", content=body, headers={"content-type": "application/json"}
    )
    refused(response, 422, "invalid-request", "body")


def test_a_body_of_a_million_mistakes_is_refused_by_counting(running: RunningApp) -> None:
    body = b'{"prompts": [' + b"1," * 500_000 + b"1]}"
    response = running.client.post(
        "/explain", content=body, headers={"content-type": "application/json"}
    )
    assert "100000 values" in refused(response, 422, "limit-exceeded", "body")


@pytest.mark.parametrize("content_type", ["text/plain", "image/png", "", "application/xml"])
def test_another_content_type_is_refused(running: RunningApp, content_type: str) -> None:
    response = running.client.post(
        "/explain", content=b"{}", headers={"content-type": content_type}
    )
    detail = refused(response, 415, "unsupported-media-type", "Content-Type")
    assert "application/json" in detail
    assert response.headers["accept"] == "application/json, multipart/form-data"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip, br"])
def test_an_unknown_content_coding_is_refused_with_the_known_ones(
    running: RunningApp, encoding: str
) -> None:
    response = running.client.post(
        "/explain",
        content=gzip.compress(json.dumps(request_of()).encode()),
        headers={"content-type": "application/json", "content-encoding": encoding},
    )
    assert encoding in refused(response, 415, "unsupported-media-type", "Content-Encoding")
    assert response.headers["accept-encoding"] == "gzip, deflate, identity"


def test_a_body_over_the_limit_is_refused_by_its_length(running: RunningApp) -> None:
    """The refusal comes before the body: the test sends the head alone."""
    with socket.create_connection((running.host, running.port), timeout=30) as connection:
        connection.sendall(
            b"POST /explain HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2000001\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert "body-too-large" in answer
    assert "2000000" in answer


def test_a_body_over_the_limit_is_refused_while_it_streams(running: RunningApp) -> None:
    response = running.client.post(
        "/explain",
        content=(b" " * 100_000 for _ in range(30)),
        headers={"content-type": "application/json"},
    )
    assert "2000000" in refused(response, 413, "body-too-large", "body")


def test_an_error_does_not_send_a_large_input_back(running: RunningApp) -> None:
    refused(
        running.explain(request_of(**{"k" * 100_000: 1})),
        422,
        "invalid-request",
        None or "k" * 300 + "…" + "k" * 300,
    )


def test_no_accepted_answer_is_left_is_said_shortly(running: RunningApp) -> None:
    response = running.explain(None, Accept="text/html" + "x" * 4_000)
    refused(response, 406, "not-acceptable", "Accept")


def test_a_png_is_for_one_picture_and_one_prompt(running: RunningApp) -> None:
    response = running.explain(request_of(prompts=["a", "b"]), Accept="image/png")
    refused(response, 406, "not-acceptable", "prompts")


@pytest.mark.parametrize(
    "path", ["/explain", "/explanations/tiny", "/v1/models/tiny:explain", "/v2/models/tiny/infer"]
)
@pytest.mark.parametrize("kind", [";" * 100_000, "multipart/form-data; boundary=" + "x" * 1000])
def test_a_long_content_type_is_refused_on_every_path_and_not_parsed(
    running: RunningApp, path: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(reading, "parse_header", parsed.append)
    url = path.replace("tiny", running.model.id)
    answer = running.client.post(url, content=b"{}", headers={"Content-Type": kind})
    assert answer.status_code == 400, answer.text
    assert "send the media type, and for a form its boundary" in answer.text
    assert not parsed


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1.5", "²"])
def test_a_timeout_must_be_a_positive_whole_number(running: RunningApp, value: str) -> None:
    response = running.client.post(
        "/explain",
        json=request_of(),
        headers=[(b"X-Request-Timeout-Ms", value.encode("latin-1"))],
    )
    refused(response, 422, "invalid-request", "X-Request-Timeout-Ms")


@pytest.mark.parametrize("value", ["60000", "00000000000060000", " 60000 ", "9" * 1000])
def test_a_timeout_may_be_written_as_any_such_number(running: RunningApp, value: str) -> None:
    request = posted_alone(request_of(), **{"X-Request-Timeout-Ms": value})
    with socket.create_connection((running.host, running.port), timeout=60) as connection:
        connection.sendall(request)
        assert connection.recv(12) == b"HTTP/1.1 200"
