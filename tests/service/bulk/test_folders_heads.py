"""`legrad explain --heads each`: an overlay, a map and a line of the manifest for each head."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from legrad_engine import Explainer
from legrad_engine.images.file_formats import DEFAULT_QUALITY
from service.bulk import computing
from service.bulk.questions import Question, digest_of
from service.bulk.report import contact_sheet
from service.cli import app
from tests.support.pictures import encoded, picture

EACH = ("--method", "raw-attention", "--heads", "each")


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode exactly, as the engine does, so that results are equal to its own."""
    rules = replace(computing._PICTURES, decoding="exact")
    monkeypatch.setattr(computing, "_PICTURES", rules)
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of different shapes."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, name in enumerate(("a.png", "b.png")):
        (pictures / name).write_bytes(encoded(picture(90 + 30 * number, 60, seed=number), "PNG"))
    return pictures


def explain(source: Path, model: str, *arguments: str) -> Result:
    output = str(source.parent / "out" if source.is_dir() else source.parent.parent / "out")
    return CliRunner().invoke(
        app, ["explain", str(source), *arguments, "-o", output, "--model", model]
    )


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]


def test_each_head_has_its_own_overlay_map_and_line(folder: Path, tiny_model: str) -> None:
    output = folder.parent / "out"
    done = explain(folder, tiny_model, "A cat!", *EACH)
    assert done.exit_code == 0, done.output
    assert "2 explained" in done.stdout
    found = lines(output)
    assert [line["overlay"].partition("/")[2] for line in found] == [
        f"{stem}-a-cat-head-{head}.jpg" for stem in ("a", "b") for head in (0, 1)
    ]
    assert [(line["prompt"], line["head"], line["head_count"]) for line in found] == [
        ("A cat!", 0, 2),
        ("A cat!", 1, 2),
    ] * 2
    config, _, weights = tiny_model.partition("@")
    explainer = Explainer.load(config, weights)
    for line in found:
        (alone,) = explainer.explain(
            output / line["picture"], ["A cat!"], method="raw-attention", heads="each"
        )
        raw = np.load(output / line["heatmap"])
        np.testing.assert_allclose(raw, alone.maps[line["head"]], rtol=1e-3, atol=1e-9)
        assert line["peak"] == pytest.approx(raw.max())
        assert line["similarity"] == pytest.approx(alone.similarities[0], abs=1e-5)
        assert line["probability"] == pytest.approx(1)
    first, second = (np.asarray(Image.open(output / line["overlay"])) for line in found[:2])
    assert (first != second).any()


def test_a_single_picture_prints_its_heads(folder: Path, tiny_model: str) -> None:
    done = explain(folder / "a.png", tiny_model, "a cat", *EACH)
    assert done.exit_code == 0, done.output
    for head in (0, 1):
        assert f"a cat, head {head} " in done.stdout
        assert f"a-a-cat-head-{head}.jpg" in done.stdout


def test_names_of_files_list_many_heads_in_order() -> None:
    question = Question("starter", ("a cat",), "raw-attention", heads="each")
    names = question.slugs(12)
    assert names == sorted(names)
    assert (names[2], names[-1]) == ("a-cat-head-02", "a-cat-head-11")


def test_classes_have_heads_too(folder: Path, tmp_path: Path) -> None:
    from tests.support.own_models import write_classifier

    model = write_classifier(tmp_path / "Own", ["tench", "tabby"], 2)
    done = explain(folder / "a.png", model, "tabby", *EACH)
    assert done.exit_code == 0, done.output
    found = lines(folder.parent / "out")
    assert [line["head"] for line in found] == list(range(found[0]["head_count"]))
    assert {line["prompt"] for line in found} == {"tabby"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("a cat", "--heads", "each"), "The method 'legrad' has no map of single heads"),
        (("a cat", "a dog", *EACH), "ask for one target, not 2"),
        (("a cat", *EACH, "--trust", "quick"), "trust is about the maps of targets"),
        (("a cat", *EACH, "--layers-report"), "layers_report has numbers of each target"),
        (("a cat", "--heads", "some"), "'some' is not one of"),
    ],
    ids=str,
)
def test_a_question_without_heads_is_refused_before_anything_is_written(
    folder: Path, tiny_model: str, arguments: tuple[str, ...], reason: str
) -> None:
    done = explain(folder, tiny_model, *arguments)
    assert done.exit_code == 2
    assert reason in done.output
    assert not (folder.parent / "out").exists()


def test_results_of_heads_are_other_results_and_are_found_again(
    folder: Path, tiny_model: str
) -> None:
    mean = ("a cat", "--method", "raw-attention")
    for arguments in (mean, ("a cat", *EACH)):
        assert "2 explained" in explain(folder, tiny_model, *arguments).stdout
    found = lines(folder.parent / "out")
    assert [line["head"] for line in found] == [None, None, 0, 1, 0, 1]
    assert len({line["question"] for line in found}) == 2
    for arguments in (mean, (*mean, "--heads", "mean"), ("a cat", *EACH)):
        again = explain(folder, tiny_model, *arguments)
        assert "0 explained, 2 done before" in again.stdout
    assert lines(folder.parent / "out") == found


def test_results_without_heads_keep_the_digest_of_earlier_versions() -> None:
    question = Question("starter", ("a cat",))
    earlier = ["starter", "weights", ("a cat",), "legrad", None, None, None, "squash"]
    assert question.digest("weights") == digest_of([*earlier, "jpeg", DEFAULT_QUALITY])
    assert replace(question, heads="each").digest("weights") != question.digest("weights")


def test_a_picture_counts_as_explained_once_all_its_heads_are_there(
    folder: Path, tiny_model: str
) -> None:
    output = folder.parent / "out"
    explain(folder, tiny_model, "a cat", *EACH)
    whole = lines(output)
    # A killed process has written one head of the last picture; a file of the first one is lost.
    manifest = output / "manifest.jsonl"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:-1]))
    assert "1 explained, 1 done before" in explain(folder, tiny_model, "a cat", *EACH).stdout
    (output / whole[0]["heatmap"]).unlink()
    assert "1 explained, 1 done before" in explain(folder, tiny_model, "a cat", *EACH).stdout
    found = [(line["overlay"], line["head"]) for line in lines(output)]
    assert sorted(found) == sorted((line["overlay"], line["head"]) for line in whole)
    assert "0 explained, 2 done before" in explain(folder, tiny_model, "a cat", *EACH).stdout


def test_a_picture_that_breaks_loses_the_maps_of_all_heads(folder: Path, tiny_model: str) -> None:
    source = folder / "a.png"
    assert explain(source, tiny_model, "a cat", *EACH).exit_code == 0
    source.write_bytes(b"no picture")
    assert explain(source, tiny_model, "a cat", *EACH).exit_code == 1
    (line,) = lines(folder.parent / "out")
    assert line["error"]
    assert not list((folder.parent / "out").rglob("*.npy"))


def test_the_report_names_heads_and_marks_none_of_them(folder: Path, tiny_model: str) -> None:
    output = folder.parent / "out"
    explain(folder, tiny_model, "a cat", *EACH)
    page = contact_sheet(output)
    assert "heads each" in page
    for head in (0, 1):
        assert page.count(f"<strong>a cat, head {head}</strong>") == 2
        assert f"Heatmap of a cat, head {head} over the picture" in page
    assert 'class="best"' not in page
    explain(folder, tiny_model, "a cat", "a dog")
    assert contact_sheet(output).count('class="best"') == 2
