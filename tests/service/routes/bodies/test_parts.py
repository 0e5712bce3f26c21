"""Parts of a form are told apart by name and type, and decoded as their headers say."""

import base64
import json
import quopri

import httpx
import pytest

from tests.support.answers import refused
from tests.support.pictures import encoded
from tests.support.running_app import RunningApp

PICTURE_HEAD = 'Content-Disposition: form-data; name="image"; filename="cat.png"'
PROMPT = ('Content-Disposition: form-data; name="prompts"', b"a cat")
PLAIN = "Content-Type: text/plain"
PICTURE = (PICTURE_HEAD, encoded())


def send(running: RunningApp, *parts: tuple[str, bytes]) -> httpx.Response:
    """Send parts with exactly these heads; lines of a head are separated by line ends."""
    body = b"".join(
        b"--limit\r\n"
        + head.replace("\n", "\r\n").encode("latin-1")
        + b"\r\n\r\n"
        + content
        + b"\r\n"
        for head, content in parts
    )
    return running.client.post(
        "/explain",
        content=body + b"--limit--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=limit"},
    )


def part(name: str, content: bytes | str, *lines: str, file_name: str = "") -> tuple[str, bytes]:
    named = f'Content-Disposition: form-data; name="{name}"'
    named += f'; filename="{file_name}"' if file_name else ""
    data = content if isinstance(content, bytes) else content.encode()
    return "\n".join((named, *lines)), data


@pytest.mark.parametrize(
    "options",
    [
        part("options", '{"layers": 1}'),
        part("options", '{"layers": 1}', "Content-Type: application/json", file_name="blob"),
        # A blob without a type.
        part(
            "options", '{"layers": 1}', "Content-Type: application/octet-stream", file_name="blob"
        ),
        part("options", '{"layers": 1}', "Content-Type: application/json; charset=utf-8"),
        part(
            "options", '\ufeff{"layers": 1}', "Content-Type: text/plain", file_name="options.json"
        ),
        part("options", '{"layers": 1}', "Content-Transfer-Encoding: 8bit"),
        part(
            "options",
            base64.encodebytes(b'{"layers": 1}'),
            "Content-Transfer-Encoding: Base64",
            "Content-Type: application/json",
        ),
    ],
    ids=["field", "blob", "untyped blob", "typed field", "file with mark", "8bit", "base64"],
)
def test_json_in_a_part_is_read_with_or_without_a_file_name(
    running: RunningApp, options: tuple[str, bytes]
) -> None:
    answer = send(running, PICTURE, PROMPT, options)
    assert answer.status_code == 200, answer.text
    assert answer.json()["layers"] == [2]


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        (part("prompts", "a café", file_name="blob"), ["a café"]),
        (part("prompts", "a café\n", "Content-Type: text/plain", file_name="one.txt"), ["a café"]),
        (part("prompts", "a café".encode("latin-1"), f"{PLAIN}; charset=ISO-8859-1"), ["a café"]),
        (part("prompts", "a “cat”".encode("cp1252"), f"{PLAIN};charset=windows-1252"),
         ["a “cat”"]),
        (
            part(
                "prompts",
                quopri.encodestring("a café".encode()),
                "Content-Type: text/plain; charset=utf-8",
                "Content-Transfer-Encoding: quoted-printable",
            ),
            ["a café"],
        ),
        (part("prompts", '"a café"', "Content-Type: application/json"), ["a café"]),
        (part("prompts", '["a café", "a dog"]', "Content-Type: application/json", file_name="blob"),
         ["a café", "a dog"]),
    ],
    ids=["blob", "file", "latin-1", "windows-1252", "quoted-printable", "JSON text", "JSON list"],
)  # fmt: skip
def test_prompts_are_decoded_as_their_headers_say(
    running: RunningApp, prompt: tuple[str, bytes], read: list[str]
) -> None:
    answer = send(running, PICTURE, prompt)
    assert answer.status_code == 200, answer.text
    assert [each["prompt"] for each in answer.json()["images"][0]["targets"]] == read


@pytest.mark.parametrize(
    "head",
    [
        PICTURE_HEAD,
        "Content-Disposition: form-data; name=\"image\"; filename*=UTF-8''caf%C3%A9.png",
        'Content-Disposition: form-data; name="image"\nContent-Type: image/png',
        "Content-Disposition: form-data; name=image\nContent-Type: application/octet-stream",
        'content-disposition: form-data; filename=""; name="image"',
        f"{PICTURE_HEAD}\nContent-Transfer-Encoding: binary\nContent-Type: text/plain",
    ],
)
def test_a_picture_is_taken_with_any_file_name_or_by_its_type(
    running: RunningApp, head: str
) -> None:
    answer = send(running, (head, encoded()), PROMPT)
    assert answer.status_code == 200, answer.text


def test_a_picture_in_base64_is_decoded_if_its_part_says_so(running: RunningApp) -> None:
    head = f"{PICTURE_HEAD}\nContent-Transfer-Encoding: base64"
    answer = send(running, (head, base64.encodebytes(encoded())), PROMPT)
    assert answer.status_code == 200, answer.text
    answer = send(running, (head, b"not base64!"), PROMPT)
    assert "not base64" in refused(answer, 400, "malformed-body", "image")


@pytest.mark.parametrize(
    ("wrong", "status", "code", "field", "mention"),
    [
        (part("image", "cat.png"), 400, "malformed-body", "image", "as a file"),
        (part("image", '{"url": "x"}', "Content-Type: application/json", file_name="blob"),
         400, "malformed-body", "image", "as a file"),
        (part("options", encoded(), "Content-Type: image/png", file_name="a.png"),
         400, "malformed-body", "options", "not for image/png"),
        (part("file", encoded(), "Content-Type: image/png"),
         400, "malformed-body", "file", "pictures go into 'image'"),
        (part("prompts", "a cat", "Content-Type: text/plain; charset=utf-16"),
         415, "unsupported-media-type", "prompts", "utf-8"),
        (part("prompts", "a cat", "Content-Transfer-Encoding: uuencode"),
         415, "unsupported-media-type", "prompts", "quoted-printable"),
        (part("prompts", b"a caf\xe9", "Content-Type: text/plain; charset=us-ascii"),
         400, "malformed-body", "prompts", "US-ASCII"),
        (part("prompts", "a cat", "Content-Type: text/plain", "content-type: application/json"),
         400, "malformed-body", "body", "content-type twice"),
        (part("options", '{"layers": 1, "layers": 2}'), 400, "malformed-body", "options.layers",
         "more than once"),
        (part("model", '["a"]', "Content-Type: application/json"), 422, "invalid-request", "model",
         "string"),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, tuple) else value[0][38:60],
)  # fmt: skip
def test_a_part_that_cannot_be_read_as_its_headers_say_is_named(
    running: RunningApp,
    wrong: tuple[str, bytes],
    status: int,
    code: str,
    field: str,
    mention: str,
) -> None:
    assert mention in refused(send(running, PICTURE, PROMPT, wrong), status, code, field)


def test_a_blob_of_targets_means_what_json_does(running: RunningApp) -> None:
    targets = [{"type": "text", "text": "a cat"}]
    blob = part("targets", json.dumps(targets), "Content-Type: application/json", file_name="blob")
    by_form = send(running, PICTURE, blob).json()["images"][0]["targets"]
    assert by_form == send(running, PICTURE, PROMPT).json()["images"][0]["targets"]


def test_targets_may_be_repeated_as_generated_clients_do(running: RunningApp) -> None:
    one, two, three = ({"type": "text", "text": text} for text in ("a cat", "a dog", "a hat"))
    kind = "Content-Type: application/json"
    parts = (part("targets", json.dumps(each), kind) for each in (one, [two, three]))
    read = send(running, PICTURE, *parts).json()["images"][0]["targets"]
    assert [target["target"] for target in read] == ["a cat", "a dog", "a hat"]
    answer = send(running, PICTURE, part("targets", "[]"))
    refused(answer, 422, "invalid-request", "targets")
    answer = send(running, PICTURE, part("targets", json.dumps(one)), part("targets", "3"))
    refused(answer, 422, "invalid-request", "targets.1")
