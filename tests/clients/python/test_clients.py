"""The Python client against a real application, and against servers that misbehave."""

import asyncio
import base64
import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from legrad_client import (
    AsyncLegradClient,
    DeadlineError,
    ImageLike,
    LegradClient,
    RefusedError,
    UnreachableError,
)
from legrad_client.answers import (
    ModelClass,
    ModelDescription,
    ModelWorker,
    TargetExplanation,
)
from legrad_client.parsing import json_name, parse
from legrad_client.requests import OUTPUT_OPTIONS, Options
from PIL import Image

from service.schemas import answers, models, requests
from tests.support.own_models import write_classifier
from tests.support.picture_sites import PictureSite, answer, sends
from tests.support.pictures import encoded, picture
from tests.support.running_app import Held, RunningApp

PICTURE = picture(90, 60, seed=3)
Reply = tuple[int, dict[str, str], bytes]
PROBLEM = {"error": "queue-full", "detail": "The queue is full.", "request_id": "r"}


def url_of(running: RunningApp) -> str:
    return f"http://{running.host}:{running.port}"


@pytest.fixture
def client(running: RunningApp) -> Iterator[LegradClient]:
    with LegradClient(url_of(running)) as client:
        yield client


def test_every_kind_of_picture_gives_the_same_numbers(client: LegradClient, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(PICTURE))
    kinds: list[ImageLike] = [path, str(path), path.read_bytes(), PICTURE, np.asarray(PICTURE)]
    found = client.explain_all(kinds[:4], ["a cat"]) + client.explain_all(kinds[4:], ["a cat"])
    for each in found:
        np.testing.assert_allclose(each["a cat"].map, found[0]["a cat"].map, rtol=1e-4)
        assert each.size.width == 90


def test_an_answer_holds_arrays_and_images(client: LegradClient) -> None:
    found = client.explain(PICTURE, ["a cat", "a dog"], layers=[0, 2], colormap="viridis")
    assert (found.layers, len(found)) == ((0, 2), 2)
    cat = found["a cat"]
    assert found[0] is cat
    assert [target.prompt for target in found] == ["a cat", "a dog"]
    assert cat.map.shape == (4, 4)
    assert cat.map.dtype == np.float32
    assert cat.statistics.peak == pytest.approx(cat.map.max())
    assert cat.overlay is not None
    assert (cat.overlay.size, cat.overlay.mode) == ((90, 60), "RGB")
    assert cat.regions
    assert sum(target.probability or 0 for target in found) == pytest.approx(1)
    with pytest.raises(KeyError):
        _ = found["a bird"]


def test_other_targets_and_no_drawings(client: LegradClient) -> None:
    contrast = {
        "type": "contrast",
        "target": {"type": "text", "text": "a cat"},
        "against": {"type": "text", "text": "a dog"},
    }
    found = client.explain(
        PICTURE, targets=[contrast], overlay=False, regions_threshold=None, fit="native"
    )
    assert found[0].overlay is None
    assert found[0].regions is None
    assert found['"a cat" against "a dog"'] is found[0]


def test_models_are_described(client: LegradClient) -> None:
    (model,) = client.models()
    assert (model.id, model.state, model.default) == ("tiny-tiny", "ready", True)


def test_a_notebook_shows_overlays_and_escapes_prompts(client: LegradClient) -> None:
    shown = client.explain(PICTURE, ["<b>cat</b>"])._repr_html_()
    assert "data:image/png;base64," in shown
    assert "<b>cat</b></b>" not in shown
    assert "&lt;b&gt;cat&lt;/b&gt;" in shown


def test_addresses_are_left_to_the_server(tiny_model: str) -> None:
    with PictureSite(sends(answer(encoded(PICTURE)))) as site:
        host = f"localhost:{site.port}"
        with (
            RunningApp(tiny_model, url_hosts=host, url_private_addresses=True) as running,
            LegradClient(url_of(running)) as client,
        ):
            fetched = client.explain(f"http://{host}/picture", ["a cat"])
            np.testing.assert_array_equal(fetched[0].map, client.explain(PICTURE, ["a cat"])[0].map)


def test_the_awaited_client_does_the_same(running: RunningApp, client: LegradClient) -> None:
    async def ask() -> Sequence[Any]:
        async with AsyncLegradClient(url_of(running)) as awaited:
            return await asyncio.gather(
                *(awaited.explain(PICTURE, [f"thing {number}"]) for number in range(8)),
                awaited.models(),
            )

    *found, models = asyncio.run(ask())
    assert [each[0].prompt for each in found] == [f"thing {number}" for number in range(8)]
    assert models[0].id == "tiny-tiny"
    np.testing.assert_allclose(
        found[3][0].map, client.explain(PICTURE, ["thing 3"])[0].map, atol=1e-7
    )


def test_a_refusal_says_why(client: LegradClient) -> None:
    with pytest.raises(RefusedError, match="63") as caught:
        client.explain(PICTURE, ["a cat"], size=63)
    assert (caught.value.status, caught.value.error) == (422, "invalid-option")
    assert caught.value.field == "options.size"
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((4, 4), np.float32), ValueError),
        (np.zeros((4, 4, 2), np.uint8), ValueError),
        (5, TypeError),
        ("no/such/file.png", FileNotFoundError),
    ],
)
def test_what_is_no_picture_is_refused_before_anything_is_sent(
    image: Any, error: type[Exception]
) -> None:
    with LegradClient("http://127.0.0.1:9") as client, pytest.raises(error):
        client.explain(image, ["a cat"])


def test_an_unknown_option_is_a_mistake_in_the_program(client: LegradClient) -> None:
    with pytest.raises(TypeError, match="colour"):
        client.explain(PICTURE, ["a cat"], colour="red")  # type: ignore[call-arg]


@contextmanager
def scripted(*script: Reply) -> Iterator[tuple[str, list[float]]]:
    """A server that answers each request by the next of its lines, and then the last for ever."""
    came: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def do_GET(self) -> None:
            came.append(time.monotonic())
            status, headers, body = script[min(len(came), len(script)) - 1]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


BUSY: Reply = (429, {"Retry-After": "1"}, json.dumps(PROBLEM).encode())
NO_MODELS: Reply = (200, {}, b'{"models": []}')


def test_a_busy_server_is_asked_again_when_it_says_so() -> None:
    with scripted(BUSY, NO_MODELS) as (url, came), LegradClient(url) as client:
        assert client.models() == []
    assert came[1] - came[0] >= 1


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_fails_for_a_moment_is_asked_again(status: int) -> None:
    with scripted((status, {}, b"<html>"), NO_MODELS) as (url, came), LegradClient(url) as client:
        assert client.models() == []
    assert len(came) == 2


def test_no_wait_outlasts_the_deadline() -> None:
    patient: Reply = (503, {"Retry-After": "3600"}, json.dumps(PROBLEM).encode())
    with scripted(patient) as (url, came), LegradClient(url) as client:
        began = time.monotonic()
        with pytest.raises(DeadlineError, match="queue is full") as caught:
            client.models(deadline=5)
        assert time.monotonic() - began < 5
    assert len(came) == 1
    assert isinstance(caught.value.__cause__, RefusedError)


def test_a_refused_request_is_not_sent_twice() -> None:
    refused: Reply = (422, {}, json.dumps(PROBLEM).encode())
    with (
        scripted(refused) as (url, came),
        LegradClient(url) as client,
        pytest.raises(RefusedError),
    ):
        client.explain(PICTURE, ["a cat"])
    assert len(came) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"models": 5}', b'{"models": [{}]}'])
def test_an_answer_of_something_else_is_said_to_be_one(body: bytes) -> None:
    with scripted((200, {}, body)) as (url, _), LegradClient(url) as client:
        with pytest.raises(UnreachableError):
            client.models()
        with pytest.raises(UnreachableError):
            client.explain(PICTURE, ["a cat"])


def test_a_server_that_is_not_there_is_given_up_at_the_deadline() -> None:
    with LegradClient("http://127.0.0.1:9") as client, pytest.raises(DeadlineError) as caught:
        client.models(deadline=1)
    assert isinstance(caught.value.__cause__, UnreachableError)

    async def ask() -> None:
        async with AsyncLegradClient("http://127.0.0.1:9") as awaited:
            await awaited.models(deadline=1)

    with pytest.raises(DeadlineError):
        asyncio.run(ask())


def test_the_server_is_told_the_deadline(tiny_model: str) -> None:
    with (
        RunningApp(tiny_model) as running,
        Held(running) as held,
        LegradClient(url_of(running)) as client,
    ):
        with pytest.raises(DeadlineError):
            client.explain(PICTURE, ["a cat"], deadline=0.5)
        held.release()
        running.eventually(lambda: running.metric("legrad_requests_in_progress") == 0)


def test_the_client_is_typed_as_the_contract() -> None:
    def fields(answer: Any) -> set[str]:
        return {json_name(field) for field in dataclasses.fields(answer)}

    options = set(Options.__annotations__)
    assert options - OUTPUT_OPTIONS == set(requests.ExplainOptions.model_fields)
    assert set(requests.OutputOptions.model_fields) - {"heatmap"} == OUTPUT_OPTIONS
    # The client always asks for raw maps.
    theirs_of_target = set(answers.TargetExplanation.model_fields) - {"heatmap_type"}
    assert fields(TargetExplanation) == theirs_of_target
    assert fields(ModelDescription) == set(models.ModelInfo.model_fields)
    assert fields(ModelClass) == set(models.ModelClass.model_fields)
    assert fields(ModelWorker) == set(models.ModelWorker.model_fields)
    for name in ("Statistics", "Region", "Timings", "Grid", "Size", "Point", "Box"):
        ours = getattr(sys.modules["legrad_client.answers"], name)
        theirs = {"Statistics": "HeatmapStatistics", "Region": "HeatmapRegion"}.get(name, name)
        assert fields(ours) == set(getattr(answers, theirs).model_fields)


def test_targets_hold_pictures_and_arrays(client: LegradClient, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(PICTURE))
    kinds = [path, encoded(PICTURE), PICTURE, np.asarray(PICTURE)]
    found = client.explain(
        path,
        targets=[
            *({"type": "image", "image": kind} for kind in kinds),
            {"type": "image", "image": {"b64": base64.b64encode(encoded(PICTURE)).decode()}},
        ],
    )
    # The picture resembles itself.
    assert [each.similarity for each in found] == pytest.approx([1.0] * 5, abs=1e-4)
    width = 32
    vector = np.arange(1.0, width + 1)
    pairs = [vector, vector.tolist()]
    embeddings: list[dict[str, Any]] = [{"type": "embedding", "embedding": each} for each in pairs]
    contrast = {"type": "contrast", "target": embeddings[0], "against": targets_of(PICTURE)}
    residual = {
        "type": "residual", "target": embeddings[0], "distractors": [targets_of(PICTURE)]
    }  # fmt: skip
    found = client.explain(path, targets=[*embeddings, contrast, residual])
    assert found[0].similarity == pytest.approx(found[1].similarity, abs=1e-5)
    assert found[2].similarity < found[0].similarity
    assert abs(found[3].similarity) < abs(found[0].similarity)


def targets_of(image: ImageLike) -> dict[str, Any]:
    return {"type": "image", "image": image}


def test_an_option_that_is_none_is_refused_with_the_names_of_all(client: LegradClient) -> None:
    with pytest.raises(TypeError, match="always asks for the raw maps"):
        client.explain(PICTURE, ["a cat"], heatmap="png")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no option layer; there are layers, score, size"):
        client.explain(PICTURE, ["a cat"], layer=2)  # type: ignore[call-arg]


def test_the_classes_of_a_model_are_searched(tmp_path: Path) -> None:
    reference = write_classifier(tmp_path / "Own", ["tench", "tabby cat", "lynx cat"], 3)
    with RunningApp(reference) as running, LegradClient(url_of(running)) as client:
        (described,) = client.models()
        assert (described.classes, described.activation) == (3, "softmax")
        assert client.classes(described.id, "CAT", limit=1) == [ModelClass(1, "tabby cat")]
        assert client.classes(described.id, offset=2) == [ModelClass(2, "lynx cat")]

        async def first() -> list[ModelClass]:
            async with AsyncLegradClient(url_of(running)) as client:
                return await client.classes(described.id, limit=1)

        assert asyncio.run(first()) == [ModelClass(0, "tench")]
        with pytest.raises(RefusedError, match="not served here"):
            client.classes("nothing")


def test_an_older_server_describes_its_models_without_classes(client: LegradClient) -> None:
    (described,) = client.models()
    older = {
        name: value
        for name, value in client._client.get("/models").json()["models"][0].items()
        if name not in ("classes", "activation", "preprocessing")
    }
    assert parse(ModelDescription, older) == dataclasses.replace(
        described, classes=None, activation=None, preprocessing=None
    )


@pytest.mark.parametrize(
    ("name", "ending"), [("jpeg", ".jpg"), ("webp", ".webp"), ("png", ".png"), (None, ".jpg")]
)
def test_an_overlay_is_saved_as_the_server_encoded_it(
    client: LegradClient, tmp_path: Path, name: Literal["jpeg", "webp", "png"] | None, ending: str
) -> None:
    chosen: Options = {} if name is None else {"format": name, "quality": 90}
    (target,) = client.explain(PICTURE, ["a cat"], **chosen)
    kind = name or "jpeg"
    assert target.overlay_type == f"image/{kind}"
    path = target.save_overlay(tmp_path / "a cat v2.1")
    assert path == tmp_path / f"a cat v2.1{ending}"
    assert path.read_bytes() == target.encoded_overlay
    assert target.overlay is not None
    with Image.open(path) as saved:
        assert saved.format == kind.upper()
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(target.overlay))


def test_an_overlay_that_was_not_requested_is_not_saved(
    client: LegradClient, tmp_path: Path
) -> None:
    (target,) = client.explain(PICTURE, ["a cat"], overlay=False)
    assert (target.encoded_overlay, target.overlay_type) == (None, None)
    with pytest.raises(ValueError, match="not requested"):
        target.save_overlay(tmp_path / "cat")


def test_an_older_server_sends_overlays_in_png(running: RunningApp, tmp_path: Path) -> None:
    body = {"image": base64.b64encode(encoded()).decode(), "prompts": ["a cat"]}
    older = running.explain({**body, "output": {"heatmap": "npy", "format": "png"}}).json()
    for name in ("overlay_type", "heatmap_type"):
        del older["images"][0]["targets"][0][name]
    reply: Reply = (200, {"Content-Type": "application/json"}, json.dumps(older).encode())
    for multipart in (False, True):
        with scripted(reply) as (url, _), LegradClient(url, multipart=multipart) as client:
            (target,) = client.explain(PICTURE, ["a cat"])
        assert target.save_overlay(tmp_path / "cat").name == "cat.png"


def test_the_client_imports_neither_torch_nor_the_engine() -> None:
    program = (
        "import sys, legrad_client; "
        "print([m for m in ('torch', 'legrad_engine', 'service', 'fastapi') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_grey_and_transparent_arrays_are_pictures(client: LegradClient) -> None:
    grey = np.asarray(PICTURE.convert("L"))
    clear = np.asarray(PICTURE.convert("RGBA"))
    found = client.explain_all([grey, clear], ["a cat"])
    as_image = client.explain_all(
        [Image.fromarray(grey), Image.fromarray(clear)], ["a cat"], overlay=False
    )
    for one, other in zip(found, as_image, strict=True):
        np.testing.assert_allclose(one[0].map, other[0].map, rtol=1e-4)
