"""Folders of pictures are explained without a server, and a report page shows the results."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from legrad_engine import Explainer
from service.bulk import computing
from service.bulk.manifest import Manifest, read
from service.bulk.report import contact_sheet
from service.cli import app
from tests.support.pictures import encoded, picture
from tests.support.tiny_model import save_model


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode exactly, as the engine does, so that results are equal to its own."""
    rules = replace(computing._PICTURES, decoding="exact")
    monkeypatch.setattr(computing, "_PICTURES", rules)


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


def below_question(lines: list[dict[str, Any]]) -> set[str]:
    """Return the overlays of manifest lines, without the folder of their question."""
    return {line["overlay"].partition("/")[2] for line in lines}


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
    assert below_question(good) == {
        f"{stem}-a-{animal}.jpg"
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
    (question,) = (path for path in output.iterdir() if path.is_dir())
    kept = (question / "b-a-cat.jpg").stat().st_mtime_ns
    # One picture changes, one explanation is lost, one picture is repaired, the last line is cut.
    (folder / "a.png").write_bytes(encoded(picture(120, 60, seed=9)))
    (question / "more" / "c-a-cat.npy").unlink()
    (folder / "broken.png").write_bytes(encoded(picture(seed=8)))
    with (output / "manifest.jsonl").open("a") as manifest:
        manifest.write('{"picture": "../pict')
    again = explain()
    assert again.exit_code == 0, again.output
    assert "3 explained, 2 done before" in again.stdout
    assert (question / "b-a-cat.jpg").stat().st_mtime_ns == kept
    found = lines(output)
    assert len(found) == len({line["overlay"] for line in found}) == 5
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


def test_overlays_have_the_chosen_format(folder: Path, tiny_model: str, tmp_path: Path) -> None:
    output, source = tmp_path / "out", folder / "b.png"

    def explain(*arguments: str) -> tuple[Path, str]:
        done = run("explain", source, "a cat", "-o", output, "--model", tiny_model, *arguments)
        assert done.exit_code == 0, done.output
        return output / lines(output)[-1]["overlay"], done.stdout

    small, _ = explain("--quality", "20")
    kinds = {"jpeg": "JPEG", "webp": "WEBP", "png": "PNG"}
    paths = {name: explain("--format", name)[0] for name in kinds}
    for name, path in paths.items():
        with Image.open(path) as overlay:
            assert (overlay.format, overlay.size) == (kinds[name], (110, 60))
            assert Image.registered_extensions()[path.suffix] == kinds[name]
    assert small.stat().st_size < paths["jpeg"].stat().st_size
    _, said = explain()
    assert "0 explained, 1 done before" in said
    # Quality means nothing for PNG.
    _, said = explain("--format", "png", "--quality", "20")
    assert "0 explained, 1 done before" in said
    assert run("explain", source, "a cat", "--quality", "101").exit_code == 2
    assert run("explain", source, "a cat", "--format", "gif").exit_code == 2


def test_results_of_another_question_are_kept_apart(
    folder: Path, tiny_model: str, tmp_path: Path
) -> None:
    output, source = tmp_path / "out", folder / "b.png"
    questions: list[list[str]] = [
        ["a cat"],
        ["a cat", "a dog"],
        ["a cat", "--layers", "all"],
        ["a cat", "--score", "cls"],
        ["a cat", "--method", "rollout"],
        ["a cat", "--size", "96"],
        ["a cat", "--fit", "pad"],
        ["a cat", "--format", "webp"],
        ["a cat", "--format", "webp", "--quality", "20"],
        ["a cat", "--model", "starter"],
    ]
    config, _, weights = tiny_model.partition("@")
    for arguments in questions:
        done = run("explain", source, "-o", output, "--model", tiny_model, *arguments)
        assert done.exit_code == 0, done.output
    found = lines(output)
    assert len(found) == len({line["heatmap"] for line in found}) == len(questions) + 1
    explainer = Explainer.load(config, weights)
    options = {"method": "rollout", "layers": (0, 1, 2), "score": "cls", "size": 96, "fit": "pad"}
    for line in found:
        chosen: dict[str, Any] = {name: line[name] for name in options}
        chooser = explainer if line["model"] == tiny_model else Explainer.load("starter")
        prompts = [each["prompt"] for each in found if each["question"] == line["question"]]
        (alone,) = chooser.explain(source, prompts, **chosen)
        raw = np.load(output / line["heatmap"])
        np.testing.assert_allclose(
            raw, alone.maps[prompts.index(line["prompt"])], rtol=1e-3, atol=1e-9
        )
        assert line["probability"] == pytest.approx(
            alone.probabilities[prompts.index(line["prompt"])], abs=1e-4
        )
    # All of them again: nothing is left to do, whatever was asked in between.
    again = run("explain", source, "-o", output, "--model", tiny_model, *questions[0])
    assert "0 explained, 1 done before" in again.stdout
    page = contact_sheet(output)
    assert "1 of 1 picture, 2 prompts" in page
    assert page.count("<h2") == len(questions)


def test_a_method_is_refused_in_one_line_and_an_untargeted_one_says_so(
    folder: Path, tiny_model: str, tmp_path: Path
) -> None:
    asked = ("explain", folder / "b.png", "a cat", "a dog", "-o", tmp_path / "out")
    refused = run(*asked, "--model", tiny_model, "--method", "gradcan")
    assert refused.exit_code == 2
    assert "method='gradcan' is unknown" in refused.output
    done = run(*asked, "--model", tiny_model, "--method", "rollout")
    assert done.exit_code == 0, done.output
    assert "Attention rollout gives all prompts of a picture the same map." in done.output
    one, other = (np.load(tmp_path / "out" / each["heatmap"]) for each in lines(tmp_path / "out"))
    assert np.array_equal(one, other)


def test_results_do_not_outlive_the_weights_that_computed_them(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    reference = save_model(tmp_path, "tuned")
    config, _, weights = reference.partition("@")
    arguments = ("explain", folder / "b.png", "a cat", "-o", output, "--model", reference)
    assert run(*arguments).exit_code == 0
    tensors = load_file(weights)
    tensors["visual.proj"] = tensors["visual.proj"].flip(0)
    save_file(tensors, weights)
    assert run(*arguments).exit_code == 0
    first, second = lines(output)
    (alone,) = Explainer.load(config, weights).explain(folder / "b.png", ["a cat"])
    assert second["similarity"] == pytest.approx(alone.similarities[0], abs=1e-5)
    assert first["similarity"] != pytest.approx(alone.similarities[0], abs=1e-2)
    assert first["heatmap"] != second["heatmap"]
    assert first["weights"] != second["weights"]
    assert "0 explained, 1 done before" in run(*arguments).stdout


def test_a_config_beside_the_weights_belongs_to_the_question(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    reference = save_model(tmp_path, "tuned")
    arguments = ("explain", folder / "b.png", "a cat", "-o", output, "--model", reference)
    assert run(*arguments).exit_code == 0
    config = Path(reference.partition("@")[0])
    config.write_text(config.read_text().replace('"layers": 3', '"layers": 2'))
    assert run(*arguments).exit_code == 2
    assert len(lines(output)) == 1


def test_weights_that_change_while_they_are_read_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = save_model(tmp_path, "tuned")
    weights = Path(reference.partition("@")[2])
    load = Explainer.load

    def load_and_overwrite(*arguments: Any, **options: Any) -> Explainer:
        explainer = load(*arguments, **options)
        weights.write_bytes(weights.read_bytes())
        return explainer

    monkeypatch.setattr(Explainer, "load", load_and_overwrite)
    output = tmp_path / "out"
    done = run("explain", folder / "b.png", "a cat", "-o", output, "--model", reference)
    assert done.exit_code == 2
    assert "changed while they were read" in done.output
    assert not output.exists()


def test_pictures_of_one_name_never_share_a_file(tiny_model: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    names = ("one/cat.png", "two/cat.png", "one/cat.jpg", "three/cat-big.png")
    for number, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture(90, 60, seed=number), "PNG"))
    # "big" with "cat-big.png" and "big big" with "cat.png" would have the same file names.
    for name in names:
        done = run(
            "explain", tmp_path / name, "big", "big big", "-o", output, "--model", tiny_model
        )
        assert done.exit_code == 0, done.output
    found = lines(output)
    assert len({line["heatmap"] for line in found}) == 2 * len(names)
    config, _, weights = tiny_model.partition("@")
    explainer = Explainer.load(config, weights)
    for line in found:
        (alone,) = explainer.explain(output / line["picture"], [line["prompt"]])
        np.testing.assert_allclose(
            np.load(output / line["heatmap"]), alone.maps[0], rtol=1e-3, atol=1e-9
        )


def test_a_picture_that_breaks_loses_its_results(tiny_model: str, tmp_path: Path) -> None:
    output, source = tmp_path / "out", tmp_path / "cat.png"
    source.write_bytes(encoded(picture(90, 60)))
    arguments = ("explain", source, "a cat", "-o", output, "--model", tiny_model)
    assert run(*arguments).exit_code == 0
    source.write_bytes(b"no picture")
    assert run(*arguments).exit_code == 1
    (line,) = lines(output)
    page = contact_sheet(output)
    assert line["error"]
    assert "Not explained" in page
    assert "0 of 1 picture" in page
    assert not list(output.rglob("*.npy"))


def test_a_manifest_of_an_earlier_version_is_read_without_its_overwritten_results(
    tmp_path: Path,
) -> None:
    (tmp_path / "cat-a-cat.png").write_bytes(encoded(picture(90, 60)))
    (tmp_path / "cat-a-cat.npy").write_bytes(b"")
    for question, similarity in (("old", 0.1), ("new", 0.2)):
        line = {"picture": "../cat.png", "digest": "d", "question": question, "model": "starter",
                "prompt": "a cat", "overlay": "cat-a-cat.png", "heatmap": "cat-a-cat.npy",
                "similarity": similarity}  # fmt: skip
        with (tmp_path / "manifest.jsonl").open("a") as manifest:
            manifest.write(json.dumps(line) + "\n")
    (entry,) = read(tmp_path / "manifest.jsonl")
    assert entry.similarity == 0.2


def test_two_runs_do_not_write_into_one_folder_at_once(
    folder: Path, tiny_model: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = ("explain", folder / "b.png", "a cat", "-o", output, "--model", tiny_model)
    assert run(*arguments).exit_code == 0
    (entry,) = read(output / "manifest.jsonl")
    with Manifest(output) as other:
        other.append([entry])
        refused = run(*arguments, "--layers", "1")
        assert refused.exit_code == 2
        assert "Another run writes into" in refused.output
        # Nothing is written by a run with nothing left to do.
        assert run(*arguments).exit_code == 0
    assert run(*arguments, "--layers", "1").exit_code == 0
    assert len(lines(output)) == 2


def test_a_run_with_nothing_left_to_do_needs_no_model(
    folder: Path, tiny_model: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    (folder / "broken.png").unlink()
    arguments = ["explain", str(folder), "a cat", "-o", str(output), "--model", tiny_model]
    assert run(*arguments).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    program = (
        "import sys; from typer.testing import CliRunner; from service.cli import app\n"
        f"result = CliRunner().invoke(app, {arguments!r})\n"
        "heavy = {'torch', 'open_clip', 'numpy', 'PIL', 'rich'}\n"
        "print(result.exit_code, sorted(heavy & set(sys.modules)))\n"
        "print(result.stdout)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("0 []\n0 explained, 4 done before"), done.stdout + done.stderr
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_prompts_that_look_alike_have_files_of_their_own(
    folder: Path, tiny_model: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    prompts = ("a cat", "a cat!", "a cat 2", "?", "A CAT 2", "a-cat-2-2")
    run("explain", folder / "b.png", *prompts, "-o", output, "--model", tiny_model)
    assert {line["prompt"]: line["overlay"].partition("/")[2] for line in lines(output)} == {
        "a cat": "b-a-cat.jpg",
        "a cat!": "b-a-cat-2.jpg",
        "a cat 2": "b-a-cat-2-2.jpg",
        "?": "b-prompt.jpg",
        "A CAT 2": "b-a-cat-2-3.jpg",
        "a-cat-2-2": "b-a-cat-2-2-2.jpg",
    }
    again = run("explain", folder / "b.png", *prompts, "-o", output, "--model", tiny_model)
    assert "0 explained, 1 done before" in again.stdout


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
