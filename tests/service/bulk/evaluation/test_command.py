"""`legrad evaluate` on every data set: figures, failures, and resuming."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from legrad_engine.evaluation.registry import data_sets, protocols
from service.bulk.evaluation import run as evaluation_run
from service.bulk.evaluation.journal import Journal, JournalError
from service.cli import app
from tests.support.evaluation_data import SYNSETS, WRITERS, save_array, save_picture

PROTOCOLS = {
    "imagenet-s": "segmentation,wrong-prompt,localisation",
    "gtsegs": "segmentation",
    "imagenet": "perturbation",
    "openimages-points": "open-vocabulary",
    "voc": "segmentation,wrong-prompt,localisation",
    "ade20k": "segmentation",
    "coco": "segmentation,localisation",
    "folder": "segmentation,faithfulness,insertion-deletion",
}

# Faithfulness takes a hundred forward passes for each sample and method.
LIMITS = {"folder": 1}


def run(*arguments: str | int | Path) -> Result:
    # The text tower of the tiny model is too short for long names in a template.
    return CliRunner().invoke(app, ["evaluate", "--template", "{}", *map(str, arguments)])


def results(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "results.json").read_text())
    return content


def figures(output: Path) -> dict[tuple[str, str, str], float | None]:
    return {
        (protocol["name"], method["method"], figure["name"]): figure["value"]
        for protocol in results(output)["protocols"]
        for method in protocol["methods"]
        for figure in method["figures"]
    }


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "journal.jsonl").read_text().splitlines()]


def test_every_protocol_is_run_here() -> None:
    assert set(protocols()) == {name for each in PROTOCOLS.values() for name in each.split(",")}


@pytest.mark.parametrize("kind", WRITERS)
def test_each_data_set_gives_json_and_markdown(kind: str, tiny_model: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    reference = WRITERS[kind](tmp_path / "data")
    done = run(
        tiny_model, reference, "--protocol", PROTOCOLS[kind], "--method", "legrad,random",
        "--limit", LIMITS.get(kind, 10), "-o", output,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = results(output)
    assert [each["name"] for each in found["protocols"]] == PROTOCOLS[kind].split(",")
    for protocol in found["protocols"]:
        assert protocol["conventions"]
        assert [each["method"] for each in protocol["methods"]] == ["legrad", "random"]
        for method in protocol["methods"]:
            assert method["failed"] == {}
            assert method["measured"] + method["empty"] == found["data"]["samples"]
            for figure in method["figures"]:
                # SaCo, cosines and gains may be negative.
                may_be_negative = protocol["name"] in ("faithfulness", "insertion-deletion")
                if figure["better"] and figure["value"] is not None and not may_be_negative:
                    assert 0 <= figure["value"] <= 1
    text = (output / "results.md").read_text()
    assert "| Figure | legrad | random |" in text
    assert text in done.stdout


def test_methods_of_the_model_are_measured_side_by_side(tiny_model: str, tmp_path: Path) -> None:
    reference, output = WRITERS["folder"](tmp_path / "data"), tmp_path / "out"
    methods = ["legrad", "raw-attention", "rollout", "centre"]
    done = run(
        tiny_model, reference, "--protocol", "segmentation", "--method", ",".join(methods),
        "-o", output,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = figures(output)
    assert len({found["segmentation", method, "mAP"] for method in methods}) == 4


def test_a_second_run_measures_nothing_and_needs_no_model(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, output = WRITERS["folder"](tmp_path / "data"), tmp_path / "out"
    arguments = (tiny_model, reference, "--protocol", "segmentation", "-o", output)
    assert run(*arguments).exit_code == 0
    first, kept = (output / "results.json").read_bytes(), lines(output)
    monkeypatch.setattr("service.bulk.evaluation.command._load", None)
    again = run(*arguments)
    assert again.exit_code == 0, again.output
    assert "0 measured, 3 done before" in again.stdout
    assert (output / "results.json").read_bytes() == first
    assert lines(output) == kept


def test_results_belong_to_weights_options_and_the_content_of_files(
    tiny_model: str, tmp_path: Path
) -> None:
    reference, output = WRITERS["folder"](tmp_path / "data"), tmp_path / "out"
    arguments = (tiny_model, reference, "--protocol", "segmentation", "-o", output)
    assert "3 measured" in run(*arguments).stdout
    save_picture(tmp_path / "data" / "pictures" / "1.jpg", 2)
    changed = run(*arguments)
    assert "1 measured, 2 done before" in changed.stdout
    assert "3 measured" in run(*arguments, "--layers", "1").stdout
    assert "3 measured" in run(*arguments, "--method", "centre").stdout
    # Another method beside a known one: only that one is computed.
    assert "3 measured" in run(*arguments, "--method", "legrad,random").stdout
    runs = [line["run"] for line in lines(output)]
    assert sorted(runs.count(each) for each in set(runs)) == [3, 3, 3, 3]


def test_an_interrupted_run_goes_on_where_it_ended_with_the_same_figures(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = WRITERS["folder"](tmp_path / "data")
    arguments = (tiny_model, reference, "--protocol", "segmentation", "--method", "random,legrad")
    assert run(*arguments, "-o", tmp_path / "whole").exit_code == 0
    monkeypatch.setattr(evaluation_run, "BATCH", 1)
    measure, calls = evaluation_run.Evaluation._measure, []

    def interrupted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*given)

    with monkeypatch.context() as patched:
        patched.setattr(evaluation_run.Evaluation, "_measure", interrupted)
        stopped = run(*arguments, "-o", tmp_path / "out")
    assert stopped.exit_code == 130
    assert "1 samples are measured" in stopped.stderr
    # A killed process leaves its last line incomplete.
    with (tmp_path / "out" / "journal.jsonl").open("a") as journal:
        journal.write('{"run": "12')
    resumed = run(*arguments, "-o", tmp_path / "out")
    assert resumed.exit_code == 0, resumed.output
    assert "2 measured, 1 done before" in resumed.stdout
    assert figures(tmp_path / "out") == pytest.approx(figures(tmp_path / "whole"))


def test_damaged_samples_are_recorded_and_tried_again(tiny_model: str, tmp_path: Path) -> None:
    reference, output = WRITERS["voc"](tmp_path / "data"), tmp_path / "out"
    mask = tmp_path / "data" / "SegmentationClass" / "2007_000033.png"
    good = mask.read_bytes()
    mask.write_bytes(b"no mask")
    arguments = (tiny_model, reference, "--protocol", "segmentation", "-o", output)
    failed = run(*arguments)
    assert failed.exit_code == 1
    assert "2007_000033.png" in failed.stderr
    assert "1 measured, 1 failed" in failed.stdout
    (method,) = results(output)["protocols"][0]["methods"]
    assert method["measured"] == 1
    assert list(method["failed"]) == ["2007_000033"]
    mask.unlink()
    assert "There is no file" in run(*arguments).output
    mask.write_bytes(good)
    mended = run(*arguments)
    assert mended.exit_code == 0
    assert "1 measured, 1 done before" in mended.stdout


def test_a_mask_of_another_size_is_recorded_and_tried_again(
    tiny_model: str, tmp_path: Path
) -> None:
    reference, output = WRITERS["folder"](tmp_path / "data"), tmp_path / "out"
    mask = tmp_path / "data" / "masks" / "0.png"
    good = mask.read_bytes()
    save_array(mask, np.full((16, 24), 255, np.uint8))
    arguments = (tiny_model, reference, "--protocol", "segmentation", "-o", output)
    failed = run(*arguments)
    assert failed.exit_code == 1
    assert "0.png has 24 x 16 pixels, but its picture has 48 x 32" in failed.stderr
    assert "2 measured, 1 failed" in failed.stdout
    (error,) = (line["error"] for line in lines(output) if line["sample"] == "pictures/0.jpg")
    assert "24 x 16" in error
    (method,) = results(output)["protocols"][0]["methods"]
    assert (method["measured"], list(method["failed"])) == (2, ["pictures/0.jpg"])
    mask.write_bytes(good)
    mended = run(*arguments)
    assert mended.exit_code == 0, mended.output
    assert "1 measured, 2 done before" in mended.stdout
    assert results(output)["protocols"][0]["methods"][0]["failed"] == {}


@pytest.mark.parametrize("kind", ["folder", "voc", "imagenet"])
def test_a_data_set_without_samples_or_classes_is_refused(
    kind: str, tiny_model: str, tmp_path: Path
) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    reference = WRITERS[kind](data)
    if kind == "folder":
        (data / "prompts.csv").write_text("picture,prompt,mask\n")
    elif kind == "voc":
        (data / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    else:
        for path in data.rglob("*.JPEG"):
            path.unlink()
    done = run(tiny_model, reference, "--protocol", PROTOCOLS[kind].partition(",")[0], "-o", output)
    assert done.exit_code == 2
    assert f"{reference} has no sample or no class." in done.stderr
    assert not output.exists()


def test_a_limit_spreads_samples_over_the_data_set(tiny_model: str, tmp_path: Path) -> None:
    reference, output = WRITERS["imagenet-s"](tmp_path / "data"), tmp_path / "out"
    done = run(tiny_model, reference, "--protocol", "segmentation", "--limit", "2", "-o", output)
    assert done.exit_code == 0, done.output
    assert [line["sample"].partition("/")[0] for line in lines(output)] == list(SYNSETS[:2])
    assert "2 samples (of 3)" in done.stdout


@pytest.mark.parametrize(
    ("kind", "arguments", "mention"),
    [
        ("imagenet", ("--protocol", "segmentation"), "needs masks; ImageNet folder has class"),
        ("voc", ("--protocol", "everything"), "use one of faithfulness, insertion-deletion"),
        ("voc", ("--protocol", "segmentation", "--method", "magic"), "magic"),
        ("voc", ("--protocol", "segmentation", "--method", "legrad,bcos"),
         "method='bcos' is not offered by this model: it needs a model of B-cos units"),
        ("voc", ("--protocol", "segmentation", "--split", "nothing"), "nothing.txt"),
        ("voc", ("--protocol", "segmentation", "--layers", "99"), "99"),
        ("voc", ("--protocol", "segmentation", "--limit", "0"), "limit=0"),
        ("voc", ("--protocol", "segmentation,segmentation"), "given twice"),
        ("voc", ("--protocol", "segmentation", "--template", "no place"), "exactly one"),
        ("voc", ("--protocol", "faithfulness", "--template", "one two three four five six seven "
         "eight nine ten eleven twelve thirteen fourteen {}"), "shorten it"),
    ],
)  # fmt: skip
def test_a_wrong_question_is_refused_before_anything_is_written(
    kind: str, arguments: tuple[str, ...], mention: str, tiny_model: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    done = run(tiny_model, WRITERS[kind](tmp_path / "data"), *arguments, "-o", output)
    assert done.exit_code == 2, done.output
    assert mention in done.stderr
    assert not output.exists()


def test_two_runs_do_not_write_into_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path) as first, Journal(tmp_path) as second:
        first.append([])
        with pytest.raises(JournalError, match="Another run"):
            second.append([])


def test_a_damaged_journal_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("damaged\n{}\n")
    with pytest.raises(JournalError, match="Line 1"):
        Journal(tmp_path)


def test_published_figures_stand_beside_ours(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model under the name of the paper's: its figures are not the paper's."""
    from legrad_engine.evaluation import published

    renamed = tuple(
        published.Published(tiny_model, *(getattr(each, name) for name in each.__slots__[1:]))
        for each in published.PUBLISHED
    )
    monkeypatch.setattr(published, "PUBLISHED", renamed)
    reference, output = WRITERS["gtsegs"](tmp_path / "data"), tmp_path / "out"
    source = "LeGrad, arXiv 2404.03214"
    for others, told in (
        ((), f"{source} |"),
        (("--template", "{}"), f"{source} (with other options or samples) |"),
        (("--layers", "1"), f"{source} (with other options"),
        (("--limit", "1"), f"{source} (with other options"),
    ):
        command = [tiny_model, reference, "--protocol", "segmentation", "-o", output, *others]
        done = CliRunner().invoke(app, ["evaluate", *map(str, command)])
        assert done.exit_code == 0, done.output
        text = (output / "results.md").read_text()
        assert f"| Figure | legrad | legrad, {told}" in text
        for value in ("77.52", "58.66", "82.49"):
            assert value in text


def test_the_command_line_stays_fast() -> None:
    """Help needs neither torch nor NumPy."""
    program = (
        "import sys; from service.cli import app; "
        "print([name for name in ('torch', 'numpy', 'h5py', 'PIL') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_prompts_of_a_folder_are_used_as_they_are(tiny_model: str, tmp_path: Path) -> None:
    reference, output = WRITERS["folder"](tmp_path / "data"), tmp_path / "out"
    done = CliRunner().invoke(
        app,
        ["evaluate", tiny_model, reference, "--protocol", "segmentation", "-o", str(output)],
    )
    assert done.exit_code == 0, done.output
    assert results(output)["options"]["templates"] == ["{}"]
    others = {kind: each.template for kind, each in data_sets().items() if kind != "folder"}
    assert set(others.values()) == {"a photo of a {}"}
