"""`multipart/form-data` bodies mean the same as JSON, with errors as clear."""

import errno
import json
from typing import Any

import httpx
import pytest

from tests.support.pictures import data_url, encoded, picture
from tests.support.running_app import RunningApp, in_one_batch

Parts = list[tuple[str, tuple[str | None, bytes | str]]]

PICTURE = ("image", ("cat.png", encoded()))
PROMPT = ("prompts", (None, "a cat"))
NAMED = b'--x\r\nContent-Disposition: form-data; name="prompts"\r\n\r\n'


def send(running: RunningApp, *parts: Any, **headers: str) -> httpx.Response:
    return running.client.post("/explain", files=list(parts), headers=headers)


def test_multipart_is_answered_as_json_is(running: RunningApp) -> None:
    options = {"layers": "all", "fit": "pad", "size": 96}
    output = {"heatmap": "npy", "overlay": False}
    pictures = [encoded(picture(seed=seed), "JPEG") for seed in (1, 2)]
    parts = [
        *(("image", (f"{position}.jpg", data)) for position, data in enumerate(pictures)),
        *(("prompts", (None, prompt)) for prompt in ("a cat", "猫")),
        ("model", (None, running.model.id)),
        ("options", (None, json.dumps(options))),
        ("output", (None, json.dumps(output))),
    ]
    body = {
        "images": [data_url(data) for data in pictures],
        "prompts": ["a cat", "猫"],
        "options": options,
        "output": output,
    }
    by_parts = in_one_batch(running, 2, lambda: send(running, *parts)).json()
    by_json = in_one_batch(running, 2, lambda: running.explain(body)).json()
    assert [each["targets"] for each in by_parts["images"]] == [
        each["targets"] for each in by_json["images"]
    ]
    assert by_parts["layers"] == by_json["layers"] == [0, 1, 2]


def test_a_large_file_is_accepted_up_to_the_limit_of_the_body(running: RunningApp) -> None:
    large = encoded(picture(500, 400, seed=3), "BMP")
    assert len(large) > 500_000
    answer = send(running, ("image", ("large.bmp", large)), PROMPT)
    assert answer.json()["images"][0]["size"] == {"width": 500, "height": 400}


@pytest.mark.parametrize(
    ("parts", "status", "error", "field"),
    [
        ([PICTURE], 422, "invalid-request", "prompts"),
        ([PROMPT], 422, "invalid-request", "image"),
        ([("image", (None, "aGVsbG8=")), PROMPT], 400, "malformed-body", "image"),
        (
            [PICTURE, ("prompts", ("prompts.txt", b"a cat\na dog"))],
            400,
            "malformed-body",
            "prompts",
        ),
        ([PICTURE, PROMPT, ("options", (None, "{"))], 400, "malformed-body", "options"),
        ([PICTURE, PROMPT, ("options", (None, "[" * 50_000))], 400, "malformed-body", "options"),
        ([PICTURE, PROMPT, ("output", (None, "NaN"))], 422, "invalid-request", "output"),
        (
            [PICTURE, PROMPT, ("output", (None, '{"alpha": NaN}'))],
            422,
            "invalid-request",
            "output.alpha",
        ),
        (
            [PICTURE, PROMPT, ("options", (None, '{"size": 1' + "0" * 5000 + "}"))],
            400,
            "malformed-body",
            "options",
        ),
        ([PICTURE, PROMPT, ("colour", (None, "red"))], 422, "invalid-request", "colour"),
        ([PICTURE] * 5 + [PROMPT], 422, "limit-exceeded", "images"),
        ([PICTURE] + [PROMPT] * 9, 422, "limit-exceeded", "prompts"),
        ([PICTURE] + [PROMPT] * 50, 400, "malformed-body", "body"),
        ([PICTURE, ("prompts", (None, "a" * 1_100_000))], 400, "malformed-body", "prompts"),
        (
            [PICTURE, ("image", ("empty.png", b"")), PROMPT],
            422,
            "image-decode-failed",
            "images.1",
        ),
    ],
    ids=[
        "no-prompt",
        "no-picture",
        "picture-as-text",
        "prompts-as-file",
        "options-cut",
        "options-deep",
        "output-nan",
        "alpha-nan",
        "size-huge",
        "unknown-field",
        "too-many-pictures",
        "too-many-prompts",
        "too-many-fields",
        "long-text",
        "empty-file",
    ],
)
def test_wrong_parts_are_named(
    running: RunningApp, parts: Parts, status: int, error: str, field: str
) -> None:
    response = send(running, *parts)
    problem = response.json()
    assert (response.status_code, problem["error"], problem["field"]) == (status, error, field), (
        problem
    )
    assert send(running, PICTURE, PROMPT).status_code == 200


def test_too_many_files_are_refused_with_the_limit(running: RunningApp) -> None:
    assert "4" in send(running, *[PICTURE] * 5, PROMPT).json()["detail"]


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("multipart/form-data", b"--x\r\n", 400),
        ("multipart/form-data; boundary=x", b"no boundary in here", 400),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disp", 400),
        ("multipart/form-data; boundary=x", NAMED + b"a cat", 400),
        ("multipart/form-data; boundary=x", NAMED + b"a cat\r\n--x", 400),
        ("multipart/form-data; boundary=x", b"--x\r\nA: " + b"b" * 5000 + b"\r\n\r\n", 400),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 9 + b"\r\n", 400),
        ("multipart/form-data; boundary=x", NAMED.replace(b"prompts", b"p" * 300), 400),
        ("multipart/form-data; boundary=x", NAMED.replace(b"prompts", b"\xff") + b"\r\n", 400),
        ("multipart/form-data; boundary=", b"--\r\n", 400),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nnameless\r\n--x--\r\n", 400),
        ("multipart/form-data; boundary=x; charset=punycode", b"--x--\r\n", 415),
        ("multipart/form-data; boundary=x; charset=idna", b"--x--\r\n", 415),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x--\r\n", 400),
    ],
)
def test_a_body_that_is_no_multipart_is_refused(
    running: RunningApp, content_type: str, body: bytes, status: int
) -> None:
    response = running.client.post("/explain", content=body, headers={"content-type": content_type})
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status_code == status, response.text


def test_text_that_is_not_utf_8_is_refused(running: RunningApp) -> None:
    response = send(running, PICTURE, ("prompts", (None, b"\xff\xfe\x00")))
    assert (response.status_code, response.json()["field"]) == (400, "prompts")


def test_no_file_is_ever_written(running: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", full)
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    large = encoded(picture(800, 600, seed=3), "BMP")
    assert len(large) > 1_400_000
    assert send(running, ("image", ("large.bmp", large)), PROMPT).status_code == 200


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("model", ["nope", "tiny-tiny"]),
        ("options", ['{"layers": 1}', "{}"]),
        ("output", ["{}"] * 2),
    ],
)
def test_a_field_that_is_there_twice_is_refused(
    running: RunningApp, name: str, values: list[str]
) -> None:
    response = running.client.post(
        "/explain", files={"image": encoded()}, data={"prompts": "a cat", name: values}
    )
    assert response.status_code == 400
    assert response.json()["field"] == name
    assert "more than once" in response.json()["detail"]
