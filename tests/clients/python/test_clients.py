"""The Python client against a real application."""

import asyncio
import base64
import dataclasses
import io
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from legrad_client import (
    AsyncLegradClient,
    ImageLike,
    LegradClient,
    RefusedError,
    layers_report,
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

from service.schemas import answers, models, requests, sanity
from service.schemas.measurements import layers_report as schemas_of_report
from tests.support.own_models import write_classifier
from tests.support.picture_sites import PictureSite, answer, sends
from tests.support.pictures import encoded, picture
from tests.support.running_app import RunningApp

PICTURE = picture(90, 60, seed=3)


def url_of(running: RunningApp) -> str:
    return f"http://{running.host}:{running.port}"


@pytest.fixture
def client(running: RunningApp) -> Iterator[LegradClient]:
    with LegradClient(url_of(running)) as client:
        yield client


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_an_image_is_turned_upright_like_its_file(
    client: LegradClient, file_format: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture(120, 80, seed=8).save(buffer, file_format, exif=exif)
    by_file = client.explain(buffer.getvalue(), ["a cat"])
    opened = Image.open(buffer)
    by_image = client.explain(opened, ["a cat"])
    assert by_image.size == by_file.size
    assert by_image["a cat"].similarity == pytest.approx(by_file["a cat"].similarity, abs=1e-3)


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


def test_the_method_is_chosen_and_told(client: LegradClient) -> None:
    image = encoded()
    (model,) = client.models()
    offered = {each.name: each for each in model.methods or ()}
    assert next(iter(offered)) == "legrad"
    assert offered["raw-attention"].splits_heads
    assert not offered["raw-attention"].targeted
    found = client.explain(image, ["a cat"], method="raw-attention", heads="each", overlay=False)
    assert (found.method.name, found.method.targeted) == ("raw-attention", False)
    assert [target.head for target in found] == [0, 1]
    mean = client.explain(image, ["a cat"], method="raw-attention", overlay=False)
    np.testing.assert_allclose((found[0].map + found[1].map) / 2, mean[0].map, rtol=1e-4)
    assert client.explain(image, ["a cat"], overlay=False).method.name == "legrad"


def test_the_report_of_the_layers_is_asked_for_and_read(client: LegradClient) -> None:
    asked = ["a cat", "a dog"]
    found = client.explain(PICTURE, asked, method="textspan", layers_report=True, overlay=False)
    for target in found:
        report = target.layers_report
        assert report is not None
        assert len(report.similarities) == len(report.ranks) == 3
        assert report.similarities[-1] == pytest.approx(target.similarity, abs=1e-6)
        assert report.direct_effects is not None
        assert len(report.direct_effects.heads[0]) == 2
        assert report.direct_effects.sum == pytest.approx(target.similarity, abs=1e-5)
    plain = client.explain(PICTURE, asked, layers_report=True, overlay=False)
    assert sorted(target.layers_report.ranks[-1] for target in plain if target.layers_report) == [
        1,
        2,
    ]
    assert [each.layers_report for each in client.explain(PICTURE, asked, overlay=False)] == [
        None,
        None,
    ]


def test_trust_is_measured_and_typed(client: LegradClient) -> None:
    quick = client.explain(PICTURE, ["a cat", "a dog"], trust="quick", overlay=False)["a dog"].trust
    assert quick is not None
    assert (quick.level, quick.curves) == ("quick", None)
    assert quick.perturbation is not None
    assert (quick.perturbation.score, quick.perturbation.removal) == ("similarity", "dropped")
    assert quick.agreement.margin is not None
    curves = client.explain(PICTURE, ["a cat"], trust="curves", overlay=False)[0].trust
    assert curves is not None
    assert curves.curves is not None
    assert curves.agreement.others is None
    assert client.explain(PICTURE, ["a cat"], overlay=False)[0].trust is None


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
    for report in (layers_report.LayersReport, layers_report.DirectEffects):
        of_contract = getattr(schemas_of_report, report.__name__)
        assert fields(report) == set(of_contract.model_fields)
    for name in ("SanityCheck", "RandomizedMethod", "RandomizedStage"):
        ours = getattr(sys.modules["legrad_client.answers"], name)
        assert fields(ours) == set(getattr(sanity, name).model_fields)
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


def test_an_unknown_option_is_refused_with_the_known_names(client: LegradClient) -> None:
    with pytest.raises(TypeError, match="always asks for the raw maps"):
        client.explain(PICTURE, ["a cat"], heatmap="png")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no option layer; there are method, heads, layers, score"):
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


def test_words_regions_and_changes_are_parsed(client: LegradClient) -> None:
    box = {"left": 10, "top": 5, "right": 60, "bottom": 50}
    (asked, region) = explanation = client.explain(
        PICTURE,
        targets=[
            {"type": "text", "text": "a red cat", "words": True},
            {"type": "image", "image": picture(80, 60, seed=8), "box": box},
        ],
        counterfactual={"regions": [box], "change": "mean"},
    )
    assert region.words is None
    assert asked.words is not None
    assert [(word.text, word.start) for word in asked.words[0].words] == [
        ("a", 0),
        ("red", 2),
        ("cat", 6),
    ]
    changed = explanation.counterfactual
    assert changed is not None
    assert changed.change == "mean"
    (case,) = changed.cases
    assert vars(case.regions[0]) == box
    assert case.targets[1].similarity == pytest.approx(region.similarity + case.targets[1].change)
