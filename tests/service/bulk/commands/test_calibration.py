"""`legrad calibrate`, and the calibrations that a server is given."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from legrad_engine import Explainer
from legrad_engine.presence import PresenceCalibration, PresenceError
from service.app import create_app
from service.cli import app
from service.settings import Settings
from service.settings.mistakes import named
from tests.support.answers import check_against_contract
from tests.support.pictures import base64_of, data_url, encoded, picture, request_of
from tests.support.protocols import refused_as_kserve_does
from tests.support.running_app import RunningApp
from tests.support.tiny_model import TINY, save_model

MODEL = "tiny-tiny"
PROMPTS = ("a", "b")


def calibrate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


def write_table(folder: Path, rows: Sequence[tuple[str, str, bool]]) -> Path:
    with (folder / "prompts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "prompt", "present"])
        writer.writerows((name, prompt, "yes" if shown else "no") for name, prompt, shown in rows)
    return folder


@pytest.fixture(scope="module")
def folder(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that "show" a prompt where the tiny model finds it more similar than usual."""
    made = tmp_path_factory.mktemp("pictures")
    pictures = {f"{number}.png": picture(24, 24, seed=number) for number in range(24)}
    for name, each in pictures.items():
        each.save(made / name)
    explainer = Explainer.load(tiny_model)
    texts = explainer.text.encode(PROMPTS)
    found = (explainer.trace(list(pictures.values())).embeddings @ texts.T).numpy()
    shown = found > np.median(found)
    return write_table(
        made,
        [
            (name, prompt, bool(shown[row, column]))
            for row, name in enumerate(pictures)
            for column, prompt in enumerate(PROMPTS)
        ],
    )


@pytest.fixture(scope="module")
def calibration(tiny_model: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("calibration") / "presence.json"
    done = calibrate(tiny_model, folder, "-o", output, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "24 pairs with and 24 without" in done.output
    return output


@pytest.fixture(scope="module")
def calibrated(tiny_model: str, calibration: Path) -> Iterator[RunningApp]:
    with RunningApp(tiny_model, presence=f"{MODEL}={calibration}") as running:
        yield running


def test_the_curve_tells_the_pictures_with_from_those_without(
    tiny_model: str, folder: Path, calibration: Path
) -> None:
    found = PresenceCalibration.read(calibration)

    assert (found.pairs_with, found.pairs_without) == (24, 24)
    assert found.source == f"24 pictures and 2 prompts of {folder.name}"
    explainer = Explainer.load(tiny_model)
    told: dict[str, list[float]] = {"yes": [], "no": []}
    for name, prompt, shown in list(csv.reader((folder / "prompts.csv").open()))[1:]:
        [explained] = explainer.explain(folder / name, [prompt])
        told[shown].append(found.probability(float(explained.similarities[0])))
    assert max(told["no"]) < min(told["yes"])
    assert np.mean(told["no"]) < 0.5 < np.mean(told["yes"])


def test_answers_and_models_tell_the_presence(calibrated: RunningApp, calibration: Path) -> None:
    found = PresenceCalibration.read(calibration)
    answer = calibrated.explain(
        request_of(
            prompts=["a", "b"],
            targets=[{"type": "image", "image": base64_of(encoded())}],
        )
    ).json()
    check_against_contract(answer, "ExplainResponse")
    *texts, picture_target = answer["images"][0]["targets"]
    for target in texts:
        assert target["presence"] == pytest.approx(found.probability(target["similarity"]))
        assert 0 < target["presence"] < 1
    assert picture_target["presence"] is None
    [described] = calibrated.client.get("/models").json()["models"]
    check_against_contract(described, "ModelInfo")
    told = described["presence"]
    assert (told["slope"], told["source"]) == (found.slope, found.source)
    assert told["weights"].startswith("blake2b:")


def test_forms_and_the_other_protocols_tell_the_presence(calibrated: RunningApp) -> None:
    image, client = encoded(), calibrated.client
    answer = calibrated.explain(request_of(image=data_url(image), prompts=["a"])).json()
    told = answer["images"][0]["targets"][0]["presence"]
    assert 0 < told < 1
    form = client.post("/explain", files={"image": image}, data={"prompts": "a"})
    assert form.json()["images"][0]["targets"][0]["presence"] == told
    torchserve = client.post(f"/explanations/{MODEL}", params={"prompts": "a"}, content=image)
    assert torchserve.json()["targets"][0]["presence"] == told
    instances = [{"image": {"b64": base64_of(image)}, "prompts": ["a"]}]
    first = client.post(f"/v1/models/{MODEL}:explain", json={"instances": instances})
    assert first.json()["explanations"][0]["targets"][0]["presence"] == told
    inputs = [
        {"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": [base64_of(image)]},
        {"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": ["a"]},
    ]
    asked = {"inputs": inputs, "outputs": [{"name": "PRESENCE"}]}
    [tensor] = client.post(f"/v2/models/{MODEL}/infer", json=asked).json()["outputs"]
    assert (tensor["name"], tensor["shape"]) == ("PRESENCE", [1, 1])
    assert tensor["data"] == [pytest.approx(told)]
    listed = client.get(f"/v2/models/{MODEL}").json()["outputs"]
    assert "PRESENCE" in [each["name"] for each in listed]


def test_without_a_calibration_presence_is_null(running: RunningApp) -> None:
    body = request_of(prompts=["a"])
    assert running.explain(body).json()["images"][0]["targets"][0]["presence"] is None
    torchserve = running.client.post(
        f"/explanations/{MODEL}", params={"prompts": "a"}, content=encoded()
    )
    assert torchserve.json()["targets"][0]["presence"] is None
    assert running.client.get("/models").json()["models"][0]["presence"] is None
    inputs = [
        {"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": [base64_of(encoded())]},
        {"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": ["a"]},
    ]
    asked = {"inputs": inputs, "outputs": [{"name": "PRESENCE"}]}
    refused = running.client.post(f"/v2/models/{MODEL}/infer", json=asked)
    refused_as_kserve_does(refused, 422, "invalid-request", "outputs")


def test_a_calibration_of_other_weights_keeps_the_model_from_loading(
    calibration: Path, tmp_path: Path
) -> None:
    other = save_model(tmp_path, "tiny", TINY | {"embed_dim": 16})
    with RunningApp(other, presence=f"{MODEL}={calibration}", wait=False) as running:
        running.eventually(
            lambda: running.client.get("/models").json()["models"][0]["state"] == "failed"
        )
        error = running.client.get("/models").json()["models"][0]["error"]
        assert "fitted for the weights" in error
        assert "legrad calibrate" in error
        assert running.explain().status_code == 503


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("{file}", "ID=FILE"),
        ("=  {file}", "ID=FILE"),
        ("nothing={file}", "no served model"),
        (f"{MODEL}={{file}},{MODEL}={{file}}", "two calibrations"),
        (f"{MODEL}=/nowhere/presence.json", "cannot be read"),
        (f"{MODEL}={{folder}}/prompts.csv", "cannot be read"),
    ],
)
def test_a_wrong_setting_is_refused_at_start(
    tiny_model: str, folder: Path, calibration: Path, entry: str, reason: str
) -> None:
    written = entry.format(file=calibration, folder=folder)
    settings = Settings.model_validate({"models": tiny_model, "presence": written})

    with pytest.raises(PresenceError, match=reason) as refused:
        create_app(settings)
    assert named(refused.value, {}).startswith("LEGRAD_PRESENCE: ")


def test_too_few_pairs_are_refused_before_the_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes((folder / "0.png").read_bytes())
    few = write_table(tmp_path, [("0.png", "a", True), ("0.png", "b", False)])
    done = calibrate("no-such-model@/nowhere", few, "-o", tmp_path / "out.json")

    assert done.exit_code == 2
    assert "needs 20 of each" in done.output
    assert not (tmp_path / "out.json").exists()


def test_pairs_of_one_picture_are_refused_before_the_model_is_loaded(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "0.png").write_bytes((folder / "0.png").read_bytes())
    rows = [("0.png", f"thing {number}", number % 2 == 0) for number in range(40)]
    done = calibrate(
        "no-such-model@/nowhere", write_table(tmp_path, rows), "-o", tmp_path / "out.json"
    )

    assert done.exit_code == 2
    assert "All pairs are of one picture" in done.output
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("damage", [b"", b"no picture", None], ids=repr)
def test_a_picture_that_cannot_be_read_is_named(
    tiny_model: str, folder: Path, tmp_path: Path, damage: bytes | None
) -> None:
    for source in folder.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    if damage is None:
        (tmp_path / "7.png").unlink()
    else:
        (tmp_path / "7.png").write_bytes(damage)
    done = calibrate(tiny_model, tmp_path, "-o", tmp_path / "out.json", "--device", "cpu")

    assert done.exit_code == 2
    assert "7.png" in done.output
    assert not (tmp_path / "out.json").exists()


def test_swapped_labels_are_refused(tiny_model: str, folder: Path, tmp_path: Path) -> None:
    rows: list[Any] = list(csv.reader((folder / "prompts.csv").open()))[1:]
    for source in folder.glob("*.png"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    write_table(tmp_path, [(name, prompt, shown == "no") for name, prompt, shown in rows])
    done = calibrate(tiny_model, tmp_path, "-o", tmp_path / "out.json", "--device", "cpu")

    assert done.exit_code == 2
    assert "wrong way round" in done.output


def test_a_model_without_weights_is_refused_with_the_way_to_name_them(
    folder: Path, tmp_path: Path
) -> None:
    done = calibrate("ViT-S-32-alt", folder, "-o", tmp_path / "out.json", "--device", "cpu")

    assert done.exit_code == 2
    assert "'ViT-S-32-alt' does not say which weights: write NAME/TAG" in done.output


def test_the_file_says_which_weights_it_belongs_to(calibration: Path) -> None:
    content = json.loads(calibration.read_text())

    assert content["format"] == "legrad-presence-1"
    assert content["weights"].startswith("blake2b:")
