"""Folders of pictures are explained without a server, and a report page shows the results."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from legrad_engine import Explainer
from service.cli import app
from tests.support.pictures import encoded, picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures: one in a subfolder, two with the same stem, one broken."""
    pictures = tmp_path / "pictures"
    (pictures / "more").mkdir(parents=True)
    (pictures / ".hidden").mkdir()
    for number, name in enumerate(("a.png", "a.jpg", "b.png", "more/c.webp", ".hidden/d.png")):
        kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[name.rpartition(".")[2]]
        content = encoded(picture(90 + 10 * number, 60, seed=number), kind)
        (pictures / name).write_bytes(content)
    (pictures / "broken.png").write_bytes(b"no picture")
    return pictures


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def lines(output: Path) -> list[dict[str, Any]]:
    text = (output / "manifest.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_becomes_overlays_maps_and_a_manifest(
    folder: Path, tiny_model: str, tmp_path: Path
) -> None:
    output, prompts = tmp_path / "out", tmp_path / "prompts.txt"
    prompts.write_text("# what to look for\na cat\n\n  a dog  \na cat\n")
    done = run("explain", folder, "--prompts", prompts, "-o", output, "--model", tiny_model)
    assert done.exit_code == 1
    assert "broken.png" in done.stderr
    assert "4 explained, 1 failed" in done.stdout
    found = lines(output)
    good = [line for line in found if line["error"] is None]
    assert {line["overlay"] for line in good} == {
        f"{stem}-a-{animal}.png"
        for stem in ("a.png", "a.jpg", "b", "more/c")
        for animal in ("cat", "dog")
    }
    (failed,) = (line for line in found if line["error"] is not None)
    assert failed["picture"] == "../pictures/broken.png"
    config, _, weights = tiny_model.partition("@")
    explainer = Explainer.load(config, weights)
    for line in good:
        (alone,) = explainer.explain(output / line["picture"], ["a cat", "a dog"])
        index = ["a cat", "a dog"].index(line["prompt"])
        raw = np.load(output / line["heatmap"])
        np.testing.assert_allclose(raw, alone.maps[index], rtol=1e-3, atol=1e-9)
        assert line["similarity"] == pytest.approx(alone.similarities[index], abs=1e-5)
        assert line["probability"] == pytest.approx(alone.probabilities[index], abs=1e-4)
        assert line["peak"] == pytest.approx(raw.max())


def test_it_goes_on_where_it_ended_and_tries_failures_again(
    folder: Path, tiny_model: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"

    def explain() -> Result:
        return run("explain", folder, "a cat", "-o", output, "--model", tiny_model)

    assert explain().exit_code == 1
    kept = (output / "b-a-cat.png").stat().st_mtime_ns
    # One picture changes, one explanation is lost, one picture is repaired, the last line is cut.
    (folder / "a.png").write_bytes(encoded(picture(120, 60, seed=9)))
    (output / "more" / "c-a-cat.npy").unlink()
    (folder / "broken.png").write_bytes(encoded(picture(seed=8)))
    with (output / "manifest.jsonl").open("a") as manifest:
        manifest.write('{"picture": "../pict')
    again = explain()
    assert again.exit_code == 0, again.output
    assert "3 explained, 2 done before" in again.stdout
    assert (output / "b-a-cat.png").stat().st_mtime_ns == kept
    found = lines(output)
    assert len(found) == len({line["overlay"] for line in found}) + 1  # a.png was replaced
    assert "0 explained, 5 done before" in explain().stdout
    assert len(lines(output)) == 5


def test_explanations_below_their_own_pictures_are_not_explained(
    folder: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broken.png").unlink()
    monkeypatch.chdir(folder)
    for source, said in ((".", "4 explained"), (folder, "0 explained, 4 done before")):
        done = run("explain", source, "a cat", "--model", tiny_model)
        assert done.exit_code == 0, done.output
        assert said in done.stdout
    refused = run("explain", ".", "a cat", "-o", folder, "--model", tiny_model)
    assert refused.exit_code == 2
    assert "folder of their own" in refused.output


def test_another_question_is_another_explanation(
    folder: Path, tiny_model: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    source = folder / "b.png"
    for prompts in (["a cat"], ["a cat", "a dog"]):
        assert run("explain", source, *prompts, "-o", output, "--model", tiny_model).exit_code == 0
    assert run("explain", source, "a cat", "a dog", "-o", output, "--model", tiny_model,
               "--layers", "all").exit_code == 0  # fmt: skip
    final = {line["prompt"]: line for line in lines(output)}
    assert final["a cat"]["layers"] == final["a dog"]["layers"] == [0, 1, 2]


def test_prompts_that_look_alike_have_files_of_their_own(
    folder: Path, tiny_model: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    run("explain", folder / "b.png", "a cat", "a cat!", "?", "-o", output, "--model", tiny_model)
    assert [line["overlay"] for line in lines(output)] == [
        "b-a-cat.png",
        "b-a-cat-2.png",
        "b-prompt.png",
    ]


def test_pictures_that_do_not_fit_in_memory_together_are_explained_in_parts(
    folder: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, sizes = Explainer.trace, []

    def limited(self: Explainer, images: Any, **options: Any) -> Any:
        sizes.append(len(images))
        if len(images) > 1:
            raise MemoryError
        return trace(self, images, **options)

    monkeypatch.setattr(Explainer, "trace", limited)
    (folder / "broken.png").unlink()
    done = run("explain", folder, "a cat", "-o", tmp_path / "out", "--model", tiny_model)
    assert done.exit_code == 0, done.output
    assert sizes[0] == 4
    assert "4 explained" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        ((), "give a prompt"),
        (("--prompts", "missing.txt"), "missing.txt"),
        (("a cat", "--size", "63"), "63"),
        (("a cat", "--layers", "99"), "99"),
        (("",), "empty"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_before_anything_is_written(
    folder: Path, tiny_model: str, tmp_path: Path, arguments: tuple[str, ...], mention: str
) -> None:
    output = tmp_path / "out"
    done = run("explain", folder, *arguments, "-o", output, "--model", tiny_model)
    assert done.exit_code == 2
    assert mention in done.output
    assert not output.exists()


def test_the_report_is_one_page_that_needs_nothing_else(
    folder: Path, tiny_model: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    prompts = ["a cat", "<script>alert(1)</script>"]
    run("explain", folder, *prompts, "-o", output, "--model", tiny_model)
    (folder / "b.png").unlink()
    done = run("report", output)
    assert done.exit_code == 0, done.output
    page = (output / "report.html").read_text()
    assert page.count("data:image/webp;base64,") == 4 * len(prompts) + 3
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "Not explained" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert not (tmp_path / "elsewhere.html").exists()
    assert run("report", output, "-o", tmp_path / "elsewhere.html").exit_code == 0
    assert (tmp_path / "elsewhere.html").read_text() == page


@pytest.mark.parametrize("content", [None, "", "nonsense\nmore\n"])
def test_a_folder_without_explanations_has_no_report(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.jsonl").write_text(content)
    done = run("report", tmp_path)
    assert done.exit_code == 2
    assert str(tmp_path) in done.output.replace("\n", "")
    assert not (tmp_path / "report.html").exists()
