"""`/explain`, `/models` and `/health` keep to the published contract."""

import base64
import io
import secrets
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.answers import check_against_contract, refused
from tests.support.pictures import base64_of, data_url, encoded, opened, picture, request_of
from tests.support.running_app import RunningApp


def targets_of(running: RunningApp, **changes: Any) -> list[dict[str, Any]]:
    response = running.explain(request_of(**changes))
    assert response.status_code == 200, response.text
    answer = response.json()
    check_against_contract(answer, "ExplainResponse")
    targets: list[dict[str, Any]] = answer["images"][0]["targets"]
    return targets


def test_every_way_to_write_a_picture_means_the_same(running: RunningApp) -> None:
    text = base64_of(encoded())
    wrapped = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    ways = [text, data_url(encoded()), {"b64": text}, {"b64": data_url(encoded())}, wrapped]
    answers = [targets_of(running, image=way) for way in ways]
    assert all(answer == answers[0] for answer in answers)


def test_several_pictures_and_prompts_are_answered_in_order(running: RunningApp) -> None:
    pictures = [encoded(picture(width, 40, seed=width)) for width in (50, 60, 70)]
    prompts = ["a cat", "a dog", "a cat"]
    answer = running.explain({"images": list(map(data_url, pictures)), "prompts": prompts}).json()
    check_against_contract(answer, "ExplainResponse")
    assert [image["size"]["width"] for image in answer["images"]] == [50, 60, 70]
    for data, image in zip(pictures, answer["images"], strict=True):
        assert [target["prompt"] for target in image["targets"]] == prompts
        alone = targets_of(running, image=data_url(data), prompts=prompts)
        for together, single in zip(image["targets"], alone, strict=True):
            assert together["similarity"] == pytest.approx(single["similarity"], abs=1e-5)
        assert image["targets"][0]["heatmap"] == image["targets"][2]["heatmap"]
        assert sum(target["probability"] for target in image["targets"]) == pytest.approx(1)


def test_equal_pictures_in_a_request_are_answered_equally(running: RunningApp) -> None:
    body = {"images": [data_url(encoded())] * 3, "prompts": ["a cat", "a dog"]}
    images = running.explain(body).json()["images"]
    assert images[0]["targets"] == images[1]["targets"] == images[2]["targets"]


@pytest.mark.parametrize(
    ("options", "layers", "grid", "input_size"),
    [
        ({"layers": 1}, [2], (4, 4), (64, 64)),
        ({"layers": "all"}, [0, 1, 2], (4, 4), (64, 64)),
        ({"layers": [0, -1]}, [0, 2], (4, 4), (64, 64)),
        ({"score": "cls"}, [1, 2], (4, 4), (64, 64)),
        ({"size": 96}, [1, 2], (6, 6), (96, 96)),
        ({"fit": "pad", "size": 128}, [1, 2], (8, 8), (128, 128)),
        ({"fit": "native", "size": 128}, [1, 2], (7, 9), (144, 112)),
        ({"templates": "simple"}, [1, 2], (4, 4), (64, 64)),
        ({"templates": ["a photo of {}.", "{}!"]}, [1, 2], (4, 4), (64, 64)),
    ],
    ids=str,
)
def test_options_decide_what_is_computed(
    running: RunningApp,
    options: dict[str, Any],
    layers: list[int],
    grid: tuple[int, int],
    input_size: tuple[int, int],
) -> None:
    answer = running.explain(request_of(options=options)).json()
    check_against_contract(answer, "ExplainResponse")
    image = answer["images"][0]
    assert answer["layers"] == layers
    assert answer["score"] == options.get("score", "mean")
    assert (image["grid"]["rows"], image["grid"]["columns"]) == grid
    assert (image["input_size"]["width"], image["input_size"]["height"]) == input_size
    assert image["size"] == {"width": 80, "height": 60}


def test_options_change_the_heatmap(running: RunningApp) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"layers": 1},
        {"layers": "all"},
        {"score": "cls"},
        {"size": 96},
        {"fit": "pad"},
        {"templates": "simple"},
    ]
    heatmaps = {targets_of(running, options=each)[0]["heatmap"] for each in changes}
    assert len(heatmaps) == len(changes)


def test_heatmaps_come_in_every_format(running: RunningApp) -> None:
    found = {
        kind: targets_of(running, output={"heatmap": kind})[0]["heatmap"]
        for kind in ("png", "png16", "npy", "none")
    }
    eight, sixteen = np.asarray(opened(found["png"])), np.asarray(opened(found["png16"]))
    assert eight.shape == sixteen.shape == (60, 80)
    assert eight.dtype == np.uint8
    assert (eight.min(), eight.max()) == (0, 255)
    assert (sixteen.min(), sixteen.max()) == (0, 65535)
    assert np.abs(sixteen / 257 - eight).max() <= 0.51
    raw = np.load(io.BytesIO(base64.b64decode(found["npy"])), allow_pickle=False)
    assert (raw.shape, raw.dtype) == ((4, 4), np.float32)
    assert found["none"] is None
    statistics = targets_of(running)[0]["statistics"]
    assert statistics["peak"] == pytest.approx(float(raw.max()))


def test_an_overlay_shows_the_picture(running: RunningApp) -> None:
    original = picture()
    clear = opened(targets_of(running, output={"alpha": 0.0, "format": "png"})[0]["overlay"])
    assert np.array_equal(np.asarray(clear), np.asarray(original))
    colours = {
        name: targets_of(running, output={"colormap": name})[0]["overlay"]
        for name in ("turbo", "viridis", "magma")
    }
    assert len(set(colours.values())) == 3
    assert all(opened(drawn).size == original.size for drawn in colours.values())


def test_drawings_are_no_larger_than_asked(running: RunningApp) -> None:
    image = data_url(encoded(picture(400, 100), "JPEG"))
    (target,) = targets_of(running, image=image, output={"max_side": 100})
    assert opened(target["overlay"]).size == opened(target["heatmap"]).size == (100, 25)
    assert max(region["box"]["right"] for region in target["regions"]) > 100


def test_the_types_of_pictures_are_told(running: RunningApp) -> None:
    kinds = {
        "png": "image/png", "png16": "image/png", "jpeg": "image/jpeg", "webp": "image/webp",
        "npy": "application/x-npy", "none": None,
    }  # fmt: skip
    for name, expected in kinds.items():
        (target,) = targets_of(running, output={"heatmap": name, "overlay": name != "png"})
        assert target["heatmap_type"] == expected
        assert target["overlay_type"] == (None if name == "png" else "image/jpeg")
        if expected is not None and expected.startswith("image/"):
            assert Image.MIME[opened(target["heatmap"]).format or ""] == expected
        if name != "png":
            assert opened(target["overlay"]).format == "JPEG"


def test_quality_decides_the_size_of_lossy_pictures(running: RunningApp) -> None:
    image = data_url(encoded(picture(300, 200)))

    def sizes(**output: Any) -> tuple[int, int]:
        (target,) = targets_of(running, image=image, output=output)
        return len(target["overlay"]), len(target["heatmap"])

    for name in ("jpeg", "webp"):
        good, poor = (sizes(format=name, heatmap=name, quality=each) for each in (95, 10))
        assert poor[0] < good[0]
        assert poor[1] < good[1]
    for quality in (0, 101, 50.5, "85"):
        assert running.explain(request_of(output={"quality": quality})).status_code == 422
    assert running.explain(request_of(output={"format": "gif"})).status_code == 422


def test_unwanted_outputs_are_not_sent(running: RunningApp) -> None:
    output = {"heatmap": "none", "overlay": False, "regions_threshold": None}
    (target,) = targets_of(running, output=output)
    assert (target["heatmap"], target["overlay"], target["regions"]) == (None, None, None)


def test_normalisation_is_for_each_target_or_for_all(running: RunningApp) -> None:
    def peaks(mode: str) -> list[int]:
        targets = targets_of(running, prompts=["a cat", "a dog"], output={"normalize": mode})
        return [int(np.asarray(opened(target["heatmap"])).max()) for target in targets]

    assert peaks("each") == [255, 255]
    assert sorted(peaks("shared"))[0] < 255 == max(peaks("shared"))
    assert max(peaks("none")) < 128


def test_regions_shrink_with_the_threshold(running: RunningApp) -> None:
    def area(threshold: float) -> float:
        (target,) = targets_of(running, output={"regions_threshold": threshold})
        for region in target["regions"]:
            box = region["box"]
            assert 0 <= box["left"] <= region["peak_position"]["x"] < box["right"] <= 80
            assert 0 <= box["top"] <= region["peak_position"]["y"] < box["bottom"] <= 60
            assert region["peak"] >= region["mean"] >= threshold
        areas: list[float] = [region["area"] for region in target["regions"]]
        return sum(areas)

    assert 1 >= area(0.1) > area(0.5) > area(0.9) > 0


@pytest.mark.parametrize("name", ["jpeg", "webp", "png"])
def test_an_image_is_the_overlay_itself(running: RunningApp, name: str) -> None:
    (target,) = targets_of(running, output={"format": name, "quality": 60})
    accepted = [f"image/{name}", f"image/{name}, */*;q=0.1", *(["image/*"] * (name == "jpeg"))]
    for accept in accepted:
        response = running.explain(request_of(output={"quality": 60}), Accept=accept)
        assert response.headers["content-type"] == target["overlay_type"] == f"image/{name}"
        assert response.content == base64.b64decode(target["overlay"])
        assert Image.open(io.BytesIO(response.content)).format == name.upper()


def test_a_requested_format_and_accept_agree_or_are_refused(running: RunningApp) -> None:
    png = request_of(output={"format": "png"})
    for accept in ("image/*", "image/jpeg, image/png;q=0.1", "image/png"):
        assert running.explain(png, Accept=accept).headers["content-type"] == "image/png"
    # An answer in JSON has the overlay in any format.
    both = running.explain(png, Accept="image/jpeg, application/json;q=0.1")
    assert both.json()["images"][0]["targets"][0]["overlay_type"] == "image/png"
    for accept in ("image/jpeg", "image/*, image/png;q=0"):
        detail = refused(
            running.explain(png, Accept=accept), 406, "not-acceptable", "output.format"
        )
        assert "leave one of them out" in detail


def test_an_image_without_an_overlay_is_one_all_the_same(running: RunningApp) -> None:
    quiet = running.explain(request_of(output={"overlay": False}), Accept="image/png")
    assert Image.open(io.BytesIO(quiet.content)).size == (80, 60)


def test_known_prompts_are_counted(running: RunningApp) -> None:
    before = running.metric('legrad_cache_hits_total{cache="prompts"}')
    prompts = [secrets.token_hex(4) for _ in range(2)]
    assert running.explain(request_of(prompts=prompts)).json()["cached_prompts"] == 0
    again = running.explain(request_of(prompts=[*prompts, secrets.token_hex(4)])).json()
    assert again["cached_prompts"] == 2
    assert running.metric('legrad_cache_hits_total{cache="prompts"}') == before + 2


def test_a_request_id_is_kept_or_made(running: RunningApp) -> None:
    kept = running.explain(None, **{"X-Request-ID": "trace-1.a_B"})
    assert kept.headers["x-request-id"] == kept.json()["request_id"] == "trace-1.a_B"
    for hostile in ("a b", "x" * 129, "a\tb", "é".encode("latin-1"), ""):
        headers: dict[str, Any] = {"X-Request-ID": hostile}
        made = running.client.get("/models", headers=headers).headers["x-request-id"]
        assert len(made) == 32
        assert made != hostile


def test_timings_add_up(running: RunningApp) -> None:
    timings = running.explain().json()["timings"]
    parts = sum(timings[stage] for stage in ("decode", "queue", "compute", "render"))
    assert 0 < parts <= timings["total"]


def test_models_are_described(running: RunningApp) -> None:
    listed = running.client.get("/models").json()
    check_against_contract(listed, "ModelList")
    (model,) = listed["models"]
    assert running.client.get(f"/models/{model['id']}").json() == model
    assert (model["name"], model["state"], model["default"]) == ("tiny", "ready", True)
    assert model["grid"] == {"rows": 4, "columns": 4}
    assert model["layers"] == 3
    assert "/" not in model["pretrained"]


def test_health_is_good(running: RunningApp) -> None:
    assert running.client.get("/health/live").json() == {"status": "alive"}
    assert running.client.get("/health/ready").json() == {"status": "ready", "degraded": []}


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/models/nothing", 404, "unknown-model"),
        ("GET", "/models/" + "x" * 2000, 404, "unknown-model"),
        ("GET", "/models/" + "x" * 5000, 414, "path-too-long"),
        ("GET", "/explain", 405, "method-not-allowed"),
        ("OPTIONS", "/explain", 405, "method-not-allowed"),
        ("DELETE", "/models", 405, "method-not-allowed"),
        ("POST", "/health/live", 405, "method-not-allowed"),
    ],
)
def test_wrong_addresses_are_problems(
    running: RunningApp, method: str, path: str, status: int, error: str
) -> None:
    response = running.client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    check_against_contract(response.json(), "ProblemDetails")
    assert response.json()["error"] == error
    assert len(response.content) < 3000
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/models/{}", "DELETE, GET, HEAD"), ("/health/live", "GET, HEAD"), ("/explain", "POST")],
)
def test_a_wrong_method_is_told_every_right_one(
    running: RunningApp, path: str, allowed: str
) -> None:
    (model,) = running.client.get("/models").json()["models"]
    response = running.client.patch(path.format(model["id"]))
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert f"accepts {allowed};" in response.json()["detail"]


def test_a_whole_number_may_have_a_decimal_point(running: RunningApp) -> None:
    written = targets_of(running, options={"layers": 2.0, "size": 96.0})
    assert written == targets_of(running, options={"layers": 2, "size": 96})
    refused = running.explain(request_of(options={"layers": 2.5}))
    assert refused.status_code == 422


def test_head_has_no_body(running: RunningApp) -> None:
    response = running.client.head("/explain")
    assert (response.status_code, response.content) == (405, b"")
    assert running.client.get("/health/live").status_code == 200
