"""Multipart answers: the JSON without pictures, and each picture raw as a part of its own."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from python_multipart.multipart import MultipartParser, parse_options_header

from tests.support.answers import check_against_contract, refused
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_app import RunningApp

FORM, MIXED = "multipart/form-data", "multipart/mixed"


def parts_of(content_type: str, body: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Return the headers and the content of each part, as a kept library reads them."""
    found: list[tuple[dict[str, str], bytearray]] = []
    pairs: list[bytearray] = []

    def begin() -> None:
        found.append(({}, bytearray()))

    def header_begin() -> None:
        pairs[:] = [bytearray(), bytearray()]

    def header_end() -> None:
        found[-1][0][pairs[0].decode().lower()] = pairs[1].decode()

    ended = []
    parser = MultipartParser(
        parse_options_header(content_type)[1][b"boundary"],
        {
            "on_part_begin": begin,
            "on_header_begin": header_begin,
            "on_header_field": lambda data, start, end: pairs[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: pairs[1].extend(data[start:end]),
            "on_header_end": header_end,
            "on_part_data": lambda data, start, end: found[-1][1].extend(data[start:end]),
            "on_end": lambda: ended.append(True),
        },
    )
    parser.write(body)
    parser.finalize()
    assert ended
    return [(headers, bytes(content)) for headers, content in found]


def named(disposition: str) -> tuple[str, str, str]:
    """Return the kind, the name and the file name of a part."""
    kind, parameters = parse_options_header(disposition)
    name, file_name = parameters[b"name"], parameters.get(b"filename", b"")
    return kind.decode(), name.decode(), file_name.decode()


@pytest.mark.parametrize("media_type", [FORM, MIXED])
def test_parts_are_the_pictures_of_the_json(running: RunningApp, media_type: str) -> None:
    pictures = [encoded(picture(50, 40, seed=seed)) for seed in (1, 2)]
    body = {
        "images": list(map(data_url, pictures)),
        "prompts": ["a cat", 'a "dog"'],
        "output": {"heatmap": "npy", "format": "webp"},
    }
    expected = running.explain(body).json()
    answer = running.explain(body, Accept=media_type)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(f"{media_type}; boundary=")
    assert int(answer.headers["content-length"]) == len(answer.content)
    (head, first), *others = parts_of(answer.headers["content-type"], answer.content)
    kinds = ("form-data", "form-data") if media_type == FORM else ("inline", "attachment")
    assert named(head["content-disposition"]) == (kinds[0], "answer", "")
    assert head["content-type"] == "application/json"
    explained = json.loads(first)
    check_against_contract(explained, "ExplainResponse")
    assert len(others) == 2 * 2 * 2
    for headers, content in others:
        kind, name, file_name = named(headers["content-disposition"])
        assert kind == kinds[1]
        *path, field = name.split(".")
        target: Any = explained
        same: Any = expected
        for step in path:
            key = int(step) if step.isdecimal() else step
            target, same = target[key], same[key]
        assert target[field] is None
        assert headers["content-type"] == target[f"{field}_type"]
        assert content == base64.b64decode(same[field], validate=True)
        ending = ".npy" if field == "heatmap" else ".webp"
        assert file_name == f"{name}{ending}"
        if field == "heatmap":
            assert np.load(io.BytesIO(content)).shape == (4, 4)
        else:
            assert Image.open(io.BytesIO(content)).format == "WEBP"
        target[field] = same[field]
    assert [image["targets"] for image in explained["images"]] == [
        image["targets"] for image in expected["images"]
    ]


def test_an_answer_without_pictures_is_one_part(running: RunningApp) -> None:
    output = {"heatmap": "none", "overlay": False}
    answer = running.explain(request_of(output=output), Accept=FORM)
    ((_, content),) = parts_of(answer.headers["content-type"], answer.content)
    (target,) = json.loads(content)["images"][0]["targets"]
    assert (target["heatmap"], target["heatmap_type"], target["overlay_type"]) == (None, None, None)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("multipart/*", FORM),
        ("multipart/mixed, application/json;q=0.5", MIXED),
        ("multipart/form-data;q=0.5, application/json", "application/json"),
        ("multipart/form-data, */*;q=0.1", FORM),
    ],
)
def test_weights_decide(running: RunningApp, accept: str, chosen: str) -> None:
    answer = running.explain(None, Accept=accept)
    assert answer.headers["content-type"].partition(";")[0] == chosen


def test_errors_stay_problems(running: RunningApp) -> None:
    refused(running.explain({"prompts": ["a"]}, Accept=FORM), 422, "invalid-request", "image")
